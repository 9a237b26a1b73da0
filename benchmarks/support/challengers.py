"""Pairs of models whose difference is known, on catalogues of a chosen make: what the gate is
measured on.

A model's luck with a query comes from the query's product, from a caption that several products
share, and from the query alone; ``shared`` is the part that is not the query's own. How hard a
product is both models share, so their results go together as those of two trainings do.

Shapes: N pairs, P products, Q captions, C images.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch

from model.evaluation.exchange import (
    Luck,
    fall_chances,
    gains,
    query_weights,
    sources_of_luck,
)
from model.evaluation.retrieval import (
    RANK_AT,
    Direction,
    Floats,
    Ints,
    RelevantPairs,
    RetrievalResult,
    relate,
)

HARDNESS = 1.6  # of products, as standard deviations of luck
SPREAD, MIDDLE = 1.3, 1.1  # of the logarithm of a rank
SLICES, MAY_FALL = 10, 0.05


@dataclass(frozen=True)
class Catalogue:
    """A test split: product and caption of each pair, int64 [N], and how hard each query is."""

    product: Ints
    caption: Ints
    related: RelevantPairs
    luck: Luck
    hard: Floats


def draw_catalogue(
    products: int, most_pairs: int, common: float, seed: int, is_even: bool = False
) -> Catalogue:
    """Draw products of one to ``most_pairs`` pairs each, or of just so many.

    Of the pairs a share ``common`` has a caption that five products have on average.
    """
    generator = np.random.default_rng((seed, 0))
    sizes = (
        np.full(products, most_pairs)
        if is_even
        else generator.integers(1, most_pairs, products, endpoint=True)
    )
    product_N = np.repeat(np.arange(products), sizes)
    caption_N = np.arange(len(product_N))
    is_common = generator.random(len(caption_N)) < common
    pool = max(1, int(is_common.sum()) // 5)
    caption_N[is_common] = len(caption_N) + generator.integers(0, pool, is_common.sum())

    image_N = np.arange(len(product_N)).astype(np.uint64)
    related = relate(caption_N.tolist(), image_N.tolist())
    names = [f"p{number}" for number in product_N]
    luck = sources_of_luck(related, caption_N.astype(np.uint64), image_N, names)
    hard_P = generator.normal(size=products)
    return Catalogue(product_N, caption_N, related, luck, _of_queries(hard_P, product_N, related))


def luck_of(points: float) -> float:
    """Return by how many standard deviations of luck a model is better whose mean recall is."""
    spread = NormalDist(0, SPREAD * np.hypot(HARDNESS, 1))

    def recall(luck: float) -> float:
        return float(np.mean([spread.cdf(np.log(k) - MIDDLE + SPREAD * luck) for k in RANK_AT]))

    low, high = -10.0, 10.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if recall(middle) < recall(0) + points else (low, middle)
    return low


def draw_model(
    catalogue: Catalogue, shared: float, seed: tuple[int, ...], better: float | Floats = 0.0
) -> RetrievalResult:
    """Draw a model's ranks.

    ``better`` says by how many standard deviations of luck it is better, at all queries or at each,
    [Q + C].
    """
    generator, related = np.random.default_rng(seed), catalogue.related
    captions, images = len(related.caption_row), len(related.image_row)
    product_P = generator.normal(size=int(catalogue.product.max()) + 1)
    of_product = _of_queries(product_P, catalogue.product, related)

    # A caption of several products is embedded once, whatever is asked by it or wants it.
    edges = related.query.numpy(), related.candidate.numpy()
    of_caption = generator.normal(size=captions)
    of_hub = np.concatenate([of_caption, np.zeros(images)])
    of_hub[captions + edges[1]] = of_caption[edges[0]]
    is_hub = np.bincount(edges[0])[np.concatenate([np.arange(captions), np.zeros(images, int)])] > 1
    is_hub[captions + edges[1]] = np.bincount(edges[0])[edges[0]] > 1
    together = np.where(is_hub, (of_product + of_hub) / np.sqrt(2), of_product)

    own = generator.normal(size=captions + images)
    luck_Q = np.sqrt(shared) * together + np.sqrt(1 - shared) * own
    rank_Q = np.exp(MIDDLE + SPREAD * (HARDNESS * catalogue.hard - luck_Q - better))
    return _result(np.ceil(rank_Q).astype(np.int64), related)


def fallen_slices(seed: int, pairs: int, fall: float) -> npt.NDArray[np.bool_]:
    """Return which of ten slices that may fall by 5 points count as fallen, bool [10].

    The products, of one pair each, are dealt to the slices in turn; the first truly falls by
    ``fall``, 0 to 1.
    """
    catalogue = draw_catalogue(pairs, 1, 0.0, seed)
    old = draw_model(catalogue, 0.3, (seed, 1))
    related = catalogue.related
    rows = np.concatenate([related.caption_row.numpy(), related.image_row.numpy()])
    member_QS = catalogue.product[rows][:, None] % SLICES == np.arange(SLICES)
    weight_QS = member_QS * query_weights(old)[:, None]
    weight_QS /= weight_QS.sum(axis=0)

    worse = np.where(member_QS[:, 0], luck_of(-fall), 0.0)
    new = draw_model(catalogue, 0.3, (seed, 2), worse)
    limits = np.full(SLICES, MAY_FALL)
    falls, chances = fall_chances(gains(new, old), weight_QS, limits, catalogue.luck, 500, seed)
    return np.asarray((falls > MAY_FALL) & (chances <= 0.05))


def _of_queries(value_P: Floats, product_N: Ints, related: RelevantPairs) -> Floats:
    """Return the value of each query's product, [Q + C]; of several, their sum over its root."""
    image_product = product_N[related.image_row.numpy()]
    query, image = related.query.numpy(), related.candidate.numpy()
    sums = np.bincount(query, value_P[image_product[image]])
    return np.concatenate([sums / np.sqrt(np.bincount(query)), value_P[image_product]])


def _result(rank_Q: Ints, related: RelevantPairs) -> RetrievalResult:
    captions = len(related.caption_row)
    parts = [rank_Q[:captions], rank_Q[captions:]]
    sides = [
        Direction.of(
            rank_Q=part,
            tied_Q=np.zeros_like(part),
            right_Q=np.ones_like(part),
            candidates_Q=np.full(len(part), len(part)),
            group_Q=group.numpy() if isinstance(group, torch.Tensor) else group,
        )
        for part, group in zip(parts, related.groups(), strict=True)
    ]
    return RetrievalResult(*sides)
