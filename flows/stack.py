"""A local stand-in for production: Prefect server, worker, MLflow server and the pages of runs on
loopback, started and stopped as one.

They share the databases and artifacts of the embedded default, so that versions registered without
servers are served, too. `up` takes about 20 s on two cores, most of it imports; ports are those of
`flows.servers.addresses.PORTS`. One password opens all servers.
"""

import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from flows.cli.terminal import print_line
from flows.processes import is_running, load, save, start, stop
from flows.servers.addresses import (
    Addresses,
    choose_addresses,
    close_state,
    databases,
    forget_addresses,
    login_file,
    record_addresses,
    recorded_addresses,
    server_environment,
)
from flows.servers.deploy import POOL, create_deployments, create_pool
from model.errors import ServiceError
from tasks.runtime.environment import (
    PAGES_VARIABLE,
    ROOT,
    prepare,
    served,
    settings,
    state_folder,
)
from tasks.runtime.locks import locked

NAMES = ("prefect", "mlflow", "pages", "worker")
WORKER = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "local"]
START_TIMEOUT_S = 180
REQUEST_TIMEOUT_S = 5
HEALTH_POLL_S = 0.5
LOCK_PATIENCE_S = 10
OWN_FILES_ALONE = 0o077


def up() -> None:
    """Start Prefect, MLflow, a worker and the pages on loopback; create the deployments.

    What runs already is left alone; the addresses are printed. Of two that are typed at once, the
    second is refused.

    Raises:
        ConfigError: a port is impossible or in use; nothing was started.
        DataError: another `make up` or `make down` is at work.
        ServiceError: a server did not become healthy, or deploying failed; what was started is
        stopped again.
    """
    with locked("stack", "`make up`"):
        if _are_running():
            print_line("already up")
        else:
            _stop_all()
            _start_all(choose_addresses())
        _print_addresses(recorded_addresses())


def down() -> None:
    """Stop what `up` started and nothing else.

    Raises:
        DataError: a `make up` is at work.
    """
    with locked("stack", "`make down`"):
        if stopped := _stop_all():
            print_line(f"stopped {', '.join(stopped)}")
        else:
            print_line("nothing to stop: `make up` has not started anything here")


def require_running() -> None:
    """Refuse to run flows against servers that `up` started and that are gone since.

    Without servers, refuse where another program keeps a database to itself.

    Raises:
        ServiceError: names what is gone or locked, and what to do.
    """
    known = served()
    if not known:
        _require_unlocked()
    elif known.items() <= os.environ.items() and not _are_running():
        gone = ", ".join(name for name in NAMES if not _is_running(name))
        raise ServiceError(
            f"{gone}: started by `make up`, but gone since (see {_folder()}); "
            "start again with `make up`, or run without servers after `make down`"
        )


def enter_checkout() -> dict[str, str]:
    """Make the folder of this code the working directory: a pull step of prefect.yaml.

    What is set here is the environment of the run. A worker hands on a home that is relative to
    another folder, so that one is replaced.
    """
    os.chdir(ROOT)
    for name in ("PREFECT_HOME", "PREFECT_PROFILES_PATH"):
        if not Path(os.environ.get(name, "")).is_absolute():
            os.environ[name] = settings()[name]
    prepare()
    return {"directory": str(ROOT)}


# ---- what is started ----


def _start_all(addresses: Addresses) -> None:
    close_state()
    _require_unlocked()
    with ExitStack() as undo:
        undo.callback(_stop_all)
        for name, command in _servers(addresses).items():
            _start(name, command, addresses)

        # Nothing needs MLflow before a run begins, so it is waited for last.
        _wait_until("prefect", lambda: _is_healthy(addresses.api, addresses))
        with _client(addresses) as client:
            create_pool(client)
            _start("worker", WORKER, addresses)
            _wait_until("worker", lambda: _has_worker(client))
            print_line("creating the deployments of prefect.yaml …")
            create_deployments(client, server_environment("deploy", addresses), _log("deploy"))
        _wait_until("mlflow", lambda: _is_healthy(addresses.mlflow, addresses))
        _wait_until("pages", lambda: _is_healthy(addresses.pages, addresses))

        # Later commands find the servers by a file, `prefect` finds them by its profile.
        record_addresses(addresses)
        close_state()
        undo.pop_all()


def _servers(addresses: Addresses) -> dict[str, list[str]]:
    """Return the commands of the servers by name."""
    servers = {
        "prefect": addresses.prefect,
        "mlflow": addresses.mlflow,
        "pages": addresses.pages,
    }
    return {
        name: ["flows.servers.serve", name, address.rpartition(":")[2]]
        for name, address in servers.items()
    }


def _start(name: str, command: list[str], addresses: Addresses) -> None:
    print_line(f"starting {name} …")
    command = [sys.executable, "-m", *command]
    umask = -1 if name == "worker" else OWN_FILES_ALONE
    process = start(command, ROOT, server_environment(name, addresses), _log(name), umask)
    save(process, _record(name))


# ---- before and after ----


def _stop_all() -> list[str]:
    """Stop the recorded processes, last started first, and forget them; return what was running."""
    stopped = []
    for name in reversed(NAMES):
        if stop(load(_record(name))):
            stopped.append(name)
        _record(name).unlink(missing_ok=True)

    forget_addresses()
    return stopped


# ---- what is seen ----


def _are_running() -> bool:
    return PAGES_VARIABLE in served() and all(map(_is_running, NAMES))


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


def _is_healthy(server: str, addresses: Addresses) -> bool:
    user, _, password = addresses.credentials.partition(":")
    url = f"{server}/health"
    return httpx.get(url, auth=(user, password), timeout=REQUEST_TIMEOUT_S).is_success


def _client(addresses: Addresses) -> SyncPrefectClient:
    return SyncPrefectClient(addresses.api, auth_string=addresses.credentials)


def _has_worker(client: SyncPrefectClient) -> bool:
    with suppress(PrefectHTTPStatusError):
        return any(each.status == "ONLINE" for each in client.read_workers_for_work_pool(POOL))
    return False


def _require_unlocked() -> None:
    """Refuse to go on while another program keeps a database to itself.

    Raises:
        ServiceError: names the file.
    """
    for path in filter(Path.exists, databases()):
        with closing(sqlite3.connect(path, timeout=LOCK_PATIENCE_S)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                database.rollback()
            except sqlite3.DatabaseError as error:
                # What else may be wrong with it, MLflow and Prefect say better.
                if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                    raise ServiceError(
                        f"{path}: {error}; `fuser {path}` names the program that holds it; "
                        "end that and try again"
                    ) from error


def _print_addresses(addresses: Addresses) -> None:
    """Print where the servers are, how to enter them, and what to type next.

    A password is printed to a person's terminal alone, never into a file of somebody's.
    """
    logins = addresses.logins()
    lines = [
        "",
        f"  pages    {addresses.pages}",
        f"  Prefect  {addresses.prefect}",
        f"  worker   {addresses.prefect}/work-pools/work-pool/{POOL}",
        f"  MLflow   {addresses.mlflow}",
        f"  logs     {_folder()}",
        "",
    ]
    if sys.stdout.isatty():
        lines += ["These log your browser in; they are as good as the password:"]
        lines += [f"  {name:<7}  {login}" for name, login in logins.items()]
    else:
        lines += [f"Addresses that log a browser in: {login_file()}"]

    lines += [
        "",
        "Next: .venv/bin/prefect deployment run 'retrain/sample' --watch",
        "      .venv/bin/prefect deployment run 'retrain/sample' --param finetune_epochs=2 --watch",
        "      make down",
        "",
        f"In other folders `prefect` needs: export PREFECT_HOME={state_folder() / 'prefect'}",
    ]
    for line in lines:
        print_line(line)


def _folder() -> Path:
    return state_folder() / "stack"


def _log(name: str) -> Path:
    return _folder() / f"{name}.log"


def _record(name: str) -> Path:
    return _folder() / f"{name}.json"
