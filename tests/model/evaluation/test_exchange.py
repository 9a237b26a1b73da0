"""Whether a lead is more than chance: how often equal models pass, and what the slow twin says."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.support.challengers import (
    MAY_FALL,
    SLICES,
    Catalogue,
    draw_catalogue,
    draw_model,
    fallen_slices,
    luck_of,
)
from model.evaluation.exchange import (
    exchange,
    gains,
    lead_of,
    sources_of_luck,
    sum_by_source,
)
from model.evaluation.retrieval import RANK_AT, relate
from model.pairs.holdout import group_rows
from tests.gears import first_of, rounds

LIMIT, DRAWS = 0.025, 500
TRIALS = rounds(60, 400)


def promoted(catalogue: Catalogue, shared: float, trials: int) -> int:
    """Of so many pairs of equal models, how many pass for better at 2.5 %."""
    passed = 0
    for seed in range(trials):
        new, old = (draw_model(catalogue, shared, (seed, each)) for each in (1, 2))
        lead = lead_of(new, old, catalogue.luck, DRAWS, seed)
        passed += lead.low > 0 and lead.chance <= LIMIT
    return passed


@pytest.mark.faults(kind="J1: equal models", trials=TRIALS)
@pytest.mark.parametrize(
    "row",
    first_of(
        [
            (250, 4, 0.0, 0.9),
            (60, 20, 0.5, 0.6),
            (250, 4, 0.0, 0.0),
            (250, 4, 0.0, 0.3),
            (250, 4, 0.0, 0.6),
            (60, 20, 0.0, 0.9),
            (250, 4, 0.3, 0.9),
            (250, 8, 1.0, 0.9),
            (1000, 1, 0.3, 0.5),
            (20, 20, 0.0, 0.9),
        ],
        few=2,
    ),
)
def test_of_equal_models_no_more_pass_than_the_gate_promises(
    row: tuple[int, int, float, float],
) -> None:
    products, pairs, common, shared = row
    catalogue = draw_catalogue(products, pairs, common, seed=1)
    # One row in a thousand has more by chance than this if the promise holds.
    assert promoted(catalogue, shared, TRIALS) <= binom.ppf(0.999, TRIALS, LIMIT)


def test_exchanged_pair_by_pair_equal_models_pass_far_too_often() -> None:
    catalogue = draw_catalogue(250, 4, 0.0, seed=1, is_even=True)
    alone = [f"pair {number}" for number in range(len(catalogue.product))]
    luck = sources_of_luck(
        catalogue.related,
        catalogue.caption.astype(np.uint64),
        np.arange(len(alone)).astype(np.uint64),
        alone,
    )
    assert promoted(replace(catalogue, luck=luck), 0.9, 100) > binom.ppf(0.999, 100, LIMIT)


def test_products_that_share_captions_are_no_single_block() -> None:
    catalogue = draw_catalogue(500, 4, 0.5, seed=3)
    _, pairs = np.unique(group_rows([catalogue.product, catalogue.caption]), return_counts=True)
    assert pairs.max() > 0.8 * pairs.sum()  # tied together they would be
    new, old = (draw_model(catalogue, 0.5, (each,), luck_of(0.06 * each)) for each in (1, 0))
    assert lead_of(new, old, catalogue.luck, 2000, seed=0).chance < 0.005


def test_a_query_goes_with_its_products_and_with_the_caption_that_they_share() -> None:
    captions, images = np.array([1, 1, 2, 3], np.uint64), np.array([11, 12, 13, 14], np.uint64)
    related = relate(captions.tolist(), images.tolist())
    luck = sources_of_luck(related, captions, images, ["p", "q", "q", ""])
    edges = set(zip(luck.query.tolist(), luck.source.tolist(), luck.share.round(3), strict=True))
    # Queries: captions 0 to 2, images 3 to 6. Sources: the image's own, p, q, and caption 0.
    assert edges == {
        *((0, 1, 0.707), (0, 2, 0.707), (1, 2, 1), (2, 0, 1)),
        *((3, 1, 1), (4, 2, 1), (5, 2, 1), (6, 0, 1)),
        *((0, 3, 1), (3, 3, 1), (4, 3, 1)),
    }
    assert luck.products == 3


def test_the_share_of_exchanges_is_that_of_all_exchanges_written_out() -> None:
    catalogue = draw_catalogue(10, 3, 0.0, seed=5)
    new, old = (draw_model(catalogue, 0.5, (each, 3)) for each in (1, 2))
    hits = [
        (np.mean([(a.ranks <= k) * 1.0 - (b.ranks <= k) for k in RANK_AT], axis=0), a.queries)
        for a, b in ((new.text_to_image, old.text_to_image), (new.image_to_text, old.image_to_text))
    ]
    gain_P = sum(np.bincount(catalogue.product, gain) / (2 * size) for gain, size in hits)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    exact = float(((signs * gain_P[:, None]).sum(0) >= gain_P.sum() - 1e-12).mean())
    lead = lead_of(new, old, catalogue.luck, 20_000, seed=1)
    assert lead.chance == pytest.approx(exact, abs=0.015)
    assert lead.difference == pytest.approx(new.mean_recall - old.mean_recall)


def test_the_interval_holds_the_truth_about_95_times_of_100() -> None:
    catalogue = draw_catalogue(200, 3, 0.0, seed=2)
    trials = [
        tuple(draw_model(catalogue, 0.5, (seed, each), better=0.1 * each) for each in (1, 0))
        for seed in range(200)
    ]
    truth = np.mean([new.mean_recall - old.mean_recall for new, old in trials])
    leads = [lead_of(new, old, catalogue.luck, 300, seed) for seed, (new, old) in enumerate(trials)]
    held = np.mean([lead.low <= truth <= lead.high for lead in leads])
    assert 0.9 <= held <= 0.99


def test_a_model_is_not_ahead_of_itself_and_the_seed_decides_the_rest() -> None:
    catalogue = draw_catalogue(50, 3, 0.2, seed=2)
    new, old = (draw_model(catalogue, 0.5, (each,)) for each in (1, 2))
    itself = lead_of(new, new, catalogue.luck, 100, seed=0)
    assert (itself.difference, itself.low, itself.high, itself.chance) == (0, 0, 0, 1)
    one, again, other = (lead_of(new, old, catalogue.luck, 200, seed) for seed in (3, 3, 4))
    assert one == again and one != other


def test_a_model_must_be_ahead_of_the_margin_by_more_than_chance() -> None:
    catalogue = draw_catalogue(400, 2, 0.0, seed=2)
    new, old = (draw_model(catalogue, 0.3, (each,), better=0.5 * each) for each in (1, 0))
    free, held = (lead_of(new, old, catalogue.luck, 1000, 0, margin) for margin in (0.0, 0.3))
    assert free.chance < 0.01 < 0.5 < held.chance


def test_results_on_different_queries_or_without_draws_are_refused() -> None:
    catalogue, other = (draw_catalogue(size, 3, 0.0, seed=2) for size in (50, 49))
    new, old = draw_model(catalogue, 0.5, (1,)), draw_model(other, 0.5, (2,))
    with pytest.raises(ValueError, match="answered different queries"):
        lead_of(new, old, catalogue.luck, 100, seed=0)
    worse = draw_model(catalogue, 0.5, (3,))
    with pytest.raises(ValueError, match="0 draws from"):
        lead_of(new, worse, catalogue.luck, 0, seed=0)


def test_exchanges_in_many_blocks_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sums_SF = np.random.default_rng(0).normal(size=(300, 2))
    whole = exchange(sums_SF, 2000, seed=0)
    monkeypatch.setattr("model.evaluation.bootstrap.COUNTS_AT_ONCE", 1000)
    blocks = exchange(sums_SF, 2000, seed=0)
    assert whole.shape == blocks.shape == (2000, 2)
    assert blocks.std(axis=0) == pytest.approx(np.sqrt((sums_SF**2).sum(axis=0)), rel=0.06)


# ---- slices ----


@pytest.mark.parametrize("products", [300, *first_of([1000], few=0)])
def test_of_equal_models_one_table_of_slices_in_twenty_has_a_fall(products: int) -> None:
    trials = rounds(100, 400)
    alarms = sum(fallen_slices(seed, products, 0.0).any() for seed in range(trials))
    assert alarms <= binom.ppf(0.999, trials, 0.05)


def test_a_slice_of_100_pairs_that_falls_by_twice_its_limit_is_found() -> None:
    trials = rounds(40, 400)
    found = sum(fallen_slices(seed, 100 * SLICES, 2 * MAY_FALL)[0] for seed in range(trials))
    assert found >= 0.8 * trials


def test_sources_that_move_nothing_cost_nothing() -> None:
    catalogue = draw_catalogue(50, 2, 0.0, seed=2)
    new = draw_model(catalogue, 0.5, (1,))
    sums = sum_by_source(gains(new, new)[:, None], catalogue.luck)
    assert sums.shape == (0, 1)
    assert exchange(sums, 7, seed=0).tolist() == [[0.0]] * 7
