"""Processes that train together and are told to stop, at whatever moments, stop after the same step
and lose none."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from model.training import loop as training
from model.training.checkpoint import load_latest
from tests.ranks import Job, ended, start_ranks, train_together
from tests.tiny import tiny_stage_config, write_data, write_model

FETCH_EVERY = 3


def train_fetching_often(job: Job) -> None:
    """Train with others, which agree on stopping and saving whenever they have fetched their
    losses."""
    with patch.object(training, "FETCH_EVERY", FETCH_EVERY):
        train_together(job)


@pytest.mark.faults(kind="K2: several processes", trials=2)
def test_when_any_process_is_told_to_stop_all_stop_and_go_on_to_the_same_bits(
    tmp_path: Path,
) -> None:
    data, config = write_data(tmp_path), tiny_stage_config(checkpoint_share=1.0)
    whole = Job(write_model(tmp_path), config, (data.train, data.valid), tmp_path / "whole")
    assert together(whole) == [0, 0]
    for rank in (0, 1):
        stopped = replace(whole, folder=tmp_path / str(rank), stopping_rank=rank)
        assert together(stopped) == [1, 1]
        for other in (0, 1):
            said = (stopped.folder / f"error-{other}").read_text()
            assert (
                said
                == f"TrainingStopped: stopped after step {FETCH_EVERY} of 8; run again to go on"
            )
        assert end(stopped)[0] == FETCH_EVERY
        assert together(replace(stopped, stopping_rank=-1)) == [0, 0]
        step, tensors = end(stopped)
        expected_step, expected = end(whole)
        assert step == expected_step == 8
        assert all(torch.equal(value, expected[name]) for name, value in tensors.items())


def together(job: Job) -> list[int | None]:
    job.folder.mkdir(exist_ok=True)
    return ended(start_ranks(2, train_fetching_often, job))


def end(job: Job) -> tuple[int, dict[str, Any]]:
    checkpoint = load_latest(job.folder / "stage" / "checkpoints")
    assert checkpoint is not None
    tensors = {
        f"{part} {name}": value
        for part, named in checkpoint.tensors.items()
        for name, value in named.items()
    }
    return checkpoint.step, tensors
