"""Figures and their intervals, against slow twins and by how often an interval holds the truth."""

import numpy as np
import pytest

from model.evaluation import bootstrap
from model.evaluation.bootstrap import resample_groups
from model.evaluation.figures import figures_of, measure
from model.evaluation.retrieval import Direction, RetrievalResult


def direction(ranks: np.ndarray, tied: np.ndarray | None = None) -> Direction:
    number = np.full(len(ranks), 500)
    tied = np.zeros_like(ranks) if tied is None else tied
    return Direction.of(ranks, tied, np.ones_like(ranks), number, np.arange(len(ranks)))


def two_sides(seed: int, groups: int = 50) -> tuple[RetrievalResult, tuple[np.ndarray, np.ndarray]]:
    """Three captions and two pictures a product, hard ones hard both ways."""
    rng = np.random.default_rng(seed)
    hard = rng.gamma(1.0, 8.0, groups)
    group = np.repeat(np.arange(groups), 3), np.repeat(np.arange(groups), 2)
    sides = [
        direction(1 + (hard[each] * rng.uniform(0.5, 1.5, len(each))).astype(np.int64))
        for each in group
    ]
    return RetrievalResult(*sides), group


def test_figures_and_intervals_are_those_of_the_slow_twin() -> None:
    result, groups = two_sides(0)
    figures = measure(result, groups, 2000, seed=3)
    rng = np.random.default_rng(1)
    drawn: dict[str, list[float]] = {key: [] for key in figures}
    for _ in range(1500):
        chosen = rng.integers(0, 50, 50)
        recalls = []
        for name, group in zip(("text_to_image", "image_to_text"), groups, strict=True):
            ranks = np.concatenate(
                [getattr(result, name).ranks[group == number] for number in chosen]
            )
            for k in (1, 5, 10):
                recalls.append((ranks <= k).mean())
                drawn[f"{name}_rank_at_{k}"].append(recalls[-1])
            drawn[f"{name}_median_rank"].append(np.median(ranks))
            drawn[f"{name}_mrr"].append(np.mean(1 / ranks))
        drawn["mean_recall"].append(np.mean(recalls))
    for key, figure in figures.items():
        tolerance = 1.5 if "median" in key else 0.03
        assert [figure.low, figure.high] == pytest.approx(
            np.percentile(drawn[key], [2.5, 97.5]), abs=tolerance
        ), key
        assert figure.low <= figure.value <= figure.high
    assert figures["mean_recall"].value == pytest.approx(result.mean_recall)
    assert figures["text_to_image_mrr"].value == pytest.approx(
        np.mean(1 / result.text_to_image.ranks)
    )
    assert figures["image_to_text_median_rank"].value == np.median(result.image_to_text.ranks)


def test_the_median_of_an_even_number_lies_between_the_middle_two_in_every_resample() -> None:
    result = RetrievalResult(direction(np.array([1, 4])), direction(np.array([1, 4])))
    figure = measure(result, (np.arange(2), np.arange(2)), 200, seed=0)["text_to_image_median_rank"]
    assert (figure.value, figure.low, figure.high) == (2.5, 1, 4)


def test_the_interval_of_mrr_holds_the_truth_about_95_times_of_100() -> None:
    truth = measure(*two_sides(0, 20_000), 100, seed=0)["text_to_image_mrr"].value
    hits = 0
    for seed in range(200):
        figure = measure(*two_sides(seed + 1, 80), 300, seed)["text_to_image_mrr"]
        hits += figure.low <= truth <= figure.high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_optimistic_value_is_that_of_ties_given_to_the_model() -> None:
    ranks, tied = np.array([1, 3, 12, 2]), np.array([0, 2, 4, 0])
    result = RetrievalResult(direction(ranks, tied), direction(ranks))
    figures = measure(result, (np.arange(4), np.arange(4)), 100, seed=0)
    assert (
        figures["text_to_image_rank_at_1"].value,
        figures["text_to_image_rank_at_1"].optimistic,
    ) == (0.25, 0.5)
    assert figures["text_to_image_rank_at_10"].optimistic == 1.0
    assert figures["text_to_image_median_rank"].optimistic == 1.5
    assert figures["image_to_text_rank_at_1"].optimistic == 0.25
    assert figures["mean_recall"].optimistic == pytest.approx(
        (0.5 + 0.75 + 1 + 0.25 + 0.75 + 0.75) / 6
    )


def test_the_seed_decides_and_the_size_of_a_block_of_draws_does_not_matter_much(
    monkeypatch,
) -> None:
    result, groups = two_sides(4)
    first, again, other = (measure(result, groups, 300, seed) for seed in (1, 1, 2))
    assert first == again != other
    # Two draws at a time, with the odd one left over.
    monkeypatch.setattr(bootstrap, "COUNTS_AT_ONCE", 120)
    assert measure(result, groups, 300, 1)["mean_recall"] == first["mean_recall"]


def test_every_resample_draws_as_many_groups_as_there_are() -> None:
    counts = resample_groups(lambda counts_BG: counts_BG, 7, 11, seed=0)
    assert counts.shape == (11, 7) and (counts.sum(axis=1) == 7).all()


def test_means_of_values_are_resampled_by_group() -> None:
    values = np.repeat([0.0, 1.0], 50)
    alone = figures_of({"hit": values}, np.arange(100), 1000, seed=0)["hit"]
    together = figures_of({"hit": values}, np.repeat(np.arange(10), 10), 1000, seed=0)["hit"]
    assert alone.value == together.value == 0.5
    assert together.high - together.low > 2 * (alone.high - alone.low)
