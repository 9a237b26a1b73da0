"""Imported models by name: folders below one folder, the shelf, each sealed by a manifest.

Finding one and its recorded hash reads a manifest of about 1 KB; neither imports torch.
"""

import json
from pathlib import Path

from model.errors import CheckpointError, ConfigError
from model.storage.sealed import MANIFEST

# Form, file, SHA-256 and licence of what was published; it travels with what is trained.
ORIGIN_FILE = "origin.json"


def find_imported(pretrained: str | None, shelf: Path) -> Path | None:
    """Return the model folder that ``model.pretrained`` names: one on the shelf, or a path.

    None where it is neither.

    Raises:
        ConfigError: it is the path of a folder that was not imported.
    """
    if pretrained is None:
        return None
    is_on_shelf = "/" not in pretrained and (shelf / pretrained).is_dir()
    folder = shelf / pretrained if is_on_shelf else Path(pretrained)
    if not folder.is_dir():
        return None

    if not (folder / MANIFEST).is_file():
        raise ConfigError(
            f"model.pretrained is '{pretrained}', a folder as published; make base weights of it "
            f"by `python -m flows models import {pretrained} --as NAME`"
        )
    return folder


def recorded_weights_sha256(folder: Path) -> str:
    """Return the SHA-256 (hex) of a model folder's weights as its manifest records it, unchecked.

    Raises:
        CheckpointError: the manifest is unreadable.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        weights = (entry for name, entry in manifest.items() if name.endswith(".safetensors"))
        return str(next(weights)["sha256"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        raise CheckpointError(
            f"{folder}: no readable {MANIFEST}; remove the folder and import the model again"
        ) from None
