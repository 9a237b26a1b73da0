"""Folders that are whole or absent, which checkpoints and the registry check, without torch.

A sealed folder is written under a temporary name (``step-000123.tmp``), its files are synced,
``manifest.json`` with their SHA-256 and sizes comes last, and a rename makes it visible. A reader
that checks the manifest therefore never loads half a checkpoint or a flipped bit. Checking costs
about 0.6 s a gigabyte. Importing this module costs 20 ms, and torch's seconds are saved where
nothing is computed: a rollback, a run with nothing new.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from model.errors import CheckpointError
from model.storage.files import FILE_MODE, file_digest, fsync_folder, write_failure

MANIFEST = "manifest.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


@contextmanager
def sealed_folder(folder: Path, digests: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder``, with a manifest, when the block ends well.

    ``digests`` are the SHA-256 (hex) of files that were hashed while they were written; the others
    are read for it.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing half-written
        stays.
    """
    with whole_folder(folder) as temporary:
        fault_point("save:before_write")
        yield temporary

        # The manifest makes the folder valid, so it comes last.
        manifest = {
            path.name: {
                "sha256": (digests or {}).get(path.name) or file_digest(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(temporary.iterdir())
            if path.is_file()
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        fault_point("save:before_rename")
    fault_point("save:after_rename")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` when the block ends well.

    It vanishes when the block does not.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary

        for path in temporary.iterdir():
            path.chmod(FILE_MODE)  # safetensors leaves 0600
            _fsync(path)
        fsync_folder(temporary)

        # What a killed run left under the name was written by the same step and is made anew.
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        fsync_folder(folder.parent)
    except OSError as error:
        raise write_failure(folder, error) from error
    except SafetensorError as error:
        # It gives the error number only in words.
        number = re.search(r"os error (\d+)", str(error))
        failure = OSError(int(number[1]) if number else 0, str(error))
        raise write_failure(folder, failure) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fsync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def verify_sealed(folder: Path) -> dict[str, str]:
    """Check a sealed folder and return the SHA-256 (hex) of each file by name.

    Raises:
        CheckpointError: the manifest is missing or a file is missing, cut or changed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = {
            name: (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{folder}: no readable {MANIFEST}, so it is incomplete; remove it and run again"
        ) from None

    for name, (digest, size) in expected.items():
        path = folder / name
        with suppress(OSError):
            if path.stat().st_size == size and file_digest(path) == digest:
                continue
        raise CheckpointError(
            f"{path}: missing or damaged (SHA-256 differs); remove the folder and run again"
        )
    return {name: digest for name, (digest, _) in expected.items()}


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 (hex) of a model folder's weights, as its manifest records it.

    Raises:
        CheckpointError: the folder is no model folder, or a file of it is missing, cut or changed.
    """
    digests = verify_sealed(folder)
    if WEIGHTS_FILE not in digests:
        raise CheckpointError(
            f"{folder}: no {WEIGHTS_FILE}, so it is no model folder; choose another"
        )
    return digests[WEIGHTS_FILE]


def require_space(folder: Path, needed_bytes: int, what: str = "checkpoints") -> None:
    """Check, before any work, that what will be written fits.

    Raises:
        CheckpointError: less is free than is needed.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise CheckpointError(
            f"{existing}: {free / 1e6:,.0f} MB free, but {what} need {needed_bytes / 1e6:,.0f} MB; "
            "free some space and run again"
        )


def fault_point(name: str) -> None:
    """Kill this process when the environment variable FAULT names the point.

    The crash tests' only hook; it costs 2 µs.
    """
    if os.environ.get("FAULT") == name:
        os.kill(os.getpid(), 9)
