"""Servers as a shop has them: PostgreSQL, S3, MLflow with users behind TLS, Prefect with a
password.

All on loopback. PostgreSQL runs as an ordinary user of the system, for it refuses to be root.
"""

import asyncio
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import boto3
import psycopg2
import pytest
import trustme
from moto.server import ThreadedMotoServer

from tests.integration.servers import free_ports, request, wait_for

HOST = "127.0.0.1"
SECRET = "shop-secret"
BUCKET = "models"
DATABASES = ("prefect", "mlflow", "users")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
USERS = """
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@contextmanager
def background(
    command: Sequence[str], log: Path, environment: Mapping[str, str], cwd: Path
) -> Iterator[None]:
    """Run a command for the block, with its group killed in the end."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(environment),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def postgres_programs() -> Path:
    """The folder of Debian's newest PostgreSQL; skips where there is none or nobody to run it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to run PostgreSQL as another user than root")
    return found[-1].parent


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL of its own for the block; yield user, password, host and port of its URL."""
    programs, (port,) = postgres_programs(), free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="commerce-clip-postgres-"))
    data, password, as_user = folder / "data", folder / "password", list[str]()
    password.write_text(SECRET)
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        for path in (folder, password):
            os.chown(path, user.pw_uid, user.pw_gid)

    initdb = [f"{programs}/initdb", f"--pgdata={data}", "--username=shop", f"--pwfile={password}"]
    start = [f"{programs}/postgres", "-D", data, "-h", HOST, "-p", str(port), "-k", folder]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            [*as_user, *initdb, "--auth=scram-sha-256"],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        command = [*as_user, *map(str, start)]
        with background(command, folder / "postgres.log", environment, folder):
            wait_for(lambda: make_databases(port), "PostgreSQL", 60)
            yield f"shop:{SECRET}@{HOST}:{port}"
    finally:
        shutil.rmtree(folder)


def make_databases(port: int) -> bool:
    """Whether the server answered and has the databases."""
    try:
        connection = psycopg2.connect(
            host=HOST, port=port, user="shop", password=SECRET, dbname="postgres"
        )
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in DATABASES:
            cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    return True


@contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """Run an S3 server with an empty bucket; yield the variables by which MLflow finds it."""
    server = ThreadedMotoServer(ip_address=HOST, port=0)
    server.start()
    host, port = server.get_host_and_port()
    found = CREDENTIALS | {"MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}"}
    try:
        client(found).create_bucket(Bucket=BUCKET)
        yield found
    finally:
        server.stop()


def client(found: Mapping[str, str]) -> "boto3.client":
    """A client of the S3 server."""
    return boto3.client(
        "s3",
        endpoint_url=found["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
        region_name=found["AWS_DEFAULT_REGION"],
    )


@contextmanager
def tls_proxy(backend: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """Pass bytes on to a port, TLS in front; yield its address and the certificate to trust."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    (port,) = free_ports(1)
    loop = asyncio.new_event_loop()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(HOST, backend)
        with suppress(asyncio.CancelledError):  # when the proxy ends
            await asyncio.gather(pipe(reader, downstream), pipe(upstream, writer))

    server = loop.run_until_complete(asyncio.start_server(handle, HOST, port, ssl=context))
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{port}", trusted
    finally:
        server.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()


@contextmanager
def mlflow_server(
    folder: Path, database: str, store: Mapping[str, str], environment: Mapping[str, str]
) -> Iterator[int]:
    """Run MLflow with users on PostgreSQL and S3, artifacts by way of it; yield its port."""
    (port,) = free_ports(1)
    users = folder / "users.ini"
    users.write_text(USERS.format(database=f"postgresql://{database}/users"))
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        *("--workers", "1", "--app-name", "basic-auth"),
        *("--backend-store-uri", f"postgresql://{database}/mlflow"),
        *("--artifacts-destination", f"s3://{BUCKET}/mlflow"),
    ]
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_PASSWORD": f"{SECRET}-of-the-administrator",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRET,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with background(command, folder / "mlflow.log", {**environment, **store, **own}, folder):
        wait_for(lambda: answers(f"http://{HOST}:{port}/health"), "MLflow", 180)
        yield port


@contextmanager
def prefect_server(folder: Path, database: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Run Prefect with a password on PostgreSQL; yield the address of its API."""
    (port,) = free_ports(1)
    address = f"http://{HOST}:{port}/api"
    own = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_API_AUTH_STRING": f"shop:{SECRET}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}/prefect",
    }
    command = [sys.executable, *f"-m prefect server start --host {HOST} --port {port}".split()]
    with background(command, folder / "prefect.log", {**environment, **own}, folder):
        wait_for(lambda: answers(f"{address}/health"), "Prefect", 180)
        yield address


def answers(url: str) -> bool:
    """Whether a server answers."""
    with suppress(ValueError):  # MLflow's health is no JSON
        request(url)
    return True
