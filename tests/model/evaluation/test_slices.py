"""Slices: their figures against slow twins, and how seldom noise is taken for a bad slice."""

import numpy as np
import pytest

from model.evaluation.figures import measure
from model.evaluation.slices import (
    age_labels,
    length_labels,
    product_recall,
    slice_products,
    wilson,
    worst_slices,
)
from tests.model.evaluation.test_figures import two_sides


def test_the_mean_over_products_of_equal_size_is_the_mean_recall() -> None:
    result, groups = two_sides(0)
    names, value = product_recall(result, groups)
    assert names.tolist() == list(range(50))
    assert value.mean() == pytest.approx(measure(result, groups, 100, 0)["mean_recall"].value)
    text, image = (
        side.ranks[group == 7]
        for side, group in zip((result.text_to_image, result.image_to_text), groups, strict=True)
    )
    hits = [np.mean([[rank <= k for k in (1, 5, 10)] for rank in ranks]) for ranks in (text, image)]
    assert value[7] == pytest.approx(np.mean(hits))


def test_a_slice_has_its_products_value_and_its_gap_to_the_rest() -> None:
    value = np.array([0.0, 0.5, 1.0, 1.0, 0.5])
    slices = {
        (s.column, s.name): s
        for s in slice_products(
            value,
            {"colour": ["red", "red", "blue", "blue", ""], "all": ["x"] * 5},
            seed=0,
            permutations=200,
        )
    }
    assert list(slices) == [("colour", "blue"), ("colour", "red"), ("all", "x")]
    red = slices["colour", "red"]
    assert (red.products, red.value, red.gap) == (2, 0.25, pytest.approx(0.25 - 2.5 / 3))
    assert (slices["all", "x"].gap, slices["all", "x"].p) == (0, 1)
    assert red.low < 0.25 < red.high


def test_p_is_the_share_of_permutations_in_which_any_slice_is_as_bad() -> None:
    rng = np.random.default_rng(0)
    value = rng.random(30)
    labels = {
        "a": [f"{n}" for n in rng.integers(0, 3, 30)],
        "b": [f"{n}" for n in rng.integers(0, 5, 30)],
    }
    members = [
        np.array(labels[column]) == name
        for column in labels
        for name in sorted(set(labels[column]))
    ]

    def gaps(values: np.ndarray) -> list[float]:
        errors = [values.std() * np.sqrt(1 / m.sum() + 1 / (~m).sum()) for m in members]
        return [
            (values[m].mean() - values[~m].mean()) / e for m, e in zip(members, errors, strict=True)
        ]

    worst = np.array([min(gaps(rng.permutation(value))) for _ in range(3000)])
    slices = slice_products(value, labels, seed=5, permutations=3000)
    assert [each.p for each in slices] == pytest.approx(
        [(worst <= gap).mean() for gap in gaps(value)], abs=0.03
    )


def test_noise_is_seldom_taken_for_a_bad_slice_whatever_the_number_and_size_of_slices() -> None:
    alarms = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        value = (rng.random(150) < 0.6).astype(float)
        labels = {f"column {c}": [f"{n}" for n in rng.zipf(1.5, 150) % 20] for c in range(4)}
        alarms += bool(worst_slices(slice_products(value, labels, seed, permutations=200)))
    assert alarms / 120 <= 0.10  # 5 % expected


def test_a_slice_that_is_truly_bad_is_found_and_comes_first() -> None:
    rng = np.random.default_rng(0)
    colour = np.array(["red", "blue", "green"])[rng.integers(0, 3, 600)]
    value = np.where(colour == "red", rng.random(600) < 0.3, rng.random(600) < 0.7).astype(float)
    labels = {"colour": colour.tolist(), "size": [f"{n}" for n in rng.integers(0, 9, 600)]}
    worst = worst_slices(slice_products(value, labels, seed=0, permutations=300))
    assert [(each.column, each.name) for each in worst] == [("colour", "red")]


def test_permutations_in_many_blocks_give_the_same_p(monkeypatch: pytest.MonkeyPatch) -> None:
    value, labels = np.random.default_rng(0).random(40), {"c": ["a"] * 10 + ["b"] * 30}
    whole = slice_products(value, labels, seed=0, permutations=100)
    monkeypatch.setattr("model.evaluation.bootstrap.COUNTS_AT_ONCE", 41)
    assert slice_products(value, labels, seed=0, permutations=100) == whole


@pytest.mark.parametrize(("share", "size"), [(0.0, 3), (1.0, 3), (0.5, 10), (0.3, 1000)])
def test_wilson_s_interval_holds_the_share_and_is_never_a_point(share: float, size: int) -> None:
    low, high = wilson(share, size)
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1 and high - low > 0.02
    # Its ends are those at which the share is 1.96 standard errors away.
    for end in (low, high):
        assert abs(end - share) == pytest.approx(
            1.959964 * np.sqrt(end * (1 - end) / size), abs=1e-7
        )


def test_lengths_are_cut_into_quarters_named_by_their_ends() -> None:
    captions = ["a b"] * 4 + ["a b c"] * 4 + ["a b c d", "a b c d e"] * 2 + ["word " * 9] * 4
    labels = length_labels(captions)
    assert labels[0] == "2 words" and labels[4] == "3 words" and labels[-1] == "9 words"
    assert labels[8:12] == ["4 to 5 words"] * 4


def test_ages_are_cut_into_quarters_and_no_date_is_no_label() -> None:
    labels = age_labels(["2024-01-05", "", "2024-02-01", "2025-01-01", "2026-03-03", "2026-03-03"])
    assert labels[1] == "" and labels[0].startswith("2024-01-05") and labels[-1] == "2026-03-03"
    assert age_labels(["", ""]) == ["", ""]
    assert len(set(age_labels([str(year) for year in range(2000, 2020)]))) == 4
