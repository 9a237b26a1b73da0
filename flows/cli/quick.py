"""Answers of commands that need neither Prefect nor MLflow, whose imports alone take seconds.

Config, code and data are hashed and the registry is read as the long way does it. Where anything is
not certain (another schema, a Prefect server that wants its flow run, a lock that is held, a folder
that is not its version) there is no answer, and the command takes the long way. Each function
returns whether it has answered; a test compares both answers over many states.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from flows.cli.history import print_champions
from flows.cli.report import print_report
from flows.outcome import Report, nothing_new
from flows.parameters import (
    OUR_MODEL,
    SAMPLE_CONFIG,
    Config,
    Data,
    Device,
    FinetuneEpochs,
    Overrides,
    Precision,
    RegisteredModel,
    WhenBusy,
)
from flows.settings import read_config
from tasks.data.dvc import TrackedFolder, data_folder, hash_folder, version_of
from tasks.data.swap import is_swapping
from tasks.registry.reading import Registry, read_changes, read_registry
from tasks.runtime.environment import ROOT
from tasks.runtime.lineage import trace_lineage
from tasks.runtime.locks import DATA, locked_or_busy
from tasks.runtime.records import DataVersion


def print_nothing_new(
    config: Config = SAMPLE_CONFIG,
    data: Data = None,
    device: Device = "config",
    precision: Precision = "config",
    finetune_epochs: FinetuneEpochs = None,
    overrides: Overrides = (),
    when_busy: WhenBusy = "skip",
) -> bool:
    """Report that a registered version was made from this data, code and config.

    Raises:
        ConfigError: the config is wrong.
    """
    found = (
        None
        if _has_prefect_server()
        else find_nothing_new(config, data, device, precision, finetune_epochs, overrides)
    )
    if found is not None:
        print_report(found)
    return found is not None


def find_nothing_new(
    config: str,
    data: str | None = None,
    device: str = "config",
    precision: str = "config",
    epochs: int | None = None,
    overrides: Overrides = (),
) -> Report | None:
    """Return the report of a retraining that has nothing to do, None where that is not certain."""
    settings = read_config(config, overrides, data, device, precision, epochs)
    registry = read_registry()
    if registry is None or not registry.versions or settings.gate.approval == "manual":
        return None

    # As the long way: nobody trains this model meanwhile, or changes the tracked pairs.
    with (
        locked_or_busy(f"retrain-{settings.registered_model}", "a look", False) as trains,
        locked_or_busy(DATA, "a look for what is new", False) as changes,
    ):
        if trains or changes or is_swapping():
            return None
        pairs = TrackedFolder(data_folder(settings.data.path))
        is_tracked = pairs.folder == data_folder() or pairs.tracked.is_file()

        # What data.dvc promises is known at once, so the registry is asked before files are read.
        promised = pairs.promised_or_none() if is_tracked else None
        if is_tracked and (promised is None or not _find(registry, settings, promised)):
            return None
        if not pairs.folder.is_dir():
            return None
        version = version_of(hash_folder(pairs.folder))
        found = _find(registry, settings, version)
        if found is None or promised not in (None, version):
            return None
    return nothing_new(settings.name, version, found.name, found.number, registry.aliases_of(found))


def print_known_history(registered_model: RegisteredModel = OUR_MODEL) -> bool:
    """List every change of the champion.

    Raises:
        ConfigError: there is no such model.
    """
    registry, changes = read_registry(), read_changes(registered_model)
    if registry is None or changes is None:
        return False
    print_champions(registered_model, changes, list(registry.aliases))
    return True


def _find(registry: Registry, settings: Any, version: str) -> Any:
    data = DataVersion(folder=Path(), version=version, is_tracked=False, file_md5={})
    fingerprint = trace_lineage(settings, data).fingerprint
    return registry.find_finished(settings.registered_model, fingerprint)


def _has_prefect_server() -> bool:
    """Return whether a Prefect server may want the flow run: Prefect finds it in many places."""
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", "profiles.toml"))
    dotenvs = [folder / ".env" for folder in (Path(), ROOT)]
    texts = [*os.environ, *(_text(path) for path in (profiles, *dotenvs))]
    if any("prefect_api_url" in text.casefold() for text in texts):
        return True

    try:
        own = [tomllib.loads(_text(folder / "prefect.toml")) for folder in (Path(), ROOT)]
        shared = [tomllib.loads(_text(folder / "pyproject.toml")) for folder in (Path(), ROOT)]
    except ValueError:
        return True
    tables = [*own, *(table.get("tool", {}).get("prefect", {}) for table in shared)]
    return any("api" in table for table in tables)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
