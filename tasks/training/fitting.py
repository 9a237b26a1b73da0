"""Fit the towers of a stage: the loop of `model.training` with all that a run keeps of it.

Metrics go to MLflow, progress to the terminal and the Prefect UI, concepts and a report into the
stage's folder; a signal ends it after the step. Imports torch.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from model.batches.loading import PairInput
from model.concepts.mining import Vocabulary
from model.concepts.table import CONCEPTS_FILE, write_concepts
from model.config.sections import StageConfig
from model.errors import TrainingStopped
from model.evaluation.retrieval import RetrievalResult
from model.evaluation.split import evaluate_split
from model.pairs.splits import find_split_files
from model.storage.sealed import weights_sha256
from model.towers.folder import load_towers
from model.towers.towers import Towers, compile_towers
from model.training.locking import locked_in, present_input
from model.training.loop import train
from model.training.meter import measure_peak_flops
from model.training.stage import Callbacks, EpochRecord, Stage, StepRecord
from model.training.state import TrainState
from tasks.cluster.torchrun import Work, call_helpers
from tasks.pages.text import format_retention
from tasks.registry.metric_log import MetricLog
from tasks.registry.tracking import metric_sender
from tasks.runtime.log import run_logger
from tasks.runtime.progress import Progress, progress
from tasks.runtime.records import Retention, Run, TrainedModel, Validation
from tasks.runtime.signals import stop_by_signal
from tasks.training.base_weights import base_weights
from tasks.training.concepts import report_concepts
from tasks.training.report import report_training
from tasks.validation.accepted import RETENTION, split_index
from tasks.validation.inputs import index_input, locked_input, split_input

# A stage that was asked to stop has no more time for MLflow; what waits in the spool is sent by
# the next try.
STOPPED_CLOSE_S = 2.0


def fit_towers(run: Run, validation: Validation, name: str, start: Path | None) -> TrainedModel:
    """Train a model folder, or the run's base weights, by the stage of the config that is named.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        TrainingStopped: a signal came; a checkpoint was written first.
        OutOfMemory: a step needs more memory than there is.
        CheckpointError: weights cannot be read, or a checkpoint cannot be written.
    """
    config: StageConfig = getattr(run.config, name)
    start = start or base_weights(run)
    if config.epochs == 0:
        return TrainedModel(
            folder=start, weights_sha256=weights_sha256(start), best_epoch=0, valid_mean_recall=0.0
        )

    # Other processes are called when the caches of decoded pairs are there.
    towers = load_towers(start, run.config.device, run.config.precision)
    valid = split_input(run, validation, "valid", towers, crops_centre=True)
    pairs = split_input(run, validation, name, towers, crops_centre=config.crop_scale >= 1)
    locked = locked_in(config, 0)
    valid = locked_input(run, validation, "valid", towers, valid, locked)
    pairs = locked_input(run, validation, name, towers, pairs, locked)
    call_helpers(Work(run=run, validation=validation, name=name, start=start))
    run_logger().info(
        "%s: %d train pairs, %d valid pairs, %s, %s",
        *(name, len(pairs), len(valid), towers.device, towers.precision),
    )

    state, concepts = _run_loop(run, name, towers, pairs, valid)
    # The reports embed by the best weights, which share the features of what never moved.
    pairs, valid = (present_input(towers.clip, each) for each in (pairs, valid))
    for tried in state.interpolations:
        run_logger().info(
            "%s at coefficient %.2f: valid mean recall %.1f %%",
            *(name, tried["coefficient"], 100 * tried["mean_recall"]),
        )
    best = run.folder / name / state.best_folder
    for vocabulary in concepts:
        report_concepts(run, name, vocabulary, pairs, valid, start, best)
    report_training(run, name, best, state.best_epoch, valid)
    return TrainedModel(
        folder=best,
        weights_sha256=weights_sha256(best),
        best_epoch=state.best_epoch,
        valid_mean_recall=state.best_mean_recall,
        coefficient=state.coefficient,
        precision=towers.precision,
    )


def _run_loop(
    run: Run, name: str, towers: Towers, pairs: PairInput, valid: PairInput
) -> tuple[TrainState, list[Vocabulary]]:
    """Train the towers and return where the loop ended, with the concepts that it mined, if any."""
    config: StageConfig = getattr(run.config, name)
    folder, concepts = run.folder / name, list[Vocabulary]()
    # A CPU is shared: at such a moment its peak would read lower than the work that follows.
    is_shared = towers.device.type == "cpu"
    peak_flops = None if is_shared else measure_peak_flops(towers.device, towers.precision)

    with stop_by_signal() as stop, ExitStack() as ends:
        log = MetricLog(name, folder, metric_sender(run.mlflow_run_id))
        ends.callback(lambda: log.close(STOPPED_CLOSE_S if stop() else None))
        bar = ends.enter_context(progress(name, config.epochs, "steps"))

        def stop_between_batches(rows: int) -> None:
            if stop():
                raise TrainingStopped("stopped during validation; run again to go on")

        def validate(towers: Towers) -> dict[str, float]:
            present = present_input(towers.clip, valid)
            return _evaluate(run, towers, present, stop_between_batches).metrics()

        def on_concepts(vocabulary: Vocabulary) -> None:
            write_concepts(vocabulary, folder / CONCEPTS_FILE)
            concepts.append(vocabulary)

        steps = _StepLog(name, log, bar)
        workers, seed, language = run.config.workers, run.config.seed, run.config.data.language
        state = train(
            compile_towers(towers) if run.config.compile else towers,
            Stage(config, pairs, validate, folder, seed, workers, peak_flops, language),
            Callbacks(steps.on_start, steps.on_step, steps.on_epoch, stop, on_concepts),
        )
    return state, concepts


def measure_retention(
    run: Run, validation: Validation, start: Path, tuned: Path
) -> Retention | None:
    """Evaluate weights before and after fine-tuning on pretraining pairs that were held out.

    Returns:
        None where nothing was tuned or held out.
    """
    if start == tuned or not find_split_files(run.data.folder).pretrain:
        return None
    held_out = split_index(run, validation, RETENTION)
    if not held_out:
        return None

    recalls = []
    for folder in (start, tuned):
        towers = load_towers(folder, run.config.device, run.config.precision)
        pairs = index_input(run, validation, RETENTION, held_out, towers)
        recalls.append(_evaluate(run, towers, pairs).mean_recall)
    retention = Retention(pairs=len(held_out), before=recalls[0], after=recalls[1])
    run_logger().info("%s", format_retention(retention))
    return retention


def _evaluate(
    run: Run, towers: Towers, pairs: PairInput, on_rows: Callable[[int], None] = lambda rows: None
) -> RetrievalResult:
    settings, workers = run.config.evaluate, run.config.workers
    return evaluate_split(towers, pairs, settings.batch_size, settings.block_rows, workers, on_rows)


class _StepLog:
    """Passes steps and epochs of a loop on to the metric log, the bar and the run's log."""

    def __init__(self, name: str, log: MetricLog, bar: Progress) -> None:
        self._name, self._log, self._bar, self._has_started = name, log, bar, False

    def on_start(self, first_step: int, steps: int) -> None:
        # Steps that a stage repeats after a kill have the same values; after going back, others.
        if self._has_started:
            self._log.go_back(first_step)
        self._has_started = True
        self._bar.start_at(first_step, steps)

    def on_step(self, record: StepRecord) -> None:
        measured = {
            "lr": record.lr,
            "logit_scale": record.logit_scale,
            "grad_norm": record.grad_norm,
            "pairs_per_s": record.pairs_per_s,
            "data_wait_share": record.data_wait_share,
            "tflops_per_s": record.tflops_per_s,
            "mfu": record.mfu,
            "peak_memory_gb": record.peak_memory_gb,
        }
        known = {key: value for key, value in measured.items() if value is not None}
        self._log.add(record.step, record.losses | known)
        loss, rate = f"{record.losses['loss']:.3f}", f"{record.pairs_per_s:.0f}"
        self._bar.advance(1, loss=loss, pairs_per_s=rate)

    def on_epoch(self, record: EpochRecord) -> None:
        self._log.add_epoch(record.step, record.metrics)
        run_logger().info(
            "%s epoch %d: valid mean recall %.1f %%%s",
            self._name,
            record.epoch,
            100 * record.metrics["mean_recall"],
            " (best so far)" if record.is_best else "",
        )
