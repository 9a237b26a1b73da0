"""A worker as a person starts it: `prefect worker start` in an empty HOME, addresses and
credentials set, nothing else; and a record of every host name that it or its runs looked up."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.conftest import KEPT

POOL = "plain"
STOP_S = 90  # a hang: alone it takes 2 s, beside a training on the other core over 15
# Python imports this at its start, in every process that the worker starts, too.
RESOLVER = """
import os, socket

def recorded(name):
    original = getattr(socket, name)
    def look_up(host, *more, **named):
        host_text = host.decode() if isinstance(host, bytes) else str(host)
        if host_text not in ("None", "", "localhost") and not host_text.startswith(("127.", "::1")):
            with open(os.environ["LOOKED_UP"], "a") as file:
                print(host_text, file=file)
        return original(host, *more, **named)
    setattr(socket, name, look_up)

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
    recorded(name)
"""
# The flow of a test beside ours, deployed with the pull steps and the settings of ours.
SLOW = """
import time
from pathlib import Path
from prefect import flow
from flows.heartbeat import require_settings
from tasks.registry.tracking import EXPERIMENT, tracking_client

@flow(name="slow")
def slow(seconds: float, started: str) -> None:
    require_settings()
    tracking_client().get_experiment_by_name(EXPERIMENT)
    Path(started).touch()
    time.sleep(seconds)
"""
DEPLOY = f"""
import sys
from tasks.runtime.environment import prepare

prepare()
from prefect.client.orchestration import get_client
from flows.servers.deploy import create_pool

with get_client(sync_client=True) as client:
    create_pool(client, "{POOL}")
    made = client.create_deployment(
        flow_id=client.create_flow_from_name("slow"), name="{POOL}", work_pool_name="{POOL}",
        entrypoint="slow.py:slow", pull_steps=[{{"flows.stack.enter_checkout": {{}}}}],
    )
"""


@dataclass(frozen=True)
class PlainWorker:
    """A worker that runs, where it looks names up, and its log."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def looked_up(self) -> list[str]:
        """The host names that were looked up, loopback left out."""
        path = self.folder / "looked-up"
        return path.read_text().split() if path.exists() else []


@contextmanager
def plain_worker(
    folder: Path, project: Path, environment: Mapping[str, str], pool: str = POOL
) -> Iterator[PlainWorker]:
    """Start a worker in a project's folder, as `make setup` left it, and kill it in the end."""
    for name in ("home", "site"):
        (folder / name).mkdir(parents=True)
    (folder / "site" / "sitecustomize.py").write_text(RESOLVER)
    (project / "state").mkdir(exist_ok=True)
    own = {
        "HOME": str(folder / "home"),
        "PYTHONPATH": f"{folder / 'site'}{os.pathsep}{project}",
        "LOOKED_UP": str(folder / "looked-up"),
    }
    inherited = {name: os.environ[name] for name in KEPT if name in os.environ}
    with open(folder / "worker.log", "wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "prefect",
                "worker",
                "start",
                "--pool",
                pool,
                "--type",
                "process",
            ],
            cwd=project,
            env=inherited | dict(environment) | own,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield PlainWorker(process, folder)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
