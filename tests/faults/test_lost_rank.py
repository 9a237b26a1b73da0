"""One of two processes that train together is killed: the other ends within a minute, with one
sentence."""

import re
import time
from pathlib import Path

import pytest

from model.config.sections import ModelConfig
from model.training.checkpoint import load_latest
from tests.ranks import LIMIT_S, Job, ended, start_ranks, train_together
from tests.tiny import TinyData, tiny_stage_config, write_data, write_model

SIGKILLED = -9


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, TinyData]:
    folder = tmp_path_factory.mktemp("inputs")
    return write_model(folder), write_data(folder)


# Before the first step, within an epoch, after a checkpoint, and the one that validates while the
# other waits.
@pytest.mark.faults(kind="T2")
@pytest.mark.parametrize(
    ("dying", "point"), [(1, "batch:0"), (0, "batch:2"), (1, "batch:6"), (0, "validation")]
)
def test_a_killed_process_ends_the_other_with_one_sentence(
    inputs: tuple[ModelConfig, TinyData], tmp_path: Path, dying: int, point: str
) -> None:
    job = made_job(inputs, tmp_path, dying, point)
    codes = ended(start_ranks(2, train_together, job))
    assert codes[dying] == SIGKILLED and codes[1 - dying] == 1
    assert_told(job, 1 - dying)


@pytest.mark.faults(kind="T2")
def test_a_process_killed_while_the_other_validates_costs_no_checkpoint(
    inputs: tuple[ModelConfig, TinyData], tmp_path: Path
) -> None:
    job = made_job(inputs, tmp_path, -1, "validation")
    ranks = start_ranks(2, train_together, job)
    end = time.monotonic() + LIMIT_S
    while not (tmp_path / "validating").exists() and time.monotonic() < end:
        time.sleep(0.05)
    ranks[1].kill()
    ranks[1].join()
    (tmp_path / "killed").touch()
    assert ended(ranks) == [1, SIGKILLED]
    assert_told(job, 0)


def made_job(inputs: tuple[ModelConfig, TinyData], folder: Path, dying: int, point: str) -> Job:
    model, data = inputs
    return Job(model, tiny_stage_config(epochs=3), (data.train, data.valid), folder, dying, point)


def assert_told(job: Job, rank: int) -> None:
    said = (job.folder / f"error-{rank}").read_text()
    assert re.match(
        rf"PeerLost: process {rank} of 2 lost another one, .* \([CR][\w ]+(\[127.0.0.1\])?", said
    )
    assert "pair.cc" not in said and "\n" not in said
    assert "start them all again: training goes on from the last checkpoint" in said
    newest = load_latest(job.folder / "stage" / "checkpoints")
    assert newest is None or newest.step == 4
