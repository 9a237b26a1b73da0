"""The registry as it is, read without MLflow, whose import takes seconds; nothing is written.

The SQLite file of the embedded MLflow is opened read-only; a server is asked by two GETs. Only what
is certain is an answer: of a schema that is not known here, an address of another kind, a busy or
damaged file, a longer list than one reply holds, it is None, and MLflow itself must be asked.
"""

import base64
import json
import os
import sqlite3
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from tasks.runtime.environment import tracking_uri

# Heads of MLflow's migrations whose tables are as they are read here: 3.15's.
KNOWN_SCHEMAS = {"dc11669786a5"}
# Settings under which MLflow itself would look elsewhere, or ask in another way.
OTHER_WAYS = (
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_WORKSPACE",
    "MLFLOW_ENABLE_WORKSPACES",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)
BUSY_S, ANSWER_S = 1.0, 5.0
MOST_MODELS, MOST_VERSIONS = 1000, 10_000
DOUBTS = (sqlite3.Error, OSError, ValueError, KeyError, TypeError, AttributeError)

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
EXPERIMENT, HISTORY = "commerce-clip", "promotions"
DATA_VERSION_TAG = "commerce_clip.data_version"
EXPORT_TAG = "commerce_clip.embeddings"
FINGERPRINT_TAG = "commerce_clip.fingerprint"
REASON_TAG = "commerce_clip.promotion"


class KnownModelVersion(NamedTuple):
    """A registered version with its tags."""

    name: str
    number: int
    tags: Mapping[str, str]


class Registry(NamedTuple):
    """The versions of all models, by number, and the aliases of each model, by its name."""

    versions: list[KnownModelVersion]
    aliases: dict[str, dict[str, int]]

    def find_finished(self, name: str, mark: str) -> KnownModelVersion | None:
        """Return the version that `tasks.registry.register.find_registered` finds, or None."""
        known = [version for version in self.versions if version.name == name]
        # A version that another run registered may be this one's, too.
        found = [version for version in known if version.tags.get(FINGERPRINT_TAG) == mark] or [
            version for version in known if run_tag(mark) in version.tags
        ]
        wanted = {EXPORT_TAG, decided_tag(mark)}
        return next((each for each in reversed(found) if wanted <= each.tags.keys()), None)

    def aliases_of(self, version: KnownModelVersion) -> list[str]:
        """Return which of our aliases point to a version."""
        pointed = self.aliases[version.name]
        return [
            alias
            for alias in (CHAMPION, CHALLENGER, PREVIOUS)
            if pointed.get(alias) == version.number
        ]

    def trained_on(self) -> dict[str, list[str]]:
        """Return the names and numbers of versions by the data version they were trained on."""
        found: dict[str, list[str]] = {}
        for version in self.versions:
            data = version.tags.get(DATA_VERSION_TAG, "")
            found.setdefault(data, []).append(f"{version.name} {version.number}")
        return found


def run_tag(mark: str) -> str:
    """Return the tag by which a version names a run that led to it, one of several perhaps."""
    return f"commerce_clip.run.{mark}"


def decided_tag(mark: str) -> str:
    """Return the tag of a version whose promotion was decided by the run of a fingerprint."""
    return f"commerce_clip.decided.{mark}"


def read_registry() -> Registry | None:
    """Read models, versions and aliases; None where only MLflow can."""
    uri = tracking_uri()
    try:
        if uri.startswith(("http://", "https://")) and not any(map(os.environ.get, OTHER_WAYS)):
            return _ask_server(uri)
        database = _database(uri)
        return None if database is None else _read_file(database)
    except DOUBTS:
        return None


def read_changes(name: str) -> list[dict[str, Any]] | None:
    """Read every change of a model's champion, the oldest first; None where only MLflow can."""
    try:
        database = _database(tracking_uri())
        if database is None:
            return None
        folder = _history_folder(database, name) if database.exists() else None
        files = sorted(folder.glob("*.json")) if folder else []
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]
    except DOUBTS:
        return None


# ---- the embedded MLflow's file ----


def _database(uri: str) -> Path | None:
    """Return the SQLite file of an address, None where it is another, or may not be all."""
    is_plain = uri.startswith("sqlite:////") and not set(uri) & set("?#%")
    return None if not is_plain or any(map(os.environ.get, OTHER_WAYS)) else Path(uri[10:])


def _read_file(database: Path) -> Registry | None:
    if not database.exists():  # MLflow would make an empty one
        return Registry([], {})

    with closing(_connect(database)) as connection:
        if not _is_known(connection):
            return None
        aliases: dict[str, dict[str, int]] = {
            name: {}
            for (name,) in connection.execute(
                "select name from registered_models where workspace = 'default'"
            )
        }
        for name, alias, number in connection.execute(
            "select name, alias, version from registered_model_aliases where workspace = 'default'"
        ):
            aliases[name][alias] = number

        tags: dict[tuple[str, int], dict[str, str]] = {
            key: {}
            for key in connection.execute(
                "select name, version from model_versions where workspace = 'default' "
                "and current_stage <> 'Deleted_Internal' order by version, name"
            )
        }
        for name, number, tag, value in connection.execute(
            "select name, version, key, value from model_version_tags where workspace = 'default'"
        ):
            tags.get((name, number), {})[tag] = value
    return Registry([KnownModelVersion(*key, tags[key]) for key in tags], aliases)


def _history_folder(database: Path, name: str) -> Path | None:
    """Return the folder of a model's history, None where it has none.

    Raises:
        ValueError: it does not lie on this machine, or MLflow must say which one it is.
    """
    with closing(_connect(database)) as connection:
        if not _is_known(connection):
            raise ValueError("another schema")
        found = connection.execute(
            "select artifact_uri from runs join tags using (run_uuid) "
            "join experiments using (experiment_id) where experiments.workspace = 'default' "
            "and experiments.name = ? and runs.lifecycle_stage = 'active' "
            "and tags.key = ? and tags.value = ?",
            (EXPERIMENT, FINGERPRINT_TAG, f"history:{name}"),
        ).fetchall()
    if not found:
        return None

    ((uri,),) = found
    if not uri.startswith("file:///"):
        raise ValueError("elsewhere")
    return Path(unquote(urlsplit(uri).path)) / HISTORY


def _connect(database: Path) -> sqlite3.Connection:
    # What a killed process left half-written can only be undone by a writer: then this refuses.
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)


def _is_known(connection: sqlite3.Connection) -> bool:
    connection.execute("begin")  # so that all is of one moment
    return connection.execute("select version_num from alembic_version").fetchall() in [
        [(schema,)] for schema in KNOWN_SCHEMAS
    ]


# ---- a server ----


def _ask_server(uri: str) -> Registry | None:
    models = _get(uri, f"registered-models/search?max_results={MOST_MODELS}")
    found = _get(uri, f"model-versions/search?max_results={MOST_VERSIONS}")
    if models.get("next_page_token") or found.get("next_page_token"):
        return None

    versions = [
        KnownModelVersion(
            each["name"],
            int(each["version"]),
            {tag["key"]: tag["value"] for tag in each.get("tags", [])},
        )
        for each in found.get("model_versions", [])
    ]
    aliases = {
        model["name"]: {alias["alias"]: int(alias["version"]) for alias in model.get("aliases", [])}
        for model in models.get("registered_models", [])
    }
    return Registry(sorted(versions, key=lambda each: (each.number, each.name)), aliases)


def _get(uri: str, question: str) -> dict[str, Any]:
    """Return a reply of MLflow's REST API.

    Raises:
        OSError: the server does not answer, or refuses.
        ValueError: this is no MLflow.
    """
    address, headers = urlsplit(uri), {}
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{x}") for x in ("USERNAME", "PASSWORD"))
    if address.username or address.password:
        raise ValueError("MLflow knows what to do with credentials in an address")
    if user or password:
        both = base64.b64encode(f"{user or ''}:{password or ''}".encode()).decode()
        headers["Authorization"] = f"Basic {both}"

    request = urllib.request.Request(  # noqa: S310 - read_registry lets http and https through
        f"{uri.rstrip('/')}/api/2.0/mlflow/{question}", headers=headers
    )
    with urllib.request.urlopen(request, timeout=ANSWER_S) as reply:  # noqa: S310
        answer = json.load(reply)
    if not isinstance(answer, dict):
        raise ValueError("no reply of MLflow's")
    return answer
