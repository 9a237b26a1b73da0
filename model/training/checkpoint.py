"""Training state on disk: a sealed folder a step (`model.storage.sealed`), the newest two kept."""

import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from model.storage.sealed import fault_point, sealed_folder, verify_sealed
from model.towers.towers import NamedTensors

STATE_FILE = "state.json"
STEP_FOLDER = re.compile(r"^step-\d{9}$")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Training state read back: named groups of tensors and the plain values beside them."""

    folder: Path
    step: int
    tensors: dict[str, NamedTensors]
    state: dict[str, Any]


def save_checkpoint(
    root: Path, step: int, tensors: dict[str, NamedTensors], state: dict[str, Any], keep: int = 2
) -> Path:
    """Write ``root/step-000000123``, a safetensors file a group; purge all but ``keep`` folders."""
    folder = root / f"step-{step:09d}"
    with sealed_folder(folder) as temporary:
        for group, named in tensors.items():
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in named.items()},
                temporary / f"{group}.safetensors",
            )
        fault_point("save:mid_write")
        (temporary / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    for older in _steps(root)[:-keep]:
        fault_point("save:purge")
        shutil.rmtree(older, ignore_errors=True)
    return folder


def newest_checkpoint(root: Path) -> Path | None:
    """Find the folder of the newest checkpoint, whole or not, or None."""
    return next(reversed(_steps(root)), None)


def load_latest(root: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is whole, or None; a damaged one is a warning."""
    for folder in reversed(_steps(root)):
        try:
            return _load(folder)
        except CheckpointError as error:
            log.warning("%s; going on from the checkpoint before it", error)
    return None


def _load(folder: Path) -> Checkpoint:
    names = verify_sealed(folder)
    if STATE_FILE not in names:
        raise CheckpointError(f"{folder}: no {STATE_FILE}, so it is no checkpoint; remove it")

    try:
        return Checkpoint(
            folder,
            int(folder.name.removeprefix("step-")),
            tensors={
                Path(name).stem: load_file(folder / name)
                for name in names
                if name.endswith(".safetensors")
            },
            state=json.loads((folder / STATE_FILE).read_text(encoding="utf-8")),
        )
    except (OSError, SafetensorError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{folder}: holds something else than tensors and JSON ({reason}); remove it"
        ) from None


def _steps(root: Path) -> list[Path]:
    """List the checkpoint folders by step; never by time, clocks run backwards."""
    if not root.is_dir():
        return []
    # Steps are padded with zeros, so names sort as they do.
    return sorted(path for path in root.iterdir() if STEP_FOLDER.match(path.name) and path.is_dir())
