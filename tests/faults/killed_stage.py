"""What the crash tests run in a child of their own: a tiny stage that can be killed at a point or at any time."""

import hashlib
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from model.batches import pair_input
from model.dataset import PairSource, index_pairs
from model.embed import judge
from model.sections import ModelConfig, StageConfig
from model.stage import Callbacks, EpochRecord, Stage
from model.towers import Towers, create_towers
from model.train import train

EPOCHS = 4


def run_stage(
    model: ModelConfig,
    config: StageConfig,
    data: tuple[PairSource, PairSource],
    folder: Path,
    fault: str | None = None,
    armed_after: int = 0,
    started: Event | None = None,
) -> None:
    """Train to the end; ``fault`` is armed after so many epochs, ``started`` is set before the first step."""
    torch.set_num_threads(1)
    towers = create_towers(model, "cpu", seed=3)
    train_pairs, valid_pairs = (pair_input(towers, index_pairs([source])) for source in data)

    def arm(epoch: int) -> None:
        if fault is not None and epoch == armed_after:
            os.environ["FAULT"] = fault

    def on_epoch(record: EpochRecord) -> None:
        arm(record.epoch)

    def on_start(first_step: int, steps: int) -> None:
        if started is not None:
            started.set()

    def validate(towers: Towers) -> dict[str, float]:
        return judge(towers, valid_pairs, 32, 32, workers=0).metrics()

    arm(0)
    stage = Stage(config, train_pairs, validate, folder, seed=0, workers=1)
    train(towers, stage, Callbacks(on_start=on_start, on_epoch=on_epoch))


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every tensor file and state of a stage's folder, by the path inside it."""
    files = [path for pattern in ("*.safetensors", "state.json") for path in folder.rglob(pattern)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
