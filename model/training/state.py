"""What a stage keeps on disk: its training state as checkpoints, and its best weights.

A checkpoint is everything that a resumed run needs to end with the bits of an unbroken one: named
parts with a ``state_dict`` of tensors (weights, optimiser, objective with its feature queue,
averages), and the plain numbers of `TrainState`. Orders, crops and random numbers are pure
functions of (seed, step), so they need no place in it. One is written at the end of each epoch, and
within an epoch as often as costs no more than a share of the time.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from model.towers.towers import NamedTensors
from model.training.checkpoint import load_latest, newest_checkpoint, save_checkpoint


class Stateful(Protocol):
    """What has its state in named tensors, as modules have."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Return the state."""

    def load_state_dict(self, tensors: NamedTensors, /) -> Any:
        """Put a state in place."""


@dataclass
class TrainState:
    """Where training stands; with the parts' tensors it is all that a checkpoint holds.

    ``epoch`` counts the epochs that were validated, ``step`` the updates; so an epoch that is under
    way has had ``step - epoch * steps an epoch`` of them. ``rewinds`` says how often the learning
    rate was halved.
    """

    step: int = 0
    epoch: int = 0
    best_epoch: int = 0
    best_mean_recall: float = -1.0
    best_folder: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    # How far the best weights lie from the start weights (0) to the trained ones (1), and the
    # recalls of all tried.
    coefficient: float = 1.0
    interpolations: list[dict[str, float]] = field(default_factory=list)
    rewinds: int = 0


class Keeper:
    """Writes and reads the checkpoints of a stage's folder; of several processes one writes.

    Adding a part is adding a name with what has its state.
    """

    def __init__(
        self, folder: Path, parts: Mapping[str, Stateful], share: float, is_writer: bool = True
    ) -> None:
        """Take the parts by name, and the share of the time that saving within epochs may take."""
        self._folder, self._parts = folder, dict(parts)
        self._share, self._is_writer = share, is_writer
        # Until a save was measured, it is taken to go to a slow disk, at 200 MB a second.
        self._cost_s = self._checkpoint_bytes() / 200e6
        self._begin = self._since = time.monotonic()
        self._spent_s = 0.0

    def resume(self) -> TrainState | None:
        """Put the newest whole checkpoint in place and return its state; None without one."""
        checkpoint = load_latest(self._folder / "checkpoints")
        if checkpoint is None:
            return None
        for name, part in self._parts.items():
            part.load_state_dict(checkpoint.tensors[name])
        return TrainState(**checkpoint.state)

    def is_due(self) -> bool:
        """Decide whether one more save keeps to the share, since the last one and since the begin.

        The latter leaves room for the save at the epoch's end, which comes whatever it costs.
        """
        if not self._is_writer or self._share in (0, 1):
            return self._is_writer and self._share == 1
        now = time.monotonic()
        has_waited = (now - self._since) * self._share >= self._cost_s * (1 - self._share)
        return has_waited and (now - self._begin) * self._share >= self._spent_s + 2 * self._cost_s

    def save(self, state: TrainState, begin: float | None = None) -> None:
        """Write a checkpoint of the state and its parts.

        ``begin`` is the (monotonic) time since which it holds training up.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written; the checkpoints
            before it are intact.
        """
        if not self._is_writer:
            return

        begin = time.monotonic() if begin is None else begin
        tensors = {name: dict(part.state_dict()) for name, part in self._parts.items()}
        save_checkpoint(self._folder / "checkpoints", state.step, tensors, asdict(state))

        self._since = time.monotonic()
        self._cost_s = self._since - begin
        self._spent_s += self._cost_s

    def last_good(self) -> str:
        """Name the newest checkpoint, for messages."""
        newest = newest_checkpoint(self._folder / "checkpoints")
        return str(newest or "none yet (the stage's start weights are intact)")

    def purge_best(self, kept: set[str]) -> None:
        """Remove the best weights that neither kept checkpoint names.

        Where the newer one is damaged, the older one needs its own.
        """
        for older in self._folder.glob("best-*"):
            if self._is_writer and older.name not in kept:
                shutil.rmtree(older, ignore_errors=True)

    def needed_bytes(self) -> int:
        """Estimate the bytes of three checkpoints and three best weights.

        Two of each are kept, and the next is written before the oldest goes; a mixture has the
        third one's room.
        """
        return 3 * (self._checkpoint_bytes() + _bytes(self._parts["weights"]))

    def _checkpoint_bytes(self) -> int:
        """Estimate the bytes of a checkpoint: the optimiser has two moments a weight."""
        others = self._parts.keys() - {"weights", "optimizer"}
        return 3 * _bytes(self._parts["weights"]) + sum(_bytes(self._parts[n]) for n in others)


def _bytes(part: Stateful) -> int:
    return sum(value.numel() * value.element_size() for value in part.state_dict().values())
