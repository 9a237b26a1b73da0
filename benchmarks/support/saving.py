"""What checkpoints cost a training as configured: their share of its time."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

from model.batches.loading import PairInput
from model.config.load import RunConfig
from model.towers.create import create_towers
from model.training import loop as training
from model.training.loop import train
from model.training.stage import Callbacks, Stage
from model.training.state import Keeper


class Saving(NamedTuple):
    """Seconds of a training, those spent saving checkpoints and best weights, and the saves."""

    total_s: float
    saving_s: float
    saves: int

    @property
    def share(self) -> float:
        """The share of the time that saving took."""
        return self.saving_s / self.total_s


def measure_saving(config: RunConfig, pairs: PairInput, epochs: int = 1) -> Saving:
    """Train the config's finetune stage for some epochs, and time what saving takes.

    Each epoch ends with a save whatever it costs, so epochs over few pairs pay more than a long
    stage does.
    """
    spent: list[float] = []
    towers = create_towers(config.model, config.device, config.precision, config.seed)
    stage_config = config.finetune.model_copy(update={"epochs": epochs})

    with (
        TemporaryDirectory() as folder,
        patch.object(Keeper, "save", _timed(Keeper.save, spent)),
        patch.object(training, "save_towers", _timed(training.save_towers, spent)),
    ):
        measured = {"mean_recall": 0.0}
        stage = Stage(stage_config, pairs, lambda _: measured, Path(folder), 0, config.workers)
        begin = time.monotonic()
        train(towers, stage, Callbacks())
        total_s = time.monotonic() - begin
    return Saving(total_s, sum(spent), len(spent))


def _timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """Make a function that does the same and adds its seconds to a list."""

    def timed(*arguments: Any, **options: Any) -> Any:
        begin = time.monotonic()
        try:
            return function(*arguments, **options)
        finally:
            spent.append(time.monotonic() - begin)

    return timed
