"""The training loop: one stage, from start weights to the best epoch's weights.

Everything that a resumed run needs is in `TrainState`; a checkpoint is written at the end of each epoch, so a killed
run loses at most one epoch and, on one CPU machine, ends with the same bits as an unbroken one. The loop does no I/O
but its checkpoints and the callbacks handed in. Losses are fetched from the
device every `FETCH_EVERY` steps, not each step.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from model.averaging import WeightAverage, averaged, choose_coefficient, copy_weights, interpolate, make_average
from model.batches import Batch, Crop, PairInput, load_batch, pinned
from model.checkpoint import Tensors, load_latest, require_space, save_checkpoint
from model.distillation import Teacher, make_teacher
from model.distributed import ask_main, barrier, is_main, rank_of_world, require_same_step
from model.encode import set_patch_dropout
from model.errors import ConfigError, TrainingDiverged
from model.objective import Labels, Objective, label_concepts
from model.optimizer import (
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    set_training,
)
from model.prefetch import prefetch
from model.sampler import Sampler
from model.sections import StageConfig
from model.towers import Towers, load_towers, save_towers
from model.update import Updater

FETCH_EVERY = 10
INTERPOLATED = "interpolated"


@dataclass(frozen=True)
class StepRecord:
    """What one step measured; ``losses`` holds each term by name and their weighted sum as ``loss``."""

    step: int
    losses: dict[str, float]
    lr: float
    logit_scale: float
    grad_norm: float
    pairs_per_s: float


@dataclass(frozen=True)
class EpochRecord:
    """What validation found after an epoch (1-based)."""

    epoch: int
    step: int
    metrics: dict[str, float]
    is_best: bool


@dataclass(frozen=True)
class Callbacks:
    """How progress leaves the loop."""

    on_start: Callable[[int, int], None] = lambda first_step, steps: None
    on_step: Callable[[StepRecord], None] = lambda record: None
    on_epoch: Callable[[EpochRecord], None] = lambda record: None


@dataclass(frozen=True)
class Stage:
    """What a stage trains on and how it is judged: ``validate`` returns metrics, ``mean_recall`` among them."""

    config: StageConfig
    train: PairInput
    validate: Callable[[Towers], dict[str, float]]
    folder: Path
    seed: int
    workers: int


@dataclass
class TrainState:
    """Where training stands; with weights, optimiser and objective it is all that a checkpoint holds."""

    step: int = 0
    epoch: int = 0
    best_epoch: int = 0
    best_mean_recall: float = -1.0
    best_folder: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    # How far the best weights lie from the start weights (0) to the trained ones (1), and the recalls of all tried.
    coefficient: float = 1.0
    interpolations: list[dict[str, float]] = field(default_factory=list)


def train(towers: Towers, stage: Stage, callbacks: Callbacks) -> TrainState:
    """Train the towers, going on from the newest checkpoint in the stage's folder; return where the best weights lie.

    Raises:
        ConfigError: the batch is larger than the split, or cannot be taken in parts by these towers.
        PeerLost: another of the processes that train together ended.
        TrainingDiverged: a loss became NaN or infinite.
        CheckpointError: a checkpoint cannot be written.
    """
    config = stage.config
    if config.batch_size > len(stage.train):
        raise ConfigError(
            f"batch_size is {config.batch_size}, but there are only {len(stage.train)} train pairs; lower it"
        )
    stage, callbacks = _only_main_judges(stage, callbacks)
    vocabulary, concepts = label_concepts(stage.train, config)
    objective = Objective(towers, config, vocabulary)
    set_patch_dropout(towers.clip, config.patch_dropout)
    optimizer = make_optimizer(towers.clip, objective, config)
    teacher, average = make_teacher(towers, config), make_average(towers.clip, config)
    start = copy_weights(towers.clip) if config.interpolation else None
    state = _resume(stage, towers, objective, optimizer, average)
    require_same_step(state.step)
    require_space(stage.folder, _checkpoint_bytes(towers, objective, average))
    sampler = Sampler(len(stage.train), config.batch_size, stage.seed, *rank_of_world())
    steps = sampler.batches_an_epoch * config.epochs
    callbacks.on_start(state.step, steps)
    for epoch in range(state.epoch, config.epochs):
        step = _Stepper(
            towers, objective, optimizer, config, steps, state, callbacks, _latest_name(stage), teacher, average
        )
        for batch in _epoch_batches(stage, towers, sampler, epoch):
            step(batch, None if concepts is None else concepts[batch.rows])
        step.finish()
        state.epoch = epoch + 1
        _finish_epoch(stage, towers, objective, optimizer, average, state, callbacks)
    if start is not None:
        _interpolate_best(stage, towers, start, state)
    return state


def _only_main_judges(stage: Stage, callbacks: Callbacks) -> tuple[Stage, Callbacks]:
    """Let one of several processes validate and report; the others hear what it found."""
    judged = replace(stage, validate=lambda towers: ask_main(lambda: stage.validate(towers)))
    return judged, callbacks if is_main() else Callbacks()


def _epoch_batches(stage: Stage, towers: Towers, sampler: Sampler, epoch: int) -> Iterator[Batch]:
    config = stage.config
    crop = Crop(towers.image_size, config.crop_scale, config.flip, stage.seed, epoch)
    prepare = pinned if towers.device.type == "cuda" else lambda batch: batch
    return prefetch(sampler.batches(epoch), lambda rows: prepare(load_batch(stage.train, rows, crop)), stage.workers)


class _Stepper:
    """One optimiser update a call, measurements fetched in groups."""

    def __init__(
        self,
        towers: Towers,
        objective: Objective,
        optimizer: torch.optim.AdamW,
        config: StageConfig,
        steps: int,
        state: TrainState,
        callbacks: Callbacks,
        last_good: str,
        teacher: Teacher | None,
        average: WeightAverage | None,
    ) -> None:
        self.update = Updater(towers, objective, optimizer, config, teacher)
        self.average = average
        self.optimizer, self.config = optimizer, config
        self.steps, self.state, self.callbacks, self.last_good = steps, state, callbacks, last_good
        self.pending: list[tuple[int, float, dict[str, torch.Tensor]]] = []
        self.since = time.monotonic()
        set_training(towers.clip, optimizer, config, state.epoch)

    def __call__(self, batch: Batch, concepts: Labels | None) -> None:
        lr = learning_rate(self.state.step, self.steps, self.config)
        set_learning_rate(self.optimizer, lr)
        measured = self.update(batch, concepts)
        if self.average is not None:
            self.average.update(self.state.step)
        self.state.step += 1
        self.pending.append((self.state.step, lr, measured))
        if len(self.pending) >= FETCH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Fetch what the pending steps measured, check it, hand it on."""
        if not self.pending:
            return
        values = [{name: float(value) for name, value in measured.items()} for _, _, measured in self.pending]
        seconds = max(time.monotonic() - self.since, 1e-9)
        rate = len(self.pending) * self.config.batch_size / seconds
        for (step, lr, _), value in zip(self.pending, values, strict=True):
            scale, norm = value.pop("logit_scale"), value.pop("grad_norm")
            if not all(map(math.isfinite, (*value.values(), norm))):
                raise self._diverged(step, f"the loss is {value['loss']} (gradient norm {norm})")
            self.callbacks.on_step(StepRecord(step, value, lr, scale, norm, rate))
        self.pending.clear()
        self.since = time.monotonic()

    def finish(self) -> None:
        """Flush, and check the weights too: no loss has yet told what the last update did to them."""
        self.flush()
        if not all(bool(parameter.isfinite().all()) for parameter in self.update.parameters):
            raise self._diverged(self.state.step, "the weights are NaN or infinite")

    def _diverged(self, step: int, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"step {step}: {what}; the last good checkpoint is {self.last_good}; "
            "lower lr, lengthen warmup_steps, or use precision fp32"
        )


def _finish_epoch(
    stage: Stage,
    towers: Towers,
    objective: Objective,
    optimizer: torch.optim.AdamW,
    average: WeightAverage | None,
    state: TrainState,
    callbacks: Callbacks,
) -> None:
    """Validate, keep the weights when they are the best so far, write the checkpoint."""
    if objective.queue is not None:
        objective.queue.rebuild()
    folder, older_best = stage.folder / f"best-{state.step:09d}", state.best_folder
    with averaged(average):
        metrics = stage.validate(towers)
        is_best = metrics["mean_recall"] > state.best_mean_recall
        if is_best and is_main():
            save_towers(towers, folder)
    if is_best:
        state.best_epoch, state.best_mean_recall, state.best_folder = state.epoch, metrics["mean_recall"], folder.name
    state.history.append({"epoch": state.epoch, "step": state.step, **metrics})
    tensors = {
        "weights": dict(towers.clip.state_dict()),
        "objective": dict(objective.state_dict()),
        "optimizer": optimizer_tensors(optimizer),
    }
    if average is not None:
        tensors["average"] = average.state_dict()
    if is_main():
        save_checkpoint(stage.folder / "checkpoints", state.step, tensors, asdict(state))
        _purge_best(stage.folder, {older_best, state.best_folder})
    barrier()
    callbacks.on_epoch(EpochRecord(state.epoch, state.step, metrics, is_best))


def _purge_best(folder: Path, kept: set[str]) -> None:
    """Remove the best weights that neither kept checkpoint names; a damaged one's predecessor needs its own."""
    for older in folder.glob("best-*"):
        if older.name not in kept:
            shutil.rmtree(older, ignore_errors=True)


def _interpolate_best(stage: Stage, towers: Towers, start: Tensors, state: TrainState) -> None:
    """Try mixtures of start and best weights on valid; one that is chosen is kept as the best."""
    config, trained = stage.config, load_towers(stage.folder / state.best_folder, "cpu").clip.state_dict()
    recalls = {1.0: state.best_mean_recall}
    for coefficient in sorted({*config.interpolation} - {1.0}):
        towers.clip.load_state_dict(interpolate(start, trained, coefficient))
        recalls[coefficient] = stage.validate(towers)["mean_recall"]
    state.interpolations = [{"coefficient": a, "mean_recall": recall} for a, recall in sorted(recalls.items())]
    state.coefficient = choose_coefficient(recalls, config.interpolation_tolerance)
    state.best_mean_recall = recalls[state.coefficient]
    towers.clip.load_state_dict(interpolate(start, trained, state.coefficient))
    if state.coefficient < 1:
        if is_main():
            save_towers(towers, stage.folder / INTERPOLATED)
        state.best_folder = INTERPOLATED


def _resume(
    stage: Stage,
    towers: Towers,
    objective: Objective,
    optimizer: torch.optim.AdamW,
    average: WeightAverage | None,
) -> TrainState:
    """Return the state of the newest checkpoint, its tensors put in place, or a fresh one."""
    checkpoint = load_latest(stage.folder / "checkpoints")
    if checkpoint is None:
        return TrainState()
    towers.clip.load_state_dict(checkpoint.tensors["weights"])
    objective.load_state_dict(checkpoint.tensors["objective"])
    restore_optimizer(optimizer, checkpoint)
    if average is not None:
        average.load_state_dict(checkpoint.tensors["average"])
    return TrainState(**checkpoint.state)


def _checkpoint_bytes(towers: Towers, objective: Objective, average: WeightAverage | None) -> int:
    """Return the bytes of three checkpoints (weights, two moments and the average each) and three best weights.

    Two of each are kept, and the next is written before the oldest goes; a mixture has the third one's room.
    """
    kept = _bytes(objective.state_dict()) + (_bytes(average.state_dict()) if average is not None else 0)
    return 3 * (4 * _bytes(towers.clip.state_dict()) + kept)


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())


def _latest_name(stage: Stage) -> str:
    folder = stage.folder / "checkpoints"
    names = sorted(path.name for path in folder.glob("step-*")) if folder.is_dir() else []
    return str(folder / names[-1]) if names else "none yet (the stage's start weights are intact)"
