"""A local stand-in for production: Prefect server, worker and MLflow server on loopback, started
and stopped as one.

They share the databases and artifacts of the embedded default, so that versions registered without
servers are served, too. `up` takes about 20 s on two cores, most of it imports; ports are taken
from COMMERCE_CLIP_PREFECT_PORT and COMMERCE_CLIP_MLFLOW_PORT.
"""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
from prefect.settings import PREFECT_API_URL, Profile, load_profiles, save_profiles

from flows.cli.terminal import print_line
from flows.processes import is_running, load, save, start, stop
from model.errors import ConfigError, ServiceError
from model.storage.files import atomic_write
from tasks.runtime.environment import (
    ROOT,
    artifact_root,
    embedded_tracking_uri,
    served,
    served_file,
    settings,
    state_folder,
)

HOST = "127.0.0.1"
POOL = PROFILE = "commerce-clip"
PORTS = {"COMMERCE_CLIP_PREFECT_PORT": 4200, "COMMERCE_CLIP_MLFLOW_PORT": 5000}
NAMES = ("prefect", "mlflow", "worker")
WORKER = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "local"]
START_TIMEOUT_S = 180
REQUEST_TIMEOUT_S = 5
HEALTH_POLL_S = 0.5


class Addresses(NamedTuple):
    """Where the two servers listen."""

    prefect: str
    mlflow: str

    @property
    def api(self) -> str:
        """Return the address of Prefect's API."""
        return f"{self.prefect}/api"

    def environment(self) -> dict[str, str]:
        """Return the variables by which flows find the servers."""
        return {"PREFECT_API_URL": self.api, "MLFLOW_TRACKING_URI": self.mlflow}


def up() -> None:
    """Start a Prefect server, a worker and an MLflow server on loopback; create the deployments.

    What runs already is left alone; the addresses are printed.

    Raises:
        ConfigError: a port is impossible or in use; nothing was started.
        ServiceError: a server did not become healthy, or deploying failed; what was started is
        stopped again.
    """
    if _are_running():
        print_line("already up")
        _print_addresses(_recorded_addresses())
        return

    _stop_all()
    addresses = _choose_addresses()
    with ExitStack() as undo:
        undo.callback(_stop_all)
        for name, command in _servers(addresses).items():
            _start(name, command, addresses)

        # Nothing needs MLflow before a run begins, so it is waited for last.
        _wait_until("prefect", lambda: _is_healthy(addresses.api))
        _start("worker", WORKER, addresses)
        _wait_until("worker", lambda: _has_worker(addresses))
        _deploy(addresses)
        _wait_until("mlflow", lambda: _is_healthy(addresses.mlflow))

        # Later commands find the servers by a file, `prefect` finds them by its profile.
        with atomic_write(served_file()) as file:
            file.write(json.dumps(addresses.environment()).encode())
        _set_profile(addresses.api)
        undo.pop_all()
    _print_addresses(addresses)


def down() -> None:
    """Stop what `up` started and nothing else."""
    if stopped := _stop_all():
        print_line(f"stopped {', '.join(stopped)}")
    else:
        print_line("nothing to stop: `make up` has not started anything here")


def require_running() -> None:
    """Refuse to run flows against servers that `up` started and that are gone since.

    Raises:
        ServiceError: names what is gone and both ways out.
    """
    if served() and served().items() <= os.environ.items() and not _are_running():
        gone = ", ".join(name for name in NAMES if not _is_running(name))
        raise ServiceError(
            f"{gone}: started by `make up`, but gone since (see {_folder()}); "
            "start again with `make up`, or run without servers after `make down`"
        )


def enter_checkout() -> dict[str, str]:
    """Make the folder of this code the working directory: a pull step of prefect.yaml."""
    os.chdir(ROOT)
    return {"directory": str(ROOT)}


# ---- what is started ----


def _servers(addresses: Addresses) -> dict[str, list[str]]:
    """Return the commands of the two servers by name."""
    prefect_port, mlflow_port = (address.rpartition(":")[2] for address in addresses)
    mlflow = ["mlflow", "server", "--host", HOST, "--port", mlflow_port, "--workers", "1"]
    mlflow += ["--backend-store-uri", embedded_tracking_uri(), "--no-serve-artifacts"]
    mlflow += ["--default-artifact-root", artifact_root().as_uri()]
    mlflow += ["--allowed-hosts", f"localhost:{mlflow_port},{HOST}:{mlflow_port}"]
    return {
        "prefect": ["prefect", "server", "start", "--host", HOST, "--port", prefect_port],
        "mlflow": mlflow,
    }


def _environment(addresses: Addresses) -> dict[str, str]:
    """Return the environment of what is started: the caller's, but quiet and on loopback."""
    origins = [addresses.prefect, addresses.prefect.replace(HOST, "localhost")]
    chosen = {
        "COMMERCE_CLIP_STATE": str(state_folder()),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        # Their features call models in the cloud and cost four more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONUNBUFFERED": "1",
    }
    return settings() | dict(os.environ) | chosen | addresses.environment()


def _start(name: str, command: list[str], addresses: Addresses) -> None:
    print_line(f"starting {name} …")
    command = [sys.executable, "-m", *command]
    save(start(command, ROOT, _environment(addresses), _log(name)), _record(name))


def _deploy(addresses: Addresses) -> None:
    """Create or update the deployments of prefect.yaml."""
    print_line("creating the deployments of prefect.yaml …")
    with open(_log("deploy"), "wb") as log:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=ROOT,
            env=_environment(addresses),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=START_TIMEOUT_S,
            check=False,
        )

    if done.returncode:
        raise ServiceError(
            f"prefect.yaml: `prefect deploy --all` failed; {_log('deploy')} says why; "
            "repair it and try again"
        )


# ---- before and after ----


def _choose_addresses() -> Addresses:
    """Return the addresses to listen on.

    Raises:
        ConfigError: a port is no number, is used twice, or is in use.
    """
    ports = [_free_port(variable, default) for variable, default in PORTS.items()]
    if len(set(ports)) < len(ports):
        raise ConfigError(f"{' and '.join(PORTS)} are both {ports[0]}; give each its own port")
    return Addresses(*(f"http://{HOST}:{port}" for port in ports))


def _free_port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigError(f"{variable} is {text!r}; expected a port, 1 to 65535")

    port = int(text)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            reason = "in use by another program" if is_taken else error.strerror
            raise ConfigError(
                f"port {port} on {HOST}: {reason}; "
                f"free it, or choose another port with {variable}={port + 1}"
            ) from error
    return port


def _set_profile(api: str | None) -> None:
    """Make a profile with this API address active in Prefect's home, or remove it again."""
    profiles, before = load_profiles(), _folder() / "profile-before"
    if PROFILE in profiles.names:
        profiles.remove_profile(PROFILE)

    # The profile that was active before is kept in a file, and active again afterwards.
    if api is not None:
        with atomic_write(before) as file:
            file.write((profiles.active_name or "").encode())
        profiles.add_profile(Profile(name=PROFILE, settings={PREFECT_API_URL: api}))
        profiles.set_active(PROFILE)
    elif profiles.active_name == PROFILE:
        profiles.set_active(before.read_text() if before.exists() else None, check=False)
        before.unlink(missing_ok=True)
    save_profiles(profiles)


def _stop_all() -> list[str]:
    """Stop the recorded processes, last started first, and forget them; return what was running."""
    stopped = []
    for name in reversed(NAMES):
        if stop(load(_record(name))):
            stopped.append(name)
        _record(name).unlink(missing_ok=True)

    if served_file().exists():
        _set_profile(None)
        served_file().unlink()
    return stopped


# ---- what is seen ----


def _are_running() -> bool:
    return bool(served()) and all(_is_running(name) for name in NAMES)


def _is_running(name: str) -> bool:
    return is_running(load(_record(name)))


def _wait_until(name: str, is_healthy: Callable[[], bool]) -> None:
    """Wait until a started process is healthy.

    Raises:
        ServiceError: it ended, or took too long; names its log.
    """
    give_up = time.monotonic() + START_TIMEOUT_S
    while True:
        with suppress(httpx.HTTPError):  # it may not answer yet
            if is_healthy():
                return
        if not _is_running(name):
            raise ServiceError(
                f"{name} ended at once; {_log(name)} says why; repair it and try again"
            )

        if time.monotonic() > give_up:
            raise ServiceError(
                f"{name} is not ready after {START_TIMEOUT_S} s; see {_log(name)} and try again"
            )
        time.sleep(HEALTH_POLL_S)


def _is_healthy(server: str) -> bool:
    return httpx.get(f"{server}/health", timeout=REQUEST_TIMEOUT_S).is_success


def _has_worker(addresses: Addresses) -> bool:
    url = f"{addresses.api}/work_pools/{POOL}/workers/filter"
    reply = httpx.post(url, json={}, timeout=REQUEST_TIMEOUT_S)
    return reply.is_success and any(worker["status"] == "ONLINE" for worker in reply.json())


def _recorded_addresses() -> Addresses:
    environment = served()
    return Addresses(
        environment["PREFECT_API_URL"].removesuffix("/api"), environment["MLFLOW_TRACKING_URI"]
    )


def _print_addresses(addresses: Addresses) -> None:
    """Print where the servers are, and what to type next."""
    lines = [
        "",
        f"  Prefect  {addresses.prefect}",
        f"  worker   {addresses.prefect}/work-pools/work-pool/{POOL}",
        f"  MLflow   {addresses.mlflow}",
        f"  logs     {_folder()}",
        "",
        "Next: .venv/bin/prefect deployment run 'retrain/sample' --watch",
        "      .venv/bin/prefect deployment run 'retrain/sample' --param finetune_epochs=2 --watch",
        "      make down",
    ]
    if state_folder() != ROOT / "state":
        lines += [
            "",
            f"The state folder was moved; `prefect` needs: export PREFECT_API_URL={addresses.api}",
        ]

    for line in lines:
        print_line(line)


def _folder() -> Path:
    return state_folder() / "stack"


def _log(name: str) -> Path:
    return _folder() / f"{name}.log"


def _record(name: str) -> Path:
    return _folder() / f"{name}.json"
