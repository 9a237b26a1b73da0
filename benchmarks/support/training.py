"""The same training steps on the real input and on one ready batch, in turns."""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.support.measure import ROUNDS, Seconds
from model.batches.loading import Crop, PairInput, load_batch, pair_input
from model.config.load import RunConfig, load_config
from model.config.sections import DataConfig
from model.pairs.index import PairSource, index_pairs
from model.pairs.processes import usable_cores
from model.pairs.profile import profile_files, write_profile
from model.towers.create import create_towers
from model.training import loop as training
from model.training.loop import train
from model.training.stage import Callbacks, Stage, StepRecord

CONFIG = "configs/fashion-products.yaml"
# A run is two groups of steps; the second, when the batches loaded ahead have settled, is timed.
GROUP = 6


@dataclass
class Rates:
    """The pairs a second of each group of steps of a run."""

    values: list[float] = field(default_factory=list)

    def hear(self, step: StepRecord) -> None:
        """Keep what a step measured."""
        self.values.append(step.pairs_per_s)


def step_seconds(tsv: Path, folder: Path, rounds: int = ROUNDS) -> Seconds:
    """Time a step on the ``real input`` and on a ``ready batch``, on all cores, a value a round."""
    config, files = load_config(CONFIG), profile_files(folder, tsv.stem)
    # Another process would import all that this one did.
    write_profile(tsv, files, DataConfig(), processes=1)
    index = index_pairs([PairSource(tsv, files.table)])
    rows = np.resize(np.arange(len(index)), 2 * GROUP * config.finetune.batch_size)
    pairs = pair_input(create_towers(config.model, config.device).input_spec, index.take(rows))

    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "real input": nullcontext,
        "ready batch": lambda: _ready(pairs, config),
    }
    taken: Seconds = {name: [] for name in ways}
    torch.set_num_threads(usable_cores())
    for _ in range(rounds):
        for name, way in ways.items():
            with way():
                taken[name].append(config.finetune.batch_size / _run(pairs, config))
    torch.set_num_threads(1)
    return taken


def _ready(pairs: PairInput, config: RunConfig) -> AbstractContextManager[object]:
    """Let the loop be handed one batch again and again; concepts stay those of the rows."""
    towers, stage = create_towers(config.model, config.device), config.finetune
    crop = Crop(towers.image_size, stage.crop_scale, stage.flip)
    batch = load_batch(pairs, np.arange(stage.batch_size), crop)
    return patch.object(training, "load_batch", lambda pairs, rows, crop: batch._replace(rows=rows))


def _run(pairs: PairInput, config: RunConfig) -> float:
    """Train for two groups of steps and measure the pairs a second of the last one."""
    rates = Rates()
    stage_config = config.finetune.model_copy(update={"epochs": 1})
    with TemporaryDirectory() as folder, patch.object(training, "FETCH_EVERY", GROUP):
        measured = {"mean_recall": 0.0}
        stage = Stage(stage_config, pairs, lambda _: measured, Path(folder), 0, config.workers)
        towers = create_towers(config.model, config.device, config.precision)
        train(towers, stage, Callbacks(on_step=rates.hear))
    return statistics.median(rates.values[-GROUP:])
