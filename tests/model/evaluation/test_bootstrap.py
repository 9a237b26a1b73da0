"""The paired bootstrap: against a slow twin, and by how often its interval holds the truth."""

from dataclasses import replace

import numpy as np
import pytest

from model.evaluation.bootstrap import Interval, mean_recall_difference
from model.evaluation.retrieval import RANK_AT, Direction, RetrievalResult


def direction(ranks: np.ndarray, group: np.ndarray | None = None) -> Direction:
    return Direction(
        queries=len(ranks),
        candidates=1000,
        rank_at={k: float((ranks <= k).mean()) for k in RANK_AT},
        median_rank=float(np.median(ranks)),
        chance_at=dict.fromkeys(RANK_AT, 0.0),
        ranks=ranks,
        group=np.arange(len(ranks)) if group is None else group,
        tied=np.zeros_like(ranks),
    )


def result(text_ranks: np.ndarray, image_ranks: np.ndarray) -> RetrievalResult:
    return RetrievalResult(direction(text_ranks), direction(image_ranks))


def two_models(seed: int, queries: int) -> tuple[RetrievalResult, RetrievalResult]:
    """Return a better model and another; a product that is hard one way is hard the other way."""
    generator = np.random.default_rng(seed)
    hard = generator.gamma(1.0, 6.0, queries)

    def ranks(scale: float) -> np.ndarray:
        return 1 + (hard * scale * generator.uniform(0.5, 1.5, queries)).astype(np.int64)

    return result(ranks(0.6), ranks(0.6)), result(ranks(1.0), ranks(1.0))


def test_the_mean_recall_interval_is_that_of_the_slow_twin_on_groups():
    generator = np.random.default_rng(0)
    text_group, image_group = np.repeat(np.arange(60), 3), np.repeat(np.arange(60), 2)

    def model(scale: float) -> RetrievalResult:
        text = (
            1 + generator.integers(0, 20, 60).repeat(3) + generator.integers(0, int(9 * scale), 180)
        )
        image = 1 + generator.integers(0, int(12 * scale), 120)
        return RetrievalResult(direction(text, text_group), direction(image, image_group))

    new, old = model(1), model(2)
    means = []
    for _ in range(1000):
        drawn = generator.integers(0, 60, 60)
        text = np.concatenate([np.flatnonzero(text_group == group) for group in drawn])
        image = np.concatenate([np.flatnonzero(image_group == group) for group in drawn])
        recall = [
            np.mean([(side.ranks[rows] <= k).mean() for k in RANK_AT for side, rows in sides])
            for sides in (
                [(new.text_to_image, text), (new.image_to_text, image)],
                [(old.text_to_image, text), (old.image_to_text, image)],
            )
        ]
        means.append(recall[0] - recall[1])
    interval = mean_recall_difference(new, old, 4000, seed=1)
    assert interval.difference == pytest.approx(new.mean_recall - old.mean_recall)
    assert [interval.low, interval.high] == pytest.approx(
        np.percentile(means, [2.5, 97.5]), abs=0.012
    )


def test_the_interval_of_mean_recall_holds_the_truth_about_95_times_of_100():
    new, old = two_models(0, 200_000)
    truth = new.mean_recall - old.mean_recall
    hits = 0
    for seed in range(400):
        interval = mean_recall_difference(*two_models(seed + 1, 150), 400, seed)
        hits += interval.low <= truth <= interval.high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_model_does_not_differ_from_itself():
    new, _ = two_models(0, 50)
    assert mean_recall_difference(new, new, 100, seed=0) == Interval(0.0, 0.0, 0.0)


def test_a_better_model_has_a_positive_difference():
    better, worse = two_models(0, 2000)
    assert mean_recall_difference(better, worse, 500, seed=0).low > 0
    assert mean_recall_difference(worse, better, 500, seed=0).high < 0


def test_the_seed_decides_the_interval():
    new, old = two_models(0, 100)
    first, again, other = (mean_recall_difference(new, old, 200, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_draws_in_many_chunks_are_all_there(monkeypatch):
    new, old = two_models(0, 300)
    whole = mean_recall_difference(new, old, 2000, seed=0)
    monkeypatch.setattr("model.evaluation.bootstrap.COUNTS_AT_ONCE", 100)
    chunked = mean_recall_difference(new, old, 2000, seed=0)
    assert [chunked.low, chunked.high] == pytest.approx([whole.low, whole.high], abs=0.005)


def test_results_on_different_queries_are_refused():
    new, old = two_models(0, 50)
    with pytest.raises(ValueError, match="answered different queries"):
        mean_recall_difference(new, two_models(0, 49)[1], 100, seed=0)
    regrouped = replace(old.text_to_image, group=np.zeros(50, np.int64))
    with pytest.raises(ValueError, match="answered different queries"):
        mean_recall_difference(new, replace(old, text_to_image=regrouped), 100, seed=0)


def test_results_without_queries_or_draws_are_refused():
    new, old = two_models(0, 50)
    with pytest.raises(ValueError, match="0 draws from"):
        mean_recall_difference(new, old, 0, seed=0)
    empty = np.empty(0, np.int64)
    none = RetrievalResult(*[replace(old.text_to_image, ranks=empty, group=empty)] * 2)
    with pytest.raises(ValueError, match="100 draws from 0 values"):
        mean_recall_difference(none, none, 100, seed=0)
