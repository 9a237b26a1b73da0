"""Imported models by name: folders below one folder, the shelf, each sealed by a manifest.

Finding one and its recorded hash reads a manifest of about 1 KB. What is wrong with the names of
a config is found here, too; nothing here imports torch.
"""

import json
from collections.abc import Collection
from pathlib import Path

from model.errors import CheckpointError, ConfigError, nearest, typed
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
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        raise ConfigError(
            f"model.pretrained is '{pretrained}', a folder as published; make base weights of it "
            f"by `{typed(f'models import {pretrained} --as NAME')}`"
        )
    return folder if folder.is_dir() else None


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


def require_name_on_shelf(pretrained: str | None, shelf: Path) -> None:
    """Refuse a name close to one on the shelf: a slip of the pen, not one of open_clip's tags.

    Raises:
        ConfigError: names the one on the shelf.
    """
    folders = shelf.iterdir() if shelf.is_dir() else ()
    hint = nearest(pretrained or "", [path.name for path in folders if path.is_dir()])
    if hint:
        raise ConfigError(
            f"model.pretrained is '{pretrained}': no model was imported under that name{hint}"
        )


def require_architecture(name: str, known: Collection[str]) -> None:
    """Refuse a model that is neither one of open_clip's nor a JSON file.

    Raises:
        ConfigError: names the nearest.
    """
    if not name.endswith(".json") and name not in known:
        raise ConfigError(
            f"model.name is '{name}': open_clip knows no such model{nearest(name, known)}"
        )
    if name.endswith(".json") and not Path(name).is_file():
        files = sorted(str(other) for other in Path(name).parent.glob("*.json"))
        raise ConfigError(f"model.name is '{name}': no such file{nearest(name, files)}")


def require_weights_file(pretrained: str, path: Path) -> None:
    """Refuse base weights in a file that is not there.

    Raises:
        ConfigError: says what else may be named.
    """
    if not path.is_file():
        raise ConfigError(
            f"model.pretrained is '{pretrained}': no such file; "
            "name a weights file, an open_clip tag or null"
        )


def is_tag(pretrained: str) -> bool:
    """Return whether base weights are named by a tag of open_clip's, not by a file."""
    return not Path(pretrained).suffix and "/" not in pretrained
