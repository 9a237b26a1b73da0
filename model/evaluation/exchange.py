"""Whether one model is better than another on the same queries: luck is exchanged by product.

Were two models equally good, a coin could exchange their results on a product and nothing would
change but by chance. All queries of a product are exchanged together, because they succeed and fail
together: exchanged one by one, an equal model passes for better six times as often as it may
(DECISIONS 57). Products that share a caption or an image are no single block, or a few common
captions would tie a whole catalogue into one. Instead each source of luck has a coin of its own: a
product, and a caption or image that several products share. A query belongs to all its sources, and
by 1/√m to each of m products. Where nothing is shared this is the exact test by product; where
something is, it is a little too careful.

10,000 draws over 32,528 products of which a third differ take about two seconds.

Shapes: N pairs, Q captions, C images, E edges of a query and a source, S sources, F figures (the
whole split, or slices), B draws at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.evaluation.bootstrap import draw_in_blocks
from model.evaluation.retrieval import DIRECTIONS, Floats, Ints, RelevantPairs, RetrievalResult
from model.pairs.arrays import Hashes


@dataclass(frozen=True)
class Luck:
    """The sources of each query's luck, E edges: captions are the first queries, then images.

    ``query`` and ``source`` are int64 [E], ``share`` float64 [E] says how far a query goes with the
    source. ``products`` is how many of the sources are products; they come first.
    """

    query: Ints
    source: Ints
    share: Floats
    products: int


@dataclass(frozen=True)
class Lead:
    """By how much a model is ahead, 0 to 1, its 95 % interval, and how often chance does as well.

    ``chance`` is the share of exchanges after which a model that is ahead by the margin alone would
    seem as far ahead.
    """

    difference: float
    low: float
    high: float
    chance: float


def sources_of_luck(
    related: RelevantPairs, captions_N: Hashes, images_N: Hashes, products_N: Sequence[str]
) -> Luck:
    """Find what the queries of a split share: products, and captions and images of several.

    ``captions_N`` and ``images_N`` are the hashes of each pair that ``related`` was made of,
    ``products_N`` the product of each; a pair without one ("") belongs to that of its image.
    """
    caption_N = _numbers(captions_N, related.caption_row.numpy())
    image_N = _numbers(images_N, related.image_row.numpy())
    named = [name or f"\0{image}" for name, image in zip(products_N, image_N, strict=True)]
    names, product_N = np.unique(named, return_inverse=True)

    # A query of several products goes with each of them by as much as keeps its variance.
    captions = len(related.caption_row)
    both = np.concatenate([caption_N, captions + image_N]), np.tile(product_N, 2)
    query, source = np.unique(np.stack(both), axis=1)
    products_of = np.bincount(query)
    share = 1 / np.sqrt(products_of[query])

    # What several products share is a source of its own, to itself and to what it belongs to.
    edges = related.query.numpy(), captions + related.candidate.numpy()
    hubs = np.flatnonzero(products_of > 1)
    number = np.full(len(products_of), -1)
    number[hubs] = len(names) + np.arange(len(hubs))
    tied = [(hubs, hubs), (edges[1], edges[0]), (edges[0], edges[1])]
    queries = np.concatenate([query, *(some[number[hub] >= 0] for some, hub in tied)])
    sources = np.concatenate([source, *(number[hub][number[hub] >= 0] for _, hub in tied)])
    rest = np.ones(len(queries) - len(query))
    return Luck(queries, sources, np.concatenate([share, rest]), len(names))


def lead_of(
    new: RetrievalResult,
    old: RetrievalResult,
    luck: Luck,
    draws: int,
    seed: int,
    margin: float = 0.0,
) -> Lead:
    """Measure by how much a model's mean recall is ahead of another's, and how sure that is.

    Raises:
        ValueError: the two did not answer the same queries, or there are no draws.
    """
    gain_Q, weight_Q = gains(new, old), query_weights(new)
    ahead = float(gain_Q @ weight_Q)

    def exchanged(centre: float) -> Floats:
        sums_S1 = sum_by_source(((gain_Q - centre) * weight_Q)[:, None], luck)
        return exchange(sums_S1, draws, seed)[:, 0]

    # The observed order is one of the exchanges, so the share is never 0.
    as_good = exchanged(margin) >= ahead - margin - 1e-9
    half = float(np.quantile(np.abs(exchanged(ahead)), 0.95))
    return Lead(ahead, ahead - half, ahead + half, (1 + int(as_good.sum())) / (1 + draws))


def fall_chances(
    gain_Q: Floats, weight_QF: Floats, limit_F: Floats, luck: Luck, draws: int, seed: int
) -> tuple[Floats, Floats]:
    """Return how far each slice falls and how often chance does as bad to any slice, float64 [F].

    ``weight_QF`` says how much each query counts in a slice's figure, ``limit_F`` how far each may
    fall. The second figure is the share of exchanges in which some slice falls beyond its limit, by
    as many standard errors as this one does; all slices together are called fallen by chance in 5 %
    of cases at most where 5 % is the bound. Large slices, which never fall so far by chance, cost
    the small ones nothing.
    """
    values_QF = gain_Q[:, None] * weight_QF
    sums_SF = sum_by_source(values_QF, luck)
    error_F = np.maximum(np.sqrt((sums_SF**2).sum(axis=0)), 1e-12)

    # An exchange turns signs alone, so the standard error of a slice stays what it is.
    fall_F, drawn_BF = -values_QF.sum(axis=0), -exchange(sums_SF, draws, seed)
    worst_B = np.where(drawn_BF > limit_F, drawn_BF / error_F, -np.inf).max(axis=1)
    as_bad_F = (worst_B[:, None] >= fall_F / error_F - 1e-9).sum(axis=0)
    return fall_F, (1 + as_bad_F) / (1 + draws)


def gains(new: RetrievalResult, old: RetrievalResult) -> Floats:
    """Return each query's hits less those of the other model, float64 [Q + C], captions first.

    Raises:
        ValueError: the two did not answer the same queries.
    """
    found = []
    for name in DIRECTIONS:
        one, other = getattr(new, name), getattr(old, name)
        if not np.array_equal(one.group, other.group) or one.candidates != other.candidates:
            raise ValueError(
                f"the models answered different queries ({one.queries} among {one.candidates} "
                f"candidates, {other.queries} among {other.candidates}); "
                "evaluate both on the same split"
            )
        found.append(one.hits - other.hits)
    return np.concatenate(found)


def query_weights(result: RetrievalResult) -> Floats:
    """Return how much each query counts in the mean recall, [Q + C]: both directions the same."""
    sizes = [getattr(result, name).queries for name in DIRECTIONS]
    return np.concatenate([np.full(size, 0.5 / size) for size in sizes])


def sum_by_source(values_QF: Floats, luck: Luck) -> Floats:
    """Sum up the values of each source's queries, [S, F], without the sources that move nothing."""
    moved = [np.bincount(luck.source, luck.share * value_Q[luck.query]) for value_Q in values_QF.T]
    sums_SF: Floats = np.stack(moved, axis=1)
    is_moved = (sums_SF != 0).any(axis=1)
    return np.compress(is_moved, sums_SF, axis=0)


def exchange(sums_SF: Floats, draws: int, seed: int) -> Floats:
    """Return the sums over all sources after each of so many random exchanges, [draws, F]."""
    generator, (sources, figures) = np.random.default_rng(seed), sums_SF.shape
    if not sources:
        return np.zeros((draws, figures))

    def draw(rows: int) -> Floats:
        # A bit a source: kept or exchanged.
        drawn = generator.integers(0, 256, (rows, -(-sources // 8)), np.uint8)
        is_kept = np.unpackbits(drawn, axis=1, count=sources).astype(np.float64)
        return np.asarray(2 * is_kept @ sums_SF - sums_SF.sum(axis=0), np.float64)

    return draw_in_blocks(draw, draws, sources)


def _numbers(values_N: Hashes, first_rows: Ints) -> Ints:
    """Return the number of each pair's value among the distinct ones, by their first rows."""
    distinct = values_N[first_rows]
    order = np.argsort(distinct)
    return order[np.searchsorted(distinct, values_N, sorter=order)]
