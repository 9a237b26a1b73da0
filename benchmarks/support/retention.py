"""What fine-tuning forgets of pairs that it does not see: plainly, with distillation,
interpolation, and both.

Real products of one category are pretrained on and those of two others fine-tuned on, through the
training loop and on the small ViT of ``configs/fashion-products.yaml``. Judged are test products of
either side, which share no caption and no picture with what is trained on. The best epoch and the
interpolation coefficient are chosen on pairs carved from the new side's train. A seed takes about
ten minutes of one core.
"""

import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.support.recipes import metrics_on, profiled
from model.batches.loading import PairInput, pair_input
from model.config.load import load_config
from model.config.sections import StageConfig
from model.errors import DataError
from model.pairs.index import PairIndex, carve_valid
from model.pairs.splits import read_side_table
from model.towers.create import create_towers
from model.towers.folder import load_towers
from model.towers.towers import Towers
from model.training.loop import train
from model.training.stage import Callbacks, Stage

CONFIG = "configs/fashion-products.yaml"
OLD, NEW = ("Apparel",), ("Footwear", "Accessories")
JUDGE_SHARE = 0.1  # carved from either side's train; choices are made on it
BATCH_SIZE = 128
PRETRAIN_LR, LR = 7e-4, 5e-4
DISTILLED: dict[str, Any] = {"distill_weight": 0.5}
INTERPOLATED: dict[str, Any] = {
    "interpolation": (0.5, 0.6, 0.7, 0.8, 0.9),
    "interpolation_tolerance": 0.005,
}
START, PLAIN, BOTH = "start weights", "plain fine-tuning", "+ both"


class Recalls(NamedTuple):
    """Mean recall on the new side's and on the old side's pairs, 0 to 1 each."""

    new: float
    old: float


@dataclass(frozen=True)
class Sides:
    """Pairs to pretrain on, to fine-tune on and to choose on, and those that are judged."""

    old: PairInput
    new: PairInput
    valid: PairInput
    judged_new: PairInput
    judged_old: PairInput


def retention_ratio(
    epochs: int = 6,
    pretrain_epochs: int = 8,
    seeds: Sequence[int] = (0,),
    judged_on_test: bool = True,
) -> tuple[float, float]:
    """Print the table; return how many times more is retained with both than plainly, and the new
    side's difference.

    With ``judged_on_test`` False, pairs carved from train are judged, for choosing weights and
    coefficients.
    """
    measured: dict[str, list[Recalls]] = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            sides = make_sides(Path(folder), seed, judged_on_test)
            for name, recalls in _measure(sides, Path(folder), epochs, pretrain_epochs, seed):
                measured.setdefault(name, []).append(recalls)
    _print(measured, f"{pretrain_epochs} + {epochs} epochs, {len(seeds)} seeds")
    retained = [
        both.old / plain.old for both, plain in zip(measured[BOTH], measured[PLAIN], strict=True)
    ]
    gained = [
        both.new - plain.new for both, plain in zip(measured[BOTH], measured[PLAIN], strict=True)
    ]
    return statistics.mean(retained), statistics.mean(gained)


def make_sides(folder: Path, seed: int, judged_on_test: bool) -> Sides:
    """Split the real pairs by category; train pairs that share a caption or a picture with test are left out."""
    root = os.environ.get("REAL_PAIRS")
    if not root:
        raise DataError(
            "REAL_PAIRS names no folder of real pairs; set it to one that holds fashion-products"
        )
    train, of_train = _read(Path(root) / "fashion-products" / "train.tsv", folder)
    test, of_test = _read(Path(root) / "fashion-products" / "test.tsv", folder)
    leaks = np.isin(train.caption_hash, test.caption_hash) | np.isin(
        train.image_hash, test.image_hash
    )
    old, held = carve_valid(
        train.take(np.flatnonzero(np.isin(of_train, OLD) & ~leaks)), JUDGE_SHARE, seed
    )
    new, valid = carve_valid(
        train.take(np.flatnonzero(np.isin(of_train, NEW) & ~leaks)), JUDGE_SHARE, seed
    )
    tested = [test.take(np.flatnonzero(np.isin(of_test, side))) for side in (NEW, OLD)]
    judged = tested if judged_on_test else [valid, held]
    towers = create_towers(load_config(CONFIG).model, "cpu")
    return Sides(*(pair_input(towers.input_spec, index) for index in (old, new, valid, *judged)))


def _read(tsv: Path, folder: Path) -> tuple[PairIndex, np.ndarray[Any, Any]]:
    """Return a split and the category of each of its pairs."""
    index, products = profiled(tsv, folder), read_side_table(tsv, required=True)
    assert products is not None
    return index, np.array(products["category"].to_pylist())[index.line - 1]


def _measure(
    sides: Sides, folder: Path, epochs: int, pretrain_epochs: int, seed: int
) -> Iterable[tuple[str, Recalls]]:
    """Yield what each way ends with; a way's training with interpolation also gives the weights without it."""
    config = load_config(CONFIG, [f"seed={seed}"])
    shared = {
        "batch_size": BATCH_SIZE,
        "warmup_steps": 20,
        "concept_weight": 1.0,
        "queue_size": 8192,
    }
    stage = StageConfig.model_validate(shared | {"lr": PRETRAIN_LR, "epochs": pretrain_epochs})
    start, _ = _train(
        create_towers(config.model, "cpu", seed=seed),
        sides.old,
        sides.judged_old,
        stage,
        folder / "old",
    )
    yield START, _judge(start, sides)
    for name, changes in {"plain fine-tuning": {}, "+ distillation": DISTILLED}.items():
        values = shared | {"lr": LR, "epochs": epochs} | INTERPOLATED | changes
        tuned = StageConfig.model_validate(values)
        kept, trained = _train(
            load_towers(start, "cpu"), sides.new, sides.valid, tuned, folder / name
        )
        yield name, _judge(trained, sides)
        yield BOTH if changes else "+ interpolation", _judge(kept, sides)


def _train(
    towers: Towers, pairs: PairInput, valid: PairInput, config: StageConfig, folder: Path
) -> tuple[Path, Path]:
    """Train and return the model folder that a run keeps, and that of its best epoch."""
    stage = Stage(config, pairs, lambda towers: metrics_on(towers, valid), folder, 0, workers=0)
    state = train(towers, stage, Callbacks())
    best_step = next(
        int(entry["step"]) for entry in state.history if entry["epoch"] == state.best_epoch
    )
    return folder / state.best_folder, folder / f"best-{best_step:09d}"


def _judge(folder: Path, sides: Sides) -> Recalls:
    towers = load_towers(folder, "cpu")
    return Recalls(
        *(
            metrics_on(towers, pairs)["mean_recall"]
            for pairs in (sides.judged_new, sides.judged_old)
        )
    )


def _print(measured: dict[str, list[Recalls]], title: str) -> None:
    print(
        f"\nMean recall, %, {title}: fine-tuned on {' and '.join(NEW)}, pretrained on {' and '.join(OLD)}"
    )
    print(f"{'':>20} {'new':>6} {'old':>6} {'old / start':>12}")
    for name, recalls in measured.items():
        new, old = (statistics.mean(side) for side in zip(*recalls, strict=True))
        share = statistics.mean(
            r.old / s.old for r, s in zip(recalls, measured[START], strict=True)
        )
        print(f"{name:>20} {100 * new:6.1f} {100 * old:6.1f} {share:12.2f}")
