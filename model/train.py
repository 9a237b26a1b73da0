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
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model.batches import Batch, Crop, PairInput, load_batch
from model.checkpoint import Checkpoint, load_latest, require_space, save_checkpoint
from model.concepts import FeatureQueue, Vocabulary, concept_targets, mine_concepts
from model.config import StageConfig
from model.errors import ConfigError, DataError, TrainingDiverged
from model.loss import MAX_LOG_SCALE, concept_matching, info_nce
from model.prefetch import prefetch
from model.sampler import Sampler
from model.towers import Towers, encode_images, encode_tokens, save_towers

Labels = npt.NDArray[np.int32]

FETCH_EVERY = 10
ADAM_BETA1 = 0.9
ADAM_EPS = 1e-6
CONCEPT_SCALE_START = 10.0


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


class Objective(torch.nn.Module):
    """InfoNCE, and the concept-matching loss with its own scale and feature queue where the config wants it."""

    def __init__(self, towers: Towers, stage: StageConfig, vocabulary: Vocabulary | None) -> None:
        """Make the objective of a stage; without a vocabulary it is plain InfoNCE."""
        super().__init__()
        self.weight = stage.concept_weight
        self.queue: FeatureQueue | None = None
        if vocabulary is not None:
            self.queue = FeatureQueue(stage.queue_size, len(vocabulary), towers.embed_dim)
            self.log_scale = torch.nn.Parameter(torch.tensor(math.log(CONCEPT_SCALE_START)))
            self.register_buffer("idf", vocabulary.idf())
        self.to(towers.device)

    idf: torch.Tensor

    def forward(
        self, image_BD: torch.Tensor, text_BD: torch.Tensor, logit_scale: torch.Tensor, concepts_BM: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Return each loss term by name, and ``loss``, the sum that is minimised."""
        terms = {"info_nce": info_nce(image_BD, text_BD, logit_scale)}
        total = terms["info_nce"]
        if self.queue is not None and concepts_BM is not None:
            terms["concept"] = self._concept_loss(self.queue, image_BD, text_BD, concepts_BM)
            total = total + self.weight * terms["concept"]
        return {"loss": total, **terms}

    def _concept_loss(
        self, queue: FeatureQueue, image_BD: torch.Tensor, text_BD: torch.Tensor, concepts_BM: torch.Tensor
    ) -> torch.Tensor:
        queue.push(image_BD, text_BD, concepts_BM)
        known_C = queue.is_known()
        targets_BC = concept_targets(concepts_BM, self.idf, known_C)[:, known_C]
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        return concept_matching(image_BD, text_BD, *queue.means(), queue.prototypes()[known_C], targets_BC, scale)


def train(towers: Towers, stage: Stage, callbacks: Callbacks) -> TrainState:
    """Train the towers, going on from the newest checkpoint in the stage's folder; return where the best weights lie.

    Raises:
        ConfigError: the batch is larger than the split.
        TrainingDiverged: a loss became NaN or infinite.
        CheckpointError: a checkpoint cannot be written.
    """
    config = stage.config
    if config.batch_size > len(stage.train):
        raise ConfigError(
            f"batch_size is {config.batch_size}, but there are only {len(stage.train)} train pairs; lower it"
        )
    vocabulary, concepts = _label_concepts(stage)
    objective = Objective(towers, config, vocabulary)
    optimizer = make_optimizer(towers.clip, objective, config)
    state = _resume(stage, towers, objective, optimizer)
    require_space(stage.folder, _checkpoint_bytes(towers, objective))
    sampler = Sampler(len(stage.train), config.batch_size, stage.seed, *_rank_of_world())
    steps = sampler.batches_an_epoch * config.epochs
    callbacks.on_start(state.step, steps)
    for epoch in range(state.epoch, config.epochs):
        step = _Stepper(towers, objective, optimizer, config, steps, state, callbacks, _latest_name(stage))
        for batch in _epoch_batches(stage, towers, sampler, epoch):
            step(batch, None if concepts is None else concepts[batch.rows])
        step.finish()
        state.epoch = epoch + 1
        _finish_epoch(stage, towers, objective, optimizer, state, callbacks)
    return state


def _label_concepts(stage: Stage) -> tuple[Vocabulary | None, Labels | None]:
    """Mine the concepts of the train captions and label each pair with those that it names."""
    if stage.config.concept_weight == 0:
        return None, None
    captions = stage.train.index.captions()
    vocabulary = mine_concepts(captions, stage.config.min_concept_count)
    if not len(vocabulary):
        raise DataError(
            f"no concept is named by {stage.config.min_concept_count} train captions; "
            "lower min_concept_count or set concept_weight to 0"
        )
    return vocabulary, vocabulary.label(captions)


def make_optimizer(clip: torch.nn.Module, objective: torch.nn.Module, config: StageConfig) -> torch.optim.AdamW:
    """Return AdamW over towers and objective; norms, biases and scales (fewer than two dimensions) do not decay."""
    trained = [p for module in (clip, objective) for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(ADAM_BETA1, config.beta2), eps=ADAM_EPS, foreach=True)


def learning_rate(step: int, steps: int, config: StageConfig) -> float:
    """Return the rate of a 0-based step: linear warm-up to ``lr``, then half a cosine down to ``min_lr``."""
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def _rank_of_world() -> tuple[int, int]:
    """Return which of how many processes this is, as a launcher set torch.distributed up; one alone otherwise."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _epoch_batches(stage: Stage, towers: Towers, sampler: Sampler, epoch: int) -> Iterator[Batch]:
    config = stage.config
    crop = Crop(towers.image_size, config.crop_scale, config.flip, stage.seed, epoch)
    return prefetch(sampler.batches(epoch), lambda rows: load_batch(stage.train, rows, crop), stage.workers)


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
    ) -> None:
        self.towers, self.objective, self.optimizer, self.config = towers, objective, optimizer, config
        self.steps, self.state, self.callbacks, self.last_good = steps, state, callbacks, last_good
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.pending: list[tuple[int, float, dict[str, torch.Tensor]]] = []
        self.since = time.monotonic()
        towers.clip.train()

    def __call__(self, batch: Batch, concepts: Labels | None) -> None:
        lr = learning_rate(self.state.step, self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        measured = self._update(batch, concepts)
        self.state.step += 1
        self.pending.append((self.state.step, lr, measured))
        if len(self.pending) >= FETCH_EVERY:
            self.flush()

    def _update(self, batch: Batch, concepts: Labels | None) -> dict[str, torch.Tensor]:
        clip, device = self.towers.clip, self.towers.device
        named = None if concepts is None else torch.from_numpy(concepts).to(device, torch.int64)
        image_BD, text_BD = encode_images(self.towers, batch.images), encode_tokens(self.towers, batch.tokens)
        terms = self.objective(image_BD, text_BD, clip.logit_scale.exp(), named)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, MAX_LOG_SCALE)
        scale = clip.logit_scale.detach().exp()
        return {**{name: term.detach() for name, term in terms.items()}, "logit_scale": scale, "grad_norm": norm}

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
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
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
    state: TrainState,
    callbacks: Callbacks,
) -> None:
    """Validate, keep the weights when they are the best so far, write the checkpoint."""
    if objective.queue is not None:
        objective.queue.rebuild()
    metrics = stage.validate(towers)
    is_best = metrics["mean_recall"] > state.best_mean_recall
    older_best = state.best_folder
    if is_best:
        folder = stage.folder / f"best-{state.step:09d}"
        save_towers(towers, folder)
        state.best_epoch, state.best_mean_recall, state.best_folder = state.epoch, metrics["mean_recall"], folder.name
    state.history.append({"epoch": state.epoch, "step": state.step, **metrics})
    tensors = {
        "weights": dict(towers.clip.state_dict()),
        "objective": dict(objective.state_dict()),
        "optimizer": _optimizer_tensors(optimizer),
    }
    save_checkpoint(stage.folder / "checkpoints", state.step, tensors, asdict(state))
    _purge_best(stage.folder, {older_best, state.best_folder})
    callbacks.on_epoch(EpochRecord(state.epoch, state.step, metrics, is_best))


def _purge_best(folder: Path, kept: set[str]) -> None:
    """Remove the best weights that neither kept checkpoint names; a damaged one's predecessor needs its own."""
    for older in folder.glob("best-*"):
        if older.name not in kept:
            shutil.rmtree(older, ignore_errors=True)


def _resume(stage: Stage, towers: Towers, objective: Objective, optimizer: torch.optim.AdamW) -> TrainState:
    """Return the state of the newest checkpoint, its tensors put in place, or a fresh one."""
    checkpoint = load_latest(stage.folder / "checkpoints")
    if checkpoint is None:
        return TrainState()
    towers.clip.load_state_dict(checkpoint.tensors["weights"])
    objective.load_state_dict(checkpoint.tensors["objective"])
    _restore_optimizer(optimizer, checkpoint)
    return TrainState(**checkpoint.state)


def _optimizer_tensors(optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def _restore_optimizer(optimizer: torch.optim.AdamW, checkpoint: Checkpoint) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in checkpoint.tensors["optimizer"].items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _checkpoint_bytes(towers: Towers, objective: Objective) -> int:
    """Return the bytes of three checkpoints (weights and two moments each) and three best weights.

    Two of each are kept, and the next is written before the oldest goes.
    """
    return 3 * (4 * _bytes(towers.clip.state_dict()) + _bytes(objective.state_dict()))


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())


def _latest_name(stage: Stage) -> str:
    folder = stage.folder / "checkpoints"
    names = sorted(path.name for path in folder.glob("step-*")) if folder.is_dir() else []
    return str(folder / names[-1]) if names else "none yet (the stage's start weights are intact)"
