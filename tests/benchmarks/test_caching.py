"""What measures gradient caching takes steps of both kinds and tells their cost."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.support import caching
from benchmarks.support.caching import CachingCost, StepCost
from tests.tiny import write_model


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("micro_batch", ["0", "3"])
def test_a_step_tells_its_seconds_and_its_peak(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    micro_batch: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["caching", write_model(tmp_path).name, "8", micro_batch, "1"])
    caching.main()
    cost = StepCost(**json.loads(capsys.readouterr().out))
    assert (
        cost.seconds > 0 and cost.imported_bytes > 0 and 0 < cost.resting_bytes <= cost.peak_bytes
    )


def test_ratios_are_medians_of_the_rounds() -> None:
    plain = [
        StepCost(seconds, peak + 50, 60, 50) for seconds, peak in ((1, 100), (2, 100), (1, 200))
    ]
    cached = [
        StepCost(seconds, peak + 50, 60, 50) for seconds, peak in ((1.3, 20), (2.8, 30), (9, 30))
    ]
    cost = CachingCost(plain, cached)
    assert cost.times_seconds() == pytest.approx(1.4) and cost.times_peak() == pytest.approx(0.2)
