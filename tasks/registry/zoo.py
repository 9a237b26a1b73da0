"""Models of others on this machine: imported under a name for ``model.pretrained``, or exported."""

import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from model.config.sections import Name
from model.errors import CheckpointError, ConfigError
from model.zoo.family import licence_of
from model.zoo.importing import convert_model, import_model
from model.zoo.published import Given
from tasks.registry.files import registered_model
from tasks.registry.versions import find_version
from tasks.runtime.environment import models_folder


def import_published(
    path: Path,
    name: str,
    towers: str | None,
    activation: str | None,
    sha256: str | None,
    licence: str | None,
) -> tuple[Path, dict[str, Any]]:
    """Import a published model under a name; return its folder and its origin.

    A name of the table of models takes over its licence.

    Raises:
        ConfigError: the name is invalid, or the user must state what the files leave open.
        CheckpointError: the published files cannot be used, or the name is taken.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"--as {name!r}: a name has small letters, digits, '.', '_' and '-', 64 at most"
        ) from None

    folder = models_folder() / name
    if folder.exists():
        raise CheckpointError(
            f"{folder}: there is a model of that name; choose another, or remove the folder"
        )
    listed = licence or licence_of(towers or "") or licence_of(name)
    return folder, import_model(path, folder, Given(towers, activation), sha256, listed)


def export_published(source: str, to: str, out: Path) -> Path:
    """Write a model in a published form.

    The source is a registered version (``models:/name@alias``), an imported model or a folder.

    Raises:
        ConfigError: the source or the form is unknown.
        CheckpointError: the source is damaged, or the form has no place for its towers.
        ServiceError: MLflow does not answer.
    """
    convert_model(folder_of(source), to, out)
    return out


def folder_of(source: str) -> Path:
    """Return the folder of a version (``models:/name@alias``), an imported model or a path.

    Raises:
        ConfigError: the registry has no such version.
        ServiceError: MLflow does not answer.
    """
    registered = re.fullmatch(r"models:/(?P<name>[^/@]+)[/@](?P<which>[^/@]+)", source)
    if not registered:
        folder = models_folder() / source
        return folder if folder.is_dir() else Path(source)

    return registered_model(find_version(registered["name"], registered["which"])).folder
