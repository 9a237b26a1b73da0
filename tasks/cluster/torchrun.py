"""A run in several processes, as torchrun starts them: the first is the run, the others help.

    torchrun --nproc-per-node 8 -m flows retrain --config configs/fashion-products.yaml

Helpers know neither Prefect nor MLflow. They wait until the first process calls them to a stage,
train it with that one, and end when it ends; where it fails, they lose it and report that.
"""

from collections.abc import Callable
from pathlib import Path

from model.towers.folder import load_towers
from model.towers.towers import compile_towers
from model.training.distributed import broadcast_object, is_main, launched_group
from model.training.locking import locked_in
from model.training.loop import train
from model.training.stage import Callbacks, Stage
from tasks.runtime.records import Record, Run, Validation
from tasks.runtime.signals import stop_by_signal
from tasks.validation.inputs import locked_input, split_input


class Work(Record):
    """A training stage that all processes do together, from the model folder ``start``."""

    run: Run
    validation: Validation
    name: str
    start: Path


def lead_or_help(flow: Callable[[], None]) -> None:
    """Run the flow in the first process; in the others, help it to train until it has ended.

    Raises:
        PeerLost: another process ended before its time, or did not come.
    """
    with launched_group():
        if is_main():
            flow()
            broadcast_object(None)
            return
        while (work := broadcast_object(None)) is not None:
            _help(Work.model_validate(work))


def call_helpers(work: Work) -> None:
    """Let the other processes, where there are any, begin with a stage."""
    broadcast_object(work.model_dump(mode="json"))


def _help(work: Work) -> None:
    run, config = work.run, getattr(work.run.config, work.name)
    towers = load_towers(work.start, run.config.device, run.config.precision)
    pairs = split_input(
        run, work.validation, work.name, towers, crops_centre=config.crop_scale >= 1
    )
    pairs = locked_input(run, work.validation, work.name, towers, pairs, locked_in(config, 0))

    # The first process validates for all. A launcher signals all processes, and they stop after the
    # same step.
    folder, workers = run.folder / work.name, run.config.workers
    seed, language = run.config.seed, run.config.data.language
    stage = Stage(config, pairs, lambda towers: {}, folder, seed, workers, language=language)
    with stop_by_signal() as stop:
        train(
            compile_towers(towers) if run.config.compile else towers,
            stage,
            Callbacks(should_stop=stop),
        )
