"""An MLflow server with passwords and proxied artifacts, and proxies before it that count, slow
down, cut, delay, speak TLS or want a token."""

import asyncio
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ADMIN, PASSWORD = "keeper", "CANARY-of-the-keeper-1"
CHUNK = 1 << 16
REQUEST = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (\S+) HTTP/1\.1\r\n")


@dataclass(frozen=True)
class Server:
    """A server that is up."""

    address: str
    folder: Path

    def add_user(self, name: str) -> str:
        """Make a user with a password, which is returned."""
        password = f"CANARY-of-{name}-2"
        made = self.ask("users/create", username=name, password=password)
        assert made.is_success or "ALREADY_EXISTS" in made.text, made.text
        return password

    def grant(self, user: str, permission: str, kind: str, what: str) -> None:
        """Give a user a permission, in place of another, on an experiment's id or a model."""
        on = {"username": user, "resource_type": kind, "resource_id": what}
        self.ask("users/permissions/revoke", "3.0", **on)
        given = self.ask("users/permissions/grant", "3.0", permission=permission, **on)
        assert given.is_success, given.text

    def ask(self, path: str, version: str = "2.0", **body: str) -> httpx.Response:
        """Post as the administrator."""
        return httpx.post(
            f"{self.address}/api/{version}/mlflow/{path}",
            json=body,
            auth=(ADMIN, PASSWORD),
            timeout=60,
        )


@contextmanager
def mlflow_server(folder: Path) -> Iterator[Server]:
    """Start MLflow with passwords, as docs/security.md says, and stop it in the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 600\n",  # a check of a password takes 0.1 s
        encoding="utf-8",
    )
    command = [
        sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--app-name", "basic-auth",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "store"),
        "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1], "--workers", "1",
    ]  # fmt: skip
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret of the test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    inherited = {key: value for key, value in os.environ.items() if "MLFLOW_T" not in key}
    with (
        open(folder / "log", "wb") as log,
        subprocess.Popen(command, env=inherited | own, stdout=log, stderr=log) as process,
    ):
        try:
            _wait_for(address, process, folder / "log")
            yield Server(address, folder)
        finally:
            process.terminate()


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text(errors="replace")
        with suppress(httpx.HTTPError):
            if httpx.get(f"{address}/health", timeout=5).is_success:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace"))


@dataclass
class Way:
    """How a proxy treats what passes, and what has passed. It may be changed while it runs."""

    bytes_a_s: float = float("inf")
    cuts: list[int] = field(default_factory=list)  # of the next connections: after so many bytes
    delays: dict[str, float] = field(default_factory=dict)  # seconds before a reply, by path
    replaces: tuple[bytes, bytes] = (b"", b"")
    requests: list[tuple[str, str]] = field(default_factory=list)

    def besides_files(self) -> list[tuple[str, str]]:
        """The requests that are not about a file's bytes."""
        return [
            (method, path)
            for method, path in self.requests
            if "mlflow-artifacts/artifacts/" not in path
        ]


@contextmanager
def proxy(to: str, way: Way, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a proxy before a server; yield its address."""
    port, loop = int(to.rsplit(":", 1)[1]), asyncio.new_event_loop()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cut = way.cuts.pop(0) if way.cuts else None
        waiting: list[float] = []
        # Cancelled when the test ends.
        with closing(writer), suppress(asyncio.CancelledError):
            back, forth = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK)
            with closing(forth):
                pipes = (
                    _pump(reader, forth, way, cut, waiting, is_asking=True),
                    _pump(back, writer, way, cut, waiting, is_asking=False),
                )
                tasks = [asyncio.ensure_future(pipe) for pipe in pipes]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()

    async def serve() -> asyncio.Server:
        return await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=tls, limit=CHUNK)

    server = loop.run_until_complete(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    host = "https://localhost" if tls else "http://127.0.0.1"
    try:
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(_end(asyncio.all_tasks(loop)))
        loop.close()


async def _end(tasks: set["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.05)  # in which closed connections are let go


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    way: Way,
    cut: int | None,
    waiting: list[float],
    is_asking: bool,
) -> None:
    """Pass bytes on until the end or the cut, no faster than the way allows."""
    passed, due = 0, time.monotonic()
    with suppress(ConnectionError, ssl.SSLError):
        while content := await reader.read(CHUNK):
            if is_asking:
                content = content.replace(*way.replaces) if way.replaces[0] else content
                if asked := REQUEST.match(content):
                    path = asked[2].decode()
                    way.requests.append((asked[1].decode(), path))
                    waiting[:] = [s for part, s in way.delays.items() if part in path]
            elif waiting:
                await asyncio.sleep(waiting.pop())

            passed += len(content)
            if cut is not None and passed > cut:
                return
            due = max(due, time.monotonic() - 0.1) + len(content) / way.bytes_a_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            writer.write(content)
            await writer.drain()
