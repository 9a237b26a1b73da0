"""The training loop: one stage, from start weights to the best epoch's weights.

Everything that a resumed run needs is in the checkpoints of `model.training.state`, so a run that
is killed at any moment loses a few steps and, on one CPU machine, ends with the same bits as an
unbroken one. One that is asked to stop loses none. Random numbers of a step are drawn from (seed,
step, rank). The loop does no I/O but its checkpoints and the callbacks handed in. Losses are
fetched from the device every `FETCH_EVERY` steps, not each step.
"""

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from model.batches.loading import Batch, Crop, load_batch, pinned
from model.batches.prefetch import prefetch
from model.batches.sampler import Sampler
from model.concepts.labels import label_concepts
from model.concepts.rewording import Rewording
from model.errors import ConfigError, OutOfMemory, TrainingDiverged, TrainingStopped
from model.pairs.arrays import Rows
from model.storage.sealed import fault_point, require_space
from model.towers.folder import load_towers, save_towers
from model.towers.passes import set_patch_dropout
from model.towers.towers import NamedTensors, Towers
from model.training.averaging import (
    WeightAverage,
    choose_coefficient,
    copy_weights,
    interpolate,
)
from model.training.distillation import Teacher
from model.training.distributed import (
    any_rank,
    ask_main,
    barrier,
    is_main,
    rank_of_world,
    require_same_step,
)
from model.training.locking import lock_towers, locked_in, present_input
from model.training.meter import Meter
from model.training.objective import Objective
from model.training.optimizer import (
    OptimizerState,
    learning_rate,
    make_optimizer,
    set_learning_rate,
    set_training,
)
from model.training.stage import Callbacks, EpochRecord, Stage, StepRecord
from model.training.state import Keeper, TrainState
from model.training.update import Updater

FETCH_EVERY = 10

# What torch's allocator, C++ and oneDNN (which needs memory for the code that it makes) say when
# there is no more.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "could not create a primitive")

log = logging.getLogger(__name__)


def train(towers: Towers, stage: Stage, callbacks: Callbacks) -> TrainState:
    """Train the towers from the newest checkpoint on; the state says where the best weights lie.

    Raises:
        ConfigError: the batch is larger than the split, or cannot be taken in parts by these
        towers.
        PeerLost: another of the processes that train together ended.
        TrainingDiverged: a loss became NaN or infinite.
        TrainingStopped: a callback wanted it; a checkpoint was written first.
        OutOfMemory: a step needs more memory than there is.
        CheckpointError: a checkpoint cannot be written.
    """
    config, validate = stage.config, stage.validate
    if config.batch_size > len(stage.train):
        raise ConfigError(
            f"batch_size is {config.batch_size}, but there are only {len(stage.train)} train "
            "pairs; lower it"
        )

    # One of several processes validates and reports; the others get what it found.
    stage = replace(stage, validate=lambda towers: ask_main(lambda: validate(towers)))
    if not is_main():
        callbacks = Callbacks(should_stop=callbacks.should_stop)

    start = copy_weights(towers.clip) if config.interpolation else None
    with torch.random.fork_rng([towers.device] if towers.device.type == "cuda" else []):
        state = _Loop(towers, stage, callbacks).run()
    if start is not None:
        _interpolate_best(stage, towers, start, state)
    return state


class _Pending(NamedTuple):
    """A step whose measurements are still on the device."""

    step: int
    lr: float
    measured: dict[str, torch.Tensor]
    rows: Rows


class _Loop:
    """A stage under way: what is trained, where it stands, and the epochs that are left."""

    # ---------------------------------------------------------------------------------------------
    # Set up
    # ---------------------------------------------------------------------------------------------

    def __init__(self, towers: Towers, stage: Stage, callbacks: Callbacks) -> None:
        config = stage.config
        self.towers, self.stage, self.callbacks, self.config = towers, stage, callbacks, config
        self.rank, self.world = rank_of_world()

        # What captions say: the concepts that they name, and the words that some of them change.
        vocabulary, self.concepts = label_concepts(stage.train, config, stage.language)
        if vocabulary is not None:
            callbacks.on_concepts(vocabulary)
        self.reword: Rewording | None = None
        if config.keyword_share:
            assert vocabulary is not None, "what keywords are taken from"
            self.reword = Rewording(
                stage.train.index, towers.tokenizer, vocabulary, config.keyword_share, stage.seed
            )

        # What is minimised, and how.
        self.objective = Objective(towers, config, vocabulary)
        set_patch_dropout(towers.clip, config.patch_dropout)
        self.optimizer = make_optimizer(towers.clip, self.objective, config)
        self.learning = {name for name, p in towers.clip.named_parameters() if p.requires_grad}
        self.average = WeightAverage(towers.clip, config.ema_decay) if config.ema_decay else None
        self.update = Updater(
            towers,
            self.objective,
            self.optimizer,
            config,
            teacher=Teacher(towers) if config.distill_weight else None,
        )

        # What a checkpoint holds beside the counters of the state.
        parts = {
            "weights": towers.clip,
            "objective": self.objective,
            "optimizer": OptimizerState(self.optimizer),
        }
        if self.average is not None:
            parts["average"] = self.average
        self.keeper = Keeper(stage.folder, parts, config.checkpoint_share, is_writer=is_main())

        self.sampler = Sampler(
            len(stage.train), config.batch_size, stage.seed, self.rank, self.world
        )
        self.steps = self.sampler.batches_an_epoch * config.epochs
        self.meter = Meter(towers, stage.peak_flops)
        self.pending: list[_Pending] = []

    # ---------------------------------------------------------------------------------------------
    # Resume
    # ---------------------------------------------------------------------------------------------

    def run(self) -> TrainState:
        """Train from the newest checkpoint to the end and return the last state."""
        self.state = self.keeper.resume() or TrainState()
        require_same_step(self.state.step)
        require_space(self.stage.folder, self.keeper.needed_bytes())
        # A stage that may be rewound needs a checkpoint from its first step on.
        if self.config.on_divergence == "rewind" and self.state.step == 0:
            self.keeper.save(self.state)

        try:
            self._run_epochs()
        except TrainingDiverged as error:
            if self.config.on_divergence != "rewind" or self.state.rewinds:
                raise
            self.pending.clear()
            state = self.keeper.resume()
            if state is None:
                raise
            log.warning("%s; going back to step %d with half the rate", error, state.step)

            # The checkpoint records that the rate is halved from there on.
            barrier()  # nobody may replace a checkpoint that another still reads
            self.state = replace(state, rewinds=1)
            self.keeper.save(self.state)
            self._run_epochs()
        return self.state

    # ---------------------------------------------------------------------------------------------
    # An epoch
    # ---------------------------------------------------------------------------------------------

    def _run_epochs(self) -> None:
        self.callbacks.on_start(self.state.step, self.steps)
        # What comes after the last epoch finds the locks of that one.
        self._lock(self.config.epochs - 1)
        try:
            for epoch in range(self.state.epoch, self.config.epochs):
                self._lock(epoch)
                self._train_epoch(epoch)
                self._finish_epoch(epoch)
        except TrainingStopped:
            self.keeper.save(self.state)
            raise
        except (MemoryError, RuntimeError) as error:
            # On the CPU torch and oneDNN raise a plain RuntimeError.
            is_known = isinstance(error, MemoryError | torch.OutOfMemoryError)
            if not is_known and not any(words in str(error) for words in OUT_OF_MEMORY):
                raise

            size = self.config.batch_size
            at_once = self.config.micro_batch_size or size // self.world
            smaller = max(1, min(at_once, size // self.world) // 2)
            raise OutOfMemory(
                f"step {self.state.step + 1}: memory ran out with {at_once} pairs at a time; try "
                f"batch_size {max(2, smaller * self.world)}, or keep batch_size {size} with "
                f"micro_batch_size {smaller}; the last good checkpoint is {self.keeper.last_good()}"
            ) from error

    def _lock(self, epoch: int) -> None:
        """Lock and unlock the towers as an epoch has them."""
        locked = locked_in(self.config, epoch)
        lock_towers(self.towers.clip, locked, self.learning)
        self.still = locked.towers()

    def _train_epoch(self, epoch: int) -> None:
        """Take the steps of an epoch that are left."""
        stage, config, towers = self.stage, self.config, self.towers
        set_training(towers.clip, config, self.still)
        pairs = present_input(towers.clip, stage.train)
        first = epoch * self.sampler.batches_an_epoch
        crop = Crop(
            towers.image_size, config.crop_scale, config.flip, stage.seed, epoch, towers.resizing
        )
        if "image" in self.still:
            crop = Crop(towers.image_size, resizing=towers.resizing)

        def load(rows: Rows) -> Batch:
            batch = load_batch(pairs, rows, crop)
            if self.reword is not None:
                batch = self.reword(batch, epoch)
            return pinned(batch) if towers.device.type == "cuda" else batch

        # Batches are loaded ahead of the steps.
        self.meter.start()
        rows = self.sampler.batches(epoch, (self.state.step - first) * config.batch_size)
        for batch in self.meter.waiting(prefetch(rows, load, stage.workers)):
            self._step(batch)
            fault_point(f"step:{self.state.step}")
            if len(self.pending) >= FETCH_EVERY:
                self._fetch()
            self._stop_or_save(is_last=self.state.step == first + self.sampler.batches_an_epoch)
        self._check()

    def _stop_or_save(self, is_last: bool) -> None:
        """Stop or save where it is due; an epoch's last step is saved when it was validated."""
        # Several processes agree whenever they have fetched losses, so that all do the same.
        if self.world > 1 and self.pending:
            return
        stop, save = any_rank(self.callbacks.should_stop(), self.keeper.is_due())
        if not (stop or save):
            return

        begin = time.monotonic()
        self._check()
        if stop:
            raise TrainingStopped(
                f"stopped after step {self.state.step} of {self.steps}; run again to go on"
            )
        if not is_last:
            self.keeper.save(self.state, begin)
            self.meter.start()

    # ---------------------------------------------------------------------------------------------
    # A step
    # ---------------------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> None:
        # What a step draws is a function of (seed, step, rank): 20 µs, a part of torch.manual_seed.
        state = self.state
        sequence = np.random.SeedSequence((self.stage.seed, state.step, self.rank))
        seed = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        torch.default_generator.manual_seed(seed)
        if self.towers.device.type == "cuda":
            torch.cuda.manual_seed(seed)

        lr = learning_rate(state.step, self.steps, self.config) * 0.5**state.rewinds
        set_learning_rate(self.optimizer, lr, self._warmth)

        measured = self.update(batch, None if self.concepts is None else self.concepts[batch.rows])
        if self.average is not None:
            self.average.update(state.step)

        state.step += 1
        self.meter.count(batch)
        self.pending.append(_Pending(state.step, lr, measured, batch.rows))

    def _warmth(self, locked_epochs: int) -> float:
        """Return the share of its rate that what was locked for so many epochs has by now."""
        steps = self.state.step + 1 - locked_epochs * self.sampler.batches_an_epoch
        return min(1.0, max(steps, 0) / max(self.config.warmup_steps, 1))

    def _fetch(self) -> None:
        """Fetch what the pending steps measured, check it, hand it on."""
        if not self.pending:
            return
        values = [
            {name: float(value) for name, value in pending.measured.items()}
            for pending in self.pending
        ]
        rates = self.meter.read(self.world)

        for pending, value in zip(self.pending, values, strict=True):
            scale, norm = value.pop("logit_scale"), value.pop("grad_norm")
            if not all(map(math.isfinite, (*value.values(), scale, norm))):
                raise self._diverged(pending, f"the loss is {value['loss']} (gradient norm {norm})")
            self.callbacks.on_step(StepRecord(pending.step, value, pending.lr, scale, norm, *rates))

        self.last, self.pending = self.pending[-1], []
        self.meter.start()

    def _check(self) -> None:
        """Fetch, and check the weights too: no loss has been computed since the last update."""
        self._fetch()
        if not bool(torch.stack([p.isfinite().all() for p in self.update.parameters]).all()):
            raise self._diverged(self.last, "the weights are NaN or infinite")

    def _diverged(self, pending: _Pending, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"step {pending.step}: {what}; its batch is "
            f"{self.stage.train.index.where_all(pending.rows)}; the last good checkpoint is "
            f"{self.keeper.last_good()}; lower lr, lengthen warmup_steps, or use precision fp32"
        )

    # ---------------------------------------------------------------------------------------------
    # Validate and keep
    # ---------------------------------------------------------------------------------------------

    def _finish_epoch(self, epoch: int) -> None:
        """Validate, keep the weights when they are the best so far, write the checkpoint."""
        state, stage = self.state, self.stage
        if self.objective.queue is not None:
            self.objective.queue.rebuild()

        folder, older_best = stage.folder / f"best-{state.step:09d}", state.best_folder
        with nullcontext() if self.average is None else self.average.in_place():
            metrics = stage.validate(self.towers)
            is_best = metrics["mean_recall"] > state.best_mean_recall
            if is_best and is_main():
                save_towers(self.towers, folder)

        state.epoch = epoch + 1
        if is_best:
            state.best_epoch, state.best_mean_recall = state.epoch, metrics["mean_recall"]
            state.best_folder = folder.name
        state.history.append({"epoch": state.epoch, "step": state.step, **metrics})

        # Both kept checkpoints name a best: this one, and what was the best at the one before.
        self.keeper.save(state)
        self.keeper.purge_best({older_best, state.best_folder})
        barrier()
        self.callbacks.on_epoch(EpochRecord(state.epoch, state.step, metrics, is_best))


# -------------------------------------------------------------------------------------------------
# End
# -------------------------------------------------------------------------------------------------


def _interpolate_best(stage: Stage, towers: Towers, start: NamedTensors, state: TrainState) -> None:
    """Try mixtures of start and best weights on valid; one that is chosen is kept as the best."""
    trained = load_towers(stage.folder / state.best_folder, "cpu").clip.state_dict()

    recalls = {1.0: state.best_mean_recall}
    for coefficient in sorted({*stage.config.interpolation} - {1.0}):
        towers.clip.load_state_dict(interpolate(start, trained, coefficient))
        recalls[coefficient] = stage.validate(towers)["mean_recall"]

    state.interpolations = [
        {"coefficient": a, "mean_recall": recall} for a, recall in sorted(recalls.items())
    ]
    state.coefficient = choose_coefficient(recalls, stage.config.interpolation_tolerance)
    state.best_mean_recall = recalls[state.coefficient]

    towers.clip.load_state_dict(interpolate(start, trained, state.coefficient))
    if state.coefficient < 1:
        state.best_folder = "interpolated"
        if is_main():
            save_towers(towers, stage.folder / state.best_folder)
