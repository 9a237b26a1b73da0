"""Resampling whole groups: each draw counts as many groups as there are, in blocks or at once."""

import numpy as np
import pytest

from model.evaluation.bootstrap import (
    draw_in_blocks,
    group_sums,
    interval_ends,
    resample_groups,
)


def test_a_mean_over_resampled_groups_spreads_as_that_of_the_slow_twin() -> None:
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 3)
    value = generator.normal(size=60).repeat(3) + 0.3 * generator.normal(size=180)
    sums = group_sums(value[:, None], group, 60)
    drawn = resample_groups(lambda counts: counts @ sums, 60, 4000, seed=1)
    twin = [
        np.concatenate([value[group == each] for each in generator.integers(0, 60, 60)]).mean()
        for _ in range(1000)
    ]
    ends = interval_ends(drawn[:, 0] / drawn[:, 1])
    assert ends == pytest.approx(np.percentile(twin, [2.5, 97.5]), abs=0.05)


def test_draws_in_many_blocks_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.evaluation.bootstrap.COUNTS_AT_ONCE", 100)
    counts = resample_groups(lambda counts: counts, 30, 50, seed=0)
    assert counts.shape == (50, 30)
    assert (counts.sum(axis=1) == 30).all()


def test_no_draws_and_nothing_to_draw_from_are_refused() -> None:
    with pytest.raises(ValueError, match="0 draws from 5 values"):
        draw_in_blocks(lambda rows: np.zeros(rows), 0, 5)
    with pytest.raises(ValueError, match="100 draws from 0 values"):
        draw_in_blocks(lambda rows: np.zeros(rows), 100, 0)
