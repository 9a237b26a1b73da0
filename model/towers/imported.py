"""Imported models by name: folders below one folder, each sealed by a manifest. Asks nothing of torch."""

import json
from pathlib import Path

from model.errors import CheckpointError, ConfigError
from model.storage.sealed import MANIFEST

ORIGIN_FILE = "origin.json"  # form, file, SHA-256 and licence of what was published; it travels with what is trained


def find_imported(pretrained: str | None, shelf: Path) -> Path | None:
    """Return the model folder that ``model.pretrained`` names: one on the shelf, or a path; None
    where it is neither.

    Raises:
        ConfigError: it is the path of a folder that was not imported.
    """
    if pretrained is None:
        return None
    folder = (
        shelf / pretrained
        if "/" not in pretrained and (shelf / pretrained).is_dir()
        else Path(pretrained)
    )
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        raise ConfigError(
            f"model.pretrained is '{pretrained}', a folder as published; make base weights of it by "
            f"`python -m flows models import {pretrained} --as NAME`"
        )
    return folder if folder.is_dir() else None


def recorded_weights_sha256(folder: Path) -> str:
    """Return the SHA-256 (hex) of a model folder's weights as its manifest records it, unchecked.

    Raises:
        CheckpointError: the manifest is unreadable.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return str(
            next(
                entry["sha256"] for name, entry in manifest.items() if name.endswith(".safetensors")
            )
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        raise CheckpointError(
            f"{folder}: no readable {MANIFEST}; remove the folder and import the model again"
        ) from None
