"""Where a run leaves its files, and what the services that it starts may not do.

Everything lies under one folder, ``state/`` (moved by the environment variable
COMMERCE_CLIP_STATE). `keep_quiet` fills in environment variables that are not set yet; it must run
before Prefect or MLflow is imported, because both read their settings at import, and does so when
`flows` is imported. No part may phone home or write to HOME.
"""

import json
import os
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]

# Of a run's life on its server; an automation marks as crashed what has missed three
# (flows/automations.py, DECISIONS 27). A worker hands it to its runs by the template of the pool.
HEARTBEAT_S = 30
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
# Where `make up` serves the pages that runs leave (`search.app`).
PAGES_VARIABLE, PAGES_PATH = "COMMERCE_CLIP_PAGES_URL", "/state"
SETTINGS = {
    # No telemetry.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    # How long one waits for the other.
    **HEARTBEAT,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def state_folder() -> Path:
    """Return the absolute folder under which everything that runs leave behind lies."""
    return Path(os.environ.get("COMMERCE_CLIP_STATE") or ROOT / "state").resolve()


def settings() -> dict[str, str]:
    """Return the environment variables that keep all parts quiet and inside the state folder."""
    state = state_folder()
    folders = {
        "PREFECT_HOME": state / "prefect",
        "PREFECT_PROFILES_PATH": state / "prefect" / "profiles.toml",
        "MPLCONFIGDIR": state / "cache" / "matplotlib",
        "HF_HOME": state / "cache" / "huggingface",
        "TORCH_HOME": state / "cache" / "torch",
        "DVC_SITE_CACHE_DIR": state / "dvc" / "site",
        "DVC_GLOBAL_CONFIG_DIR": state / "dvc" / "global",
        "DVC_SYSTEM_CONFIG_DIR": state / "dvc" / "system",
    }
    return SETTINGS | {name: str(folder) for name, folder in folders.items()}


def keep_quiet() -> None:
    """Set every setting that the caller's environment has not set; touches no file."""
    for name, value in settings().items():
        os.environ.setdefault(name, value)


def prepare() -> None:
    """Make the state folder, keep quiet, and find the servers of `make up`.

    The credentials of a server of ours are never put beside the address of another one.
    """
    state_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    (state_folder() / "prefect").mkdir(mode=0o700, exist_ok=True)
    keep_quiet()

    known = served()
    for address in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        if address in known and os.environ.get(address) in (None, "", known[address]):
            service = address.partition("_")[0]
            os.environ |= {name: known[name] for name in known if name.startswith(service)}
    if PAGES_VARIABLE in known:
        os.environ.setdefault(PAGES_VARIABLE, known[PAGES_VARIABLE])


def page_address(path: Path) -> str:
    """Return where a browser finds a page of a run: at the app of `make up`, or as a file."""
    served_at = os.environ.get(PAGES_VARIABLE)
    is_served = served_at and path.is_relative_to(state_folder())
    return f"{served_at}{page_path(path)}" if is_served else path.as_uri()


def page_path(path: Path) -> str:
    """Return the path of a page of the state folder at the app that serves it."""
    return f"{PAGES_PATH}/{quote(path.relative_to(state_folder()).as_posix())}"


def served_file() -> Path:
    """Return the file in which `make up` leaves addresses and credentials of its servers."""
    return state_folder() / "stack" / "addresses.json"


def served() -> dict[str, str]:
    """Return the environment variables that open the servers of `make up`, none without them."""
    try:
        return dict(json.loads(served_file().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def tracking_uri() -> str:
    """Return the MLflow address of the environment, where `prepare` puts `make up`'s, or SQLite."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded_tracking_uri()


def embedded_tracking_uri() -> str:
    """Return the SQLite file that the embedded MLflow and the server of `make up` share."""
    return f"sqlite:///{state_folder() / 'mlflow.db'}"


def artifact_root() -> Path:
    """Return the folder in which the embedded MLflow keeps artifacts."""
    return state_folder() / "mlartifacts"


def report_folder(version: str) -> Path:
    """Return where profiles, quarantine, Data Docs and the card of a data version lie."""
    return state_folder() / "data" / version


def data_page(version: str) -> Path:
    """Return the page of a data version (`tasks.validation.page`)."""
    return report_folder(version) / "data.html"


def models_folder() -> Path:
    """Return the folder below which imported models lie, each by its name."""
    return state_folder() / "models"
