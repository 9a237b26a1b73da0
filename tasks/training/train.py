"""Run one training stage and track it: pretrain from the base weights, finetune from pretrain's best."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from model.config.load import RunConfig
from model.config.sections import StageConfig
from model.errors import DataError, TrainingStopped
from model.pairs.splits import find_split_files
from tasks.pages.text import format_retention
from tasks.registry.metric_log import MetricLog
from tasks.registry.tracking import metric_sender
from tasks.runtime.log import run_logger
from tasks.runtime.progress import Progress, progress
from tasks.runtime.records import Retention, Run, TrainedModel, Validation
from tasks.runtime.signals import StopRequest, stop_by_signal
from tasks.runtime.stage import stage
from tasks.training.base_weights import base_weights
from tasks.validation.accepted import RETENTION, split_index
from tasks.validation.inputs import index_input, split_input

if TYPE_CHECKING:
    from model.concepts.mining import Vocabulary
    from model.towers.towers import Towers
    from model.training.stage import EpochRecord, StepRecord

# A stage that was told to stop has no more time for MLflow; what waits in the spool is sent by the
# next try.
STOPPED_CLOSE_S = 2.0


@stage("pretrain", TrainedModel, reads=("model", "pretrain"))
def pretrain(run: Run, validation: Validation) -> TrainedModel:
    """Train the base weights further on the pretraining pairs; without pairs or epochs they pass
    through.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        OutOfMemory: a step needs more memory than there is.
        CheckpointError: base weights cannot be read, or a checkpoint cannot be written.
    """
    from model.towers.folder import load_towers

    config = run.config.pretrain
    if config.epochs and not find_split_files(run.data.folder).pretrain:
        raise DataError(
            f"{run.data.folder}: pretrain.epochs is {config.epochs}, but there is no pretrain/*.tsv; "
            "add pairs or set pretrain.epochs to 0"
        )
    base = base_weights(run)
    towers = load_towers(base, run.config.device, run.config.precision)
    return _train(run, validation, "pretrain", config, towers, base)


@stage("finetune", TrainedModel, reads=("model", "finetune"))
def finetune(run: Run, validation: Validation, start: TrainedModel) -> TrainedModel:
    """Train the pretrained weights on the train split; without epochs they pass through.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        OutOfMemory: a step needs more memory than there is.
        CheckpointError: the start weights are damaged, or a checkpoint cannot be written.
    """
    from model.towers.folder import load_towers

    towers = load_towers(start.folder, run.config.device, run.config.precision)
    tuned = _train(run, validation, "finetune", run.config.finetune, towers, start.folder)
    return tuned.model_copy(
        update={"retention": _retention(run, validation, start.folder, tuned.folder)}
    )


def _train(
    run: Run, validation: Validation, name: str, config: StageConfig, towers: "Towers", start: Path
) -> TrainedModel:
    from model.evaluation.split import evaluate_split
    from model.storage.sealed import weights_sha256
    from model.towers.towers import compile_towers
    from model.training.loop import train
    from model.training.meter import measure_peak_flops
    from model.training.stage import Callbacks, Stage
    from tasks.cluster.torchrun import Work, call_helpers
    from tasks.training.concepts import keep_concepts, report_concepts
    from tasks.training.report import report_training

    if config.epochs == 0:
        return TrainedModel(
            folder=start, weights_sha256=weights_sha256(start), best_epoch=0, valid_mean_recall=0.0
        )
    settings = run.config.evaluate
    valid = split_input(run, validation, "valid", towers, crops_centre=True)
    pairs = split_input(run, validation, name, towers, crops_centre=config.crop_scale >= 1)
    call_helpers(
        Work(run=run, validation=validation, name=name, start=start)
    )  # they find the caches made

    folder, concepts = run.folder / name, list["Vocabulary"]()
    run_logger().info(
        "%s: %d train pairs, %d valid pairs, %s", name, len(pairs), len(valid), towers.device
    )
    with (
        stop_by_signal() as stop,
        _metric_log(run, name, stop) as log,
        progress(name, config.epochs, "steps") as shown,
    ):

        def validate(towers: "Towers") -> dict[str, float]:
            on_rows = _stop_between_batches(stop)
            return evaluate_split(
                towers, valid, settings.batch_size, settings.block_rows, run.config.workers, on_rows
            ).metrics()

        def on_concepts(vocabulary: "Vocabulary") -> None:
            keep_concepts(vocabulary, folder)
            concepts.append(vocabulary)

        # A CPU is shared with others, and at such a moment its peak would read lower than the work
        # that follows.
        peak_flops = (
            measure_peak_flops(towers.device, towers.precision)
            if towers.device.type != "cpu"
            else None
        )
        chosen = Stage(
            config, pairs, validate, folder, run.config.seed, run.config.workers, peak_flops
        )
        on_step, on_epoch = _on_step(log, shown), _on_epoch(log, name, run.config)
        callbacks = Callbacks(_on_start(log, shown), on_step, on_epoch, stop, on_concepts)
        state = train(compile_towers(towers) if run.config.compile else towers, chosen, callbacks)
    for tried in state.interpolations:
        recall = 100 * tried["mean_recall"]
        run_logger().info(
            "%s at coefficient %.2f: valid mean recall %.1f %%", name, tried["coefficient"], recall
        )
    best = folder / state.best_folder
    for vocabulary in concepts:
        report_concepts(run, name, vocabulary, pairs, valid, start, best)
    report_training(run, name, best, state.best_epoch, valid)
    return TrainedModel(
        folder=best,
        weights_sha256=weights_sha256(best),
        best_epoch=state.best_epoch,
        valid_mean_recall=state.best_mean_recall,
        coefficient=state.coefficient,
    )


def _retention(run: Run, validation: Validation, start: Path, tuned: Path) -> Retention | None:
    """Judge the weights before and after fine-tuning on the pretraining pairs held out; None where there are none."""
    from model.evaluation.split import evaluate_split
    from model.towers.folder import load_towers

    held_out = (
        split_index(run, validation, RETENTION) if find_split_files(run.data.folder).pretrain else ()
    )
    if start == tuned or not held_out:
        return None
    recalls, settings = [], run.config.evaluate
    for folder in (start, tuned):
        towers = load_towers(folder, run.config.device, run.config.precision)
        pairs = index_input(run, validation, RETENTION, held_out, towers)
        result = evaluate_split(
            towers, pairs, settings.batch_size, settings.block_rows, run.config.workers
        )
        recalls.append(result.mean_recall)
    retention = Retention(pairs=len(held_out), before=recalls[0], after=recalls[1])
    run_logger().info("%s", format_retention(retention))
    return retention


@contextmanager
def _metric_log(run: Run, name: str, stop: StopRequest) -> Iterator[MetricLog]:
    log = MetricLog(name, run.folder / name, metric_sender(run.mlflow_run_id))
    try:
        yield log
    finally:
        log.close(STOPPED_CLOSE_S if stop() else None)


def _stop_between_batches(stop: StopRequest) -> Callable[[int], None]:
    def on_rows(rows: int) -> None:
        if stop():
            raise TrainingStopped("stopped during validation; run again to go on")

    return on_rows


def _on_start(log: MetricLog, shown: Progress) -> Callable[[int, int], None]:
    has_started = False

    def on_start(first_step: int, steps: int) -> None:
        nonlocal has_started
        if has_started:  # a stage that a kill ended repeats steps with the same values, one that went back does not
            log.go_back(first_step)
        has_started = True
        shown.start_at(first_step, steps)

    return on_start


def _on_step(log: MetricLog, shown: Progress) -> "Callable[[StepRecord], None]":
    def on_step(record: "StepRecord") -> None:
        measured = {
            "lr": record.lr,
            "logit_scale": record.logit_scale,
            "grad_norm": record.grad_norm,
        }
        rates = {
            "pairs_per_s": record.pairs_per_s,
            "data_wait_share": record.data_wait_share,
            "tflops_per_s": record.tflops_per_s,
            "mfu": record.mfu,
            "peak_memory_gb": record.peak_memory_gb,
        }
        known = {rate: value for rate, value in rates.items() if value is not None}
        log.add(record.step, record.losses | measured | known)
        shown.advance(
            1, loss=f"{record.losses['loss']:.3f}", pairs_per_s=f"{record.pairs_per_s:.0f}"
        )

    return on_step


def _on_epoch(log: MetricLog, name: str, config: RunConfig) -> "Callable[[EpochRecord], None]":
    def on_epoch(record: "EpochRecord") -> None:
        log.add_epoch(record.step, record.metrics)
        run_logger().info(
            "%s epoch %d: valid mean recall %.1f %%%s",
            name,
            record.epoch,
            100 * record.metrics["mean_recall"],
            " (best so far)" if record.is_best else "",
        )

    return on_epoch
