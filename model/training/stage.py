"""What a training stage is made of, and what it reports while it is under way."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.batches.loading import PairInput
from model.concepts.mining import Vocabulary
from model.config.sections import LanguageChoice, StageConfig
from model.towers.towers import Towers


@dataclass(frozen=True)
class StepRecord:
    """What one step measured: each loss term by name and their weighted sum ``loss``, and rates.

    What follows the gradient norm is measured over a group of steps: pairs a second of all
    processes, the share of the time that was spent waiting for batches, and of this process's
    device the arithmetic (10^12 FLOPs a second), its share of the device's peak, and the largest
    memory in use so far (10^9 bytes, CUDA); None where it is not known.
    """

    step: int
    losses: dict[str, float]
    lr: float
    logit_scale: float
    grad_norm: float
    pairs_per_s: float
    data_wait_share: float = 0.0
    tflops_per_s: float | None = None
    mfu: float | None = None
    peak_memory_gb: float | None = None


@dataclass(frozen=True)
class EpochRecord:
    """What validation found after an epoch (1-based)."""

    epoch: int
    step: int
    metrics: dict[str, float]
    is_best: bool


@dataclass(frozen=True)
class Callbacks:
    """How progress leaves the loop, and how a wish to stop enters it.

    ``on_start`` is called again when training goes back to a checkpoint.
    """

    on_start: Callable[[int, int], None] = lambda first_step, steps: None
    on_step: Callable[[StepRecord], None] = lambda record: None
    on_epoch: Callable[[EpochRecord], None] = lambda record: None
    should_stop: Callable[[], bool] = lambda: False
    on_concepts: Callable[[Vocabulary], None] = lambda vocabulary: None


@dataclass(frozen=True)
class Stage:
    """What a stage trains on, and how it is validated.

    ``validate`` returns metrics, ``mean_recall`` among them; it may raise TrainingStopped, which
    loses nothing. ``peak_flops`` is what the device can do a second, ``language`` that of
    the captions.
    """

    config: StageConfig
    train: PairInput
    validate: Callable[[Towers], dict[str, float]]
    folder: Path
    seed: int
    workers: int
    peak_flops: float | None = None
    language: LanguageChoice = "auto"
