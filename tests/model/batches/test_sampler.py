"""An epoch's order is a pure function, and any number of processes reads what one would."""

from collections.abc import Iterable
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batches.sampler import Sampler
from model.errors import ConfigError

COUNTS = st.integers(0, 200)
SIZES = st.integers(1, 12)
SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 1000)


def rows_of(sampler: Sampler, epoch: int, position: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in sampler.batches(epoch, position)]


def flat(batches: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


@given(COUNTS, st.integers(1, 40), SEEDS, EPOCHS)
@settings(deadline=None, max_examples=60)
def test_an_epoch_is_full_batches_without_a_repeat_and_a_pure_function(
    pairs: int, batch_size: int, seed: int, epoch: int
) -> None:
    sampler = Sampler(pairs, batch_size, seed)
    batches = rows_of(sampler, epoch)
    assert [len(batch) for batch in batches] == [batch_size] * sampler.batches_an_epoch
    rows = flat(batches)
    assert len(set(rows)) == len(rows) > pairs - batch_size and set(rows) <= set(range(pairs))
    assert rows_of(Sampler(pairs, batch_size, seed), epoch) == batches


@given(COUNTS, SIZES, st.integers(1, 5), SEEDS, EPOCHS)
@settings(deadline=None, max_examples=60)
def test_all_ranks_together_read_each_batch_of_one_alone_in_its_order(
    pairs: int, share: int, world_size: int, seed: int, epoch: int
) -> None:
    alone = rows_of(Sampler(pairs, share * world_size, seed), epoch)
    ranks = [
        rows_of(Sampler(pairs, share * world_size, seed, rank, world_size), epoch)
        for rank in range(world_size)
    ]
    assert all(len(batch) == share for batches in ranks for batch in batches)
    assert [flat(parts) for parts in zip(*ranks, strict=True)] == alone


@given(COUNTS, SIZES, st.integers(1, 3), SEEDS, EPOCHS, st.integers(0, 30))
@settings(deadline=None, max_examples=60)
def test_going_on_from_a_position_reads_the_rest_and_nothing_else(
    pairs: int, share: int, world_size: int, seed: int, epoch: int, done: int
) -> None:
    batch_size = share * world_size
    for rank in range(world_size):
        sampler = Sampler(pairs, batch_size, seed, rank, world_size)
        assert rows_of(sampler, epoch, position=done * batch_size) == rows_of(sampler, epoch)[done:]


@given(COUNTS, SIZES, SIZES, SEEDS, st.integers(0, 10))
@settings(deadline=None, max_examples=60)
def test_an_epoch_can_go_on_with_another_batch_size_without_a_repeat(
    pairs: int, before: int, after: int, seed: int, done: int
) -> None:
    first = rows_of(Sampler(pairs, before, seed), 0)[:done]
    rest = rows_of(Sampler(pairs, after, seed), 0, position=len(first) * before)
    rows = flat(first + rest)
    assert len(set(rows)) == len(rows) > pairs - max(before, after)


def test_an_epoch_reads_every_pair_and_orders_differ_by_epoch_and_by_seed() -> None:
    orders = {
        (seed, epoch): rows_of(Sampler(60, 20, seed), epoch) for seed in (0, 1) for epoch in (0, 1)
    }
    assert all(sorted(flat(order)) == list(range(60)) for order in orders.values())
    assert len({str(order) for order in orders.values()}) == 4
    left_out = [
        set(range(50)) - set(flat(rows_of(Sampler(50, 20, 0), epoch))) for epoch in range(6)
    ]
    assert len(set(map(frozenset, left_out))) > 1, "not always the same pairs are left out"


def test_the_order_is_that_of_a_seeded_permutation() -> None:
    order = np.random.default_rng((7, 3)).permutation(30).tolist()
    assert flat(rows_of(Sampler(30, 10, 7), 3)) == order


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="batch_size is 10, which 4 processes cannot share equally; make it a mul"
    ):
        Sampler(100, 10, 0, 0, 4)
