"""A stack of real servers that is up, and how tests talk to it."""

import base64
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

from flows.processes import load
from tasks.runtime.environment import ROOT
from tests.integration.conftest import Shell

PATIENCE_S = 600
CLIENT = "tests"
NO_HEADERS: Mapping[str, str] = {}
CHROMIUM = Path("/usr/bin/chromium")
QUIET_BROWSER = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking",
)  # fmt: skip
START = """
import sys
from flows import stack
from flows.servers.addresses import recorded_addresses

addresses = recorded_addresses()
commands = stack._servers(addresses) | {"worker": stack.WORKER}
stack._start(sys.argv[1], commands[sys.argv[1]], addresses)
"""


@dataclass(frozen=True)
class Stack:
    """A stack that is up, and how tests talk to it."""

    shell: Shell
    prefect: str
    mlflow: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that open both servers."""
        path = self.shell.state / "stack" / "addresses.json"
        found: dict[str, str] = json.loads(path.read_text())
        return found

    @property
    def login(self) -> dict[str, str]:
        """The header that opens both servers."""
        credentials = self.environment["PREFECT_API_AUTH_STRING"].encode()
        return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}

    def csrf(self) -> dict[str, str]:
        """The headers without which Prefect changes nothing."""
        token = request(f"{self.prefect}/api/csrf-token?client={CLIENT}", None, self.login)
        return {"Prefect-Csrf-Token": token["token"], "Prefect-Csrf-Client": CLIENT}

    def prefect_api(self, path: str, body: Any = None) -> Any:
        headers = self.login if body is None else self.login | self.csrf()
        return request(f"{self.prefect}/api/{path}", body, headers)

    def mlflow_api(self, path: str, **query: str) -> Any:
        url = f"{self.mlflow}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
        return request(url, None, self.login)

    def run_deployment(self, name: str, **parameters: str) -> "subprocess.CompletedProcess[str]":
        given = [
            text for key, value in parameters.items() for text in ("--param", f"{key}={value}")
        ]
        return self.shell.python("-m", "prefect", "deployment", "run", name, *given, "--watch")

    def start(self, deployment: str, *overrides: str) -> str:
        """Have a deployment run with overrides of its config, and return the id of the flow run."""
        found = self.prefect_api(f"deployments/name/{deployment}")
        wanted = {"parameters": {"overrides": overrides}, "state": {"type": "SCHEDULED"}}
        run: str = self.prefect_api(f"deployments/{found['id']}/create_flow_run", wanted)["id"]
        return run

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment but those that a schedule plans, first started first."""
        found = self.prefect_api(f"deployments/name/{deployment}")
        return self._flow_runs({"deployments": {"id": {"any_": [found["id"]]}}})

    def ended_by(self, state: str, deployment: str = "retrain/sample") -> dict[str, Any] | None:
        """The first run of a deployment that ended in a state, None where none did."""
        return next((run for run in self.runs_of(deployment) if run["state_type"] == state), None)

    def kill(self, name: str) -> None:
        """Kill a part, all that it started included, as a crash would."""
        for pid in self.processes(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self, name: str) -> list[int]:
        """The process of a part and all that it started, each before what it started."""
        process = load(self.shell.state / "stack" / f"{name}.json")
        assert process is not None
        return [
            process.pid,
            *(child.pid for child in psutil.Process(process.pid).children(recursive=True)),
        ]

    def start_again(self, name: str) -> None:
        """Start a part as `make up` did."""
        done = self.shell.python("-c", START, name)
        assert done.returncode == 0, done.stderr

    def flow_runs(self) -> list[dict[str, Any]]:
        """All flow runs but those that the schedule plans, first started first."""
        return self._flow_runs({})

    def _flow_runs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        runs = self.prefect_api("flow_runs/filter", wanted | {"sort": "START_TIME_ASC"})
        return [run for run in runs if run["state_type"] != "SCHEDULED"]


def wait_for(what: Callable[[], Any], why: str, patience_s: float = PATIENCE_S) -> Any:
    """Return what is waited for once it is true; a server that starts again does not answer yet."""
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up:
        with suppress(OSError):
            if found := what():
                return found
        time.sleep(0.5)
    raise AssertionError(f"waited in vain for {why}")


def request(url: str, body: Any = None, headers: Mapping[str, str] = NO_HEADERS) -> Any:
    """Ask a server; where its database is busy (503) ask again, as Prefect's own clients do."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    for pause_s in (1, 2, 4, 8, 16):
        try:
            return _reply(asked)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(pause_s)
    return _reply(asked)


def _reply(asked: urllib.request.Request) -> Any:
    with urllib.request.urlopen(asked, timeout=30) as reply:
        return json.load(reply)


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


@contextmanager
def running_stack(folder: Path, root: Path = ROOT, **more: str) -> Iterator[Stack]:
    """Start servers and worker for a checkout with a state folder of their own, and stop them in
    the end."""
    prefect, mlflow, pages = free_ports(3)
    ports = {
        "COMMERCE_CLIP_PREFECT_PORT": str(prefect),
        "COMMERCE_CLIP_MLFLOW_PORT": str(mlflow),
        "COMMERCE_CLIP_PAGES_PORT": str(pages),
    }
    # Elsewhere than in the repository's state/, so the profile that `up` writes has to be named.
    profiles = {
        "PREFECT_HOME": f"{folder}/state/prefect",
        "PREFECT_PROFILES_PATH": f"{folder}/state/prefect/profiles.toml",
    }
    shell = Shell(folder, ports | profiles | more, root)
    done = shell.flows("up")
    try:
        assert done.returncode == 0, done.stderr
        yield Stack(shell, f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}")
    finally:
        shell.flows("down")
