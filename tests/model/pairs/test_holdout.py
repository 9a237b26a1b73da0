"""What is held out shares nothing with what is trained on, however long the chain between them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.pairs.holdout import group_rows, hold_out
from tests.gears import rounds

PAIRS = st.lists(st.tuples(*(st.integers(0, 25) for _ in range(3))), min_size=1, max_size=50)


def slow_groups(pairs: list[tuple[int, ...]]) -> list[int]:
    group = list(range(len(pairs)))
    for _ in pairs:
        for row, pair in enumerate(pairs):
            linked = [
                group[other] for other, its in enumerate(pairs) if any(map(int.__eq__, pair, its))
            ]
            group[row] = min(linked)
    return group


@given(PAIRS)
@settings(deadline=None, max_examples=rounds(20, 60))
def test_groups_equal_a_slow_twin(pairs: list[tuple[int, ...]]) -> None:
    keys = [np.array(column) for column in zip(*pairs, strict=True)]
    assert group_rows(keys).tolist() == slow_groups(pairs)


def test_a_chain_of_many_links_is_one_group() -> None:
    rows = np.arange(5001)
    assert group_rows([rows // 2, (rows + 1) // 2]).max() == 0


@given(PAIRS, st.integers(0, 60), st.sets(st.integers(0, 49)), st.integers(0, 9))
@settings(deadline=None, max_examples=rounds(30, 100))
def test_nothing_held_out_shares_anything_with_what_is_left(
    pairs: list[tuple[int, ...]], wanted: int, trained: set[int], seed: int
) -> None:
    keys = [np.array(column) for column in zip(*pairs, strict=True)]
    is_trained = np.isin(np.arange(len(pairs)), list(trained))
    held = hold_out(group_rows(keys), is_trained, wanted, seed)
    left = np.setdiff1d(np.arange(len(pairs)), held)
    assert (
        len(held) <= wanted and not is_trained[held].any() and np.array_equal(held, np.unique(held))
    )
    for key in keys:
        assert not set(key[held]) & set(key[left])
    assert np.array_equal(held, hold_out(group_rows(keys), is_trained, wanted, seed))


def test_of_distinct_pairs_as_many_are_held_out_as_wanted_and_others_by_another_seed() -> None:
    group, none = np.arange(100), np.zeros(100, dtype=np.bool_)
    held = [hold_out(group, none, 7, seed).tolist() for seed in (0, 1)]
    assert [len(rows) for rows in held] == [7, 7] and held[0] != held[1]


def test_a_group_larger_than_what_is_wanted_is_passed_over() -> None:
    group = np.array([0] * 90 + list(range(90, 100)))
    assert set(hold_out(group, np.zeros(100, dtype=np.bool_), 10, 0)) == set(range(90, 100))
