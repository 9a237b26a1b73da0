"""The paired bootstrap: against a slow twin, and by how often its interval holds the truth."""

from dataclasses import replace

import numpy as np
import pytest

from model.evaluation.bootstrap import Interval, mean_recall_difference, paired_bootstrap
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
    )


def result(text_ranks: np.ndarray, image_ranks: np.ndarray) -> RetrievalResult:
    return RetrievalResult(direction(text_ranks), direction(image_ranks))


def two_models(seed: int, queries: int) -> tuple[RetrievalResult, RetrievalResult]:
    """A model and a better one; a product hard to find by its caption is hard to find by its image too."""
    generator = np.random.default_rng(seed)
    hard = generator.gamma(1.0, 6.0, queries)

    def ranks(scale: float) -> np.ndarray:
        return 1 + (hard * scale * generator.uniform(0.5, 1.5, queries)).astype(np.int64)

    return result(ranks(0.6), ranks(0.6)), result(ranks(1.0), ranks(1.0))


def test_the_interval_is_that_of_the_slow_twin():
    generator = np.random.default_rng(0)
    new, old = generator.integers(0, 4, 150) / 3, generator.integers(0, 4, 150) / 3
    means = [
        np.mean([new[i] - old[i] for i in generator.integers(0, 150, 150)]) for _ in range(4000)
    ]
    interval = paired_bootstrap(new, old, 4000, seed=1)
    assert interval.difference == pytest.approx((new - old).mean())
    assert [interval.low, interval.high] == pytest.approx(
        np.percentile(means, [2.5, 97.5]), abs=0.006
    )


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


def test_the_interval_of_a_mean_holds_the_truth_about_95_times_of_100():
    generator = np.random.default_rng(7)
    hits = 0
    for seed in range(400):
        old = generator.integers(0, 4, 120) / 3
        new = np.clip(old + generator.choice([-1, 0, 1], 120, p=[0.2, 0.4, 0.4]) / 3, -1, 2)
        interval = paired_bootstrap(new, old, 400, seed)
        hits += interval.low <= 0.2 / 3 <= interval.high
    assert 0.92 <= hits / 400 <= 0.98


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
    monkeypatch.setattr("model.evaluation.bootstrap.COUNTS_AT_ONCE", 1000)
    new, old = np.random.default_rng(0).normal(size=(2, 300))
    chunked = paired_bootstrap(new, old, 2000, seed=0)
    monkeypatch.undo()
    whole = paired_bootstrap(new, old, 2000, seed=0)
    assert [chunked.low, chunked.high] == pytest.approx([whole.low, whole.high], abs=0.02)


@pytest.mark.parametrize(
    ("new", "old", "message"),
    [
        ([1.0, 0.0], [1.0], "same queries"),
        ([[1.0]], [[1.0]], "same queries"),
        ([1.0, np.nan], [1.0, 0.0], "NaN"),
        ([], [], "0 queries"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(new, old, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(new, old, 100, seed=0)


def test_results_on_different_queries_are_refused():
    new, old = two_models(0, 50)
    with pytest.raises(ValueError, match="answered different queries"):
        mean_recall_difference(new, two_models(0, 49)[1], 100, seed=0)
    regrouped = replace(old.text_to_image, group=np.zeros(50, np.int64))
    with pytest.raises(ValueError, match="answered different queries"):
        mean_recall_difference(new, replace(old, text_to_image=regrouped), 100, seed=0)


def test_a_result_read_from_json_is_refused():
    new, old = two_models(0, 50)
    with pytest.raises(ValueError, match="no ranks"):
        mean_recall_difference(new, RetrievalResult.from_json(old.to_json()), 100, seed=0)
