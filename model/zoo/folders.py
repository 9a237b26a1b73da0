"""What lies in a folder that somebody published: fixed names, no link out of it, nothing run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

MAX_JSON_BYTES = 1_000_000
MAX_TOKENIZER_BYTES = 100_000_000  # Gemma's has 34 MB
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
LARGEST_SIZE = 10_000_000


def find_file(folder: Path, names: Sequence[str], what: str = "weights file") -> Path:
    """Return the one file of a folder that has one of the names.

    Raises:
        CheckpointError: there is none, or more than one, or it is a link out of the folder.
    """
    found = [path for name in names if (path := file_of(folder, name)) is not None]

    # Hubs publish the same weights as .safetensors and as .bin.
    safe = [path for path in found if ".safetensors" in path.suffixes]
    found = safe if len(safe) == 1 else found
    if not found:
        raise CheckpointError(
            f"{folder}: no {what} ({' or '.join(names)}); is the download complete?"
        )
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: several candidates ({', '.join(path.name for path in found)}); "
            "name the file to import, not the folder"
        )
    return found[0]


def file_of(folder: Path, name: str) -> Path | None:
    """Return a file of a folder by its name, None where there is none.

    Raises:
        CheckpointError: it is a link out of the folder, other than Hugging Face's cache has.
    """
    path = folder / name
    if not path.is_file():
        return None

    # <model>/snapshots/<revision>/<file> is a link to <model>/blobs/<hash>.
    real, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not (real.is_relative_to(home) or real.is_relative_to(blobs)):
        raise CheckpointError(
            f"{path}: a link out of its folder, to {real}; put the file itself there"
        )
    return path


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the mapping in a JSON file of a folder, an empty one where there is no such file.

    Raises:
        CheckpointError: the file is no JSON mapping, or is too large for one.
    """
    path = file_of(folder, name)
    if path is None:
        return {}
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(
            f"{path}: more than {MAX_JSON_BYTES:,} bytes, so it is no config; is this the right "
            "file?"
        )

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable JSON ({type(error).__name__}); fetch it again"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: expected a mapping, found {type(content).__name__}; fetch it again"
        )
    return content


def require_sizes(path: Path, sizes: Mapping[str, object]) -> None:
    """Refuse a config in which a size is no positive number.

    Raises:
        CheckpointError: one is not.
    """
    for name, value in sizes.items():
        if type(value) is not int or not 0 < value < LARGEST_SIZE:
            raise CheckpointError(
                f"{path}: {name} is {value!r}, no positive number; fetch it again"
            )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a mapping as people read it."""
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def refuse_code(folder: Path, name: str) -> None:
    """Refuse a folder whose JSON file asks for code of its own to be run.

    Raises:
        CheckpointError: it does.
    """
    asked = [key for key in ("auto_map", "custom_pipelines") if key in read_json(folder, name)]
    if asked:
        raise CheckpointError(
            f"{folder / name}: asks to run code that came with it ({', '.join(asked)}); not "
            "imported"
        )


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a Hugging Face tokeniser by name.

    Raises:
        CheckpointError: there is no tokenizer.json, it is too large, or code would have to be run.
    """
    refuse_code(folder, "tokenizer_config.json")
    found = {name: path for name in TOKENIZER_FILES if (path := file_of(folder, name)) is not None}
    if "tokenizer.json" not in found:
        raise CheckpointError(
            f"{folder}: no tokenizer.json, so captions cannot be read; is the download complete?"
        )

    for path in found.values():
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise CheckpointError(
                f"{path}: more than {MAX_TOKENIZER_BYTES:,} bytes, so it is no tokeniser"
            )
    return {name: path.read_bytes() for name, path in found.items()}
