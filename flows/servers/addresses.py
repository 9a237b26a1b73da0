"""Where the servers of `make up` listen, and the password that opens them.

The password is drawn once and kept in a file that its owner alone reads, so that a browser stays
logged in from one `make up` to the next. It stands in no command line and in no log.
"""

import errno
import json
import os
import secrets
import socket
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_PROFILES_PATH,
    Profile,
    load_profiles,
    save_profiles,
)

from flows.servers.door import HOSTS, LOGIN_PATH
from model.errors import ConfigError
from model.storage.files import atomic_write
from tasks.runtime.environment import (
    PAGES_VARIABLE,
    artifact_root,
    embedded_tracking_uri,
    served,
    served_file,
    settings,
    state_folder,
)

HOST = HOSTS[0]
USER = PROFILE = "commerce-clip"
PORTS = {
    "COMMERCE_CLIP_PREFECT_PORT": 4200,
    "COMMERCE_CLIP_MLFLOW_PORT": 5000,
    "COMMERCE_CLIP_PAGES_PORT": 8600,
}
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


class Addresses(NamedTuple):
    """Where Prefect, MLflow and the pages of runs are served, and the password of all."""

    prefect: str
    mlflow: str
    pages: str
    password: str

    @property
    def api(self) -> str:
        """Return the address of Prefect's API."""
        return f"{self.prefect}/api"

    @property
    def credentials(self) -> str:
        """Return ``user:password``."""
        return f"{USER}:{self.password}"

    def environment(self) -> dict[str, str]:
        """Return the variables by which flows find and enter the servers."""
        return {
            "PREFECT_API_URL": self.api,
            "PREFECT_API_AUTH_STRING": self.credentials,
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            PAGES_VARIABLE: self.pages,
        }

    def logins(self) -> dict[str, str]:
        """Return the address of each server that logs a browser in."""
        servers = {"Pages": self.pages, "Prefect": self.prefect, "MLflow": self.mlflow}
        return {
            name: f"{address}{LOGIN_PATH}#{quote(self.credentials)}"
            for name, address in servers.items()
        }


def choose_addresses() -> Addresses:
    """Return the addresses to listen on, with the password of an earlier `make up` or a new one.

    Raises:
        ConfigError: a port is no number, is used twice, or is in use.
    """
    ports = {variable: _free_port(variable, default) for variable, default in PORTS.items()}
    for port in ports.values():
        same = [variable for variable, chosen in ports.items() if chosen == port]
        if len(same) > 1:
            raise ConfigError(f"{' and '.join(same)} are {port}; give each its own port")
    prefect, mlflow, pages = (f"http://{HOST}:{port}" for port in ports.values())
    return Addresses(prefect, mlflow, pages, _password())


def recorded_addresses() -> Addresses:
    """Return the addresses of the servers that are up."""
    environment = served()
    return Addresses(
        environment["PREFECT_API_URL"].removesuffix("/api"),
        environment["MLFLOW_TRACKING_URI"],
        environment[PAGES_VARIABLE],
        environment["MLFLOW_TRACKING_PASSWORD"],
    )


def record_addresses(addresses: Addresses) -> None:
    """Leave the addresses to later commands in a file, to `prefect` in its profile."""
    with atomic_write(served_file(), PRIVATE_FILE) as file:
        file.write(json.dumps(addresses.environment()).encode())
    with atomic_write(login_file(), PRIVATE_FILE) as file:
        lines = (f"{name}  {login}\n" for name, login in addresses.logins().items())
        file.write("".join(lines).encode())
    _set_profile(addresses)


def forget_addresses() -> None:
    """Undo `record_addresses`, where it was done."""
    if served_file().exists():
        _set_profile(None)
        served_file().unlink()
        login_file().unlink(missing_ok=True)


def login_file() -> Path:
    """Return the file with the addresses that log a browser in."""
    return state_folder() / "stack" / "login.txt"


def server_environment(name: str, addresses: Addresses) -> dict[str, str]:
    """Return the environment of what is started: the caller's, but quiet and on loopback."""
    chosen = {"COMMERCE_CLIP_STATE": str(state_folder()), "PYTHONUNBUFFERED": "1"}
    origins = [addresses.prefect, addresses.prefect.replace(HOST, HOSTS[1])]
    chosen |= {
        "prefect": {
            "PREFECT_SERVER_API_AUTH_STRING": addresses.credentials,
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        },
        "mlflow": {
            # As `mlflow server --backend-store-uri --default-artifact-root --no-serve-artifacts`.
            "_MLFLOW_SERVER_FILE_STORE": embedded_tracking_uri(),
            "_MLFLOW_SERVER_ARTIFACT_ROOT": artifact_root().as_uri(),
            "_MLFLOW_SGI_NAME": "uvicorn",
        },
        "worker": {"PREFECT_WORKER_QUERY_SECONDS": "2"},
    }.get(name, {})
    return settings() | dict(os.environ) | chosen | addresses.environment()


def close_state() -> None:
    """Keep other users of the machine out of the state folder and of the servers' databases."""
    state = state_folder()
    (state / "stack").mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    for folder in (state, state / "stack", state / "prefect"):
        if folder.exists():
            folder.chmod(PRIVATE_FOLDER)
    for database in databases():
        for path in database.parent.glob(f"{database.name}*"):  # a journal may lie beside it
            path.chmod(PRIVATE_FILE)


def databases() -> list[Path]:
    """Return the SQLite files of MLflow and of Prefect, whether they exist or not."""
    return [state_folder() / "mlflow.db", state_folder() / "prefect" / "prefect.db"]


def _password() -> str:
    path = state_folder() / "stack" / "password"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        drawn = secrets.token_urlsafe(24)
        with atomic_write(path, PRIVATE_FILE) as file:
            file.write(drawn.encode())
        return drawn


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


def _set_profile(addresses: Addresses | None) -> None:
    """Make a profile with these addresses active in Prefect's home, or remove it again."""
    profiles, before = load_profiles(), state_folder() / "stack" / "profile-before"
    if PROFILE in profiles.names:
        profiles.remove_profile(PROFILE)

    # The profile that was active before is kept in a file, and active again afterwards.
    if addresses is not None:
        with atomic_write(before) as file:
            file.write((profiles.active_name or "").encode())
        entered = {PREFECT_API_URL: addresses.api, PREFECT_API_AUTH_STRING: addresses.credentials}
        profiles.add_profile(Profile(name=PROFILE, settings=entered))
        profiles.set_active(PROFILE)
    elif profiles.active_name == PROFILE:
        profiles.set_active(before.read_text() if before.exists() else None, check=False)
        before.unlink(missing_ok=True)

    path = Path(PREFECT_PROFILES_PATH.value())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(PRIVATE_FILE)
    path.chmod(PRIVATE_FILE)
    save_profiles(profiles)
