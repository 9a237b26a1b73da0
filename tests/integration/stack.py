"""A stack of real servers that is up, and how tests talk to it."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tasks.environment import ROOT
from tests.integration.conftest import Shell


@dataclass(frozen=True)
class Stack:
    """A stack that is up, and how tests talk to it."""

    shell: Shell
    prefect: str
    mlflow: str

    def prefect_api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return request(f"{self.prefect}/api/{path}", body)

    def mlflow_api(self, path: str, **query: str) -> Any:
        return request(f"{self.mlflow}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}")

    def run_deployment(self, name: str, **parameters: str) -> "subprocess.CompletedProcess[str]":
        given = [text for key, value in parameters.items() for text in ("--param", f"{key}={value}")]
        return self.shell.python("-m", "prefect", "deployment", "run", name, *given, "--watch")

    def flow_runs(self) -> list[dict[str, Any]]:
        """All flow runs but those that the schedule plans, first started first."""
        runs = self.prefect_api("flow_runs/filter", {"sort": "START_TIME_ASC"})
        return [run for run in runs if run["state_type"] != "SCHEDULED"]


def request(url: str, body: dict[str, Any] | None = None) -> Any:
    """Ask a server; where its database is busy (503) ask again, as Prefect's own clients do."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
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
    """Start servers and worker for a checkout with a state folder of their own, and stop them in the end."""
    prefect, mlflow = free_ports(2)
    ports = {"COMMERCE_CLIP_PREFECT_PORT": str(prefect), "COMMERCE_CLIP_MLFLOW_PORT": str(mlflow)}
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
