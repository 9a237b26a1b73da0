"""Protocols beside the full set: product-level right answers, and 101 candidates a query.

The 101-candidate protocol (FashionBERT, KaleidoBERT, CommerceMM) ranks the right answer among 100
wrong ones drawn from its subcategory. Here they are drawn without replacement, a pure function of
seed, direction and query, and never from the products that the query belongs to. A subcategory that
holds fewer gives all that it has: candidates from elsewhere would be recognised at a glance and
only look like a full set (DECISIONS 28). Drawing takes about 0.1 ms a query.

Shapes: Q captions, C images, P pairs, K candidates of a query (the right one first, padded with
-1), D dimensions.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.evaluation.retrieval import (
    Direction,
    Ints,
    RelevantPairs,
    RetrievalResult,
    relate,
    values_by_key,
)
from model.evaluation.similarity import exact_similarity

WRONG = 100  # candidates of a query


@dataclass(frozen=True)
class CandidateSets:
    """The candidates of every caption, int64 [Q, K], and of every image, int64 [C, K]."""

    text_to_image: Ints
    image_to_text: Ints


def relate_products(
    caption_hashes: Sequence[Hashable],
    image_hashes: Sequence[Hashable],
    products: Sequence[Hashable],
) -> RelevantPairs:
    """Find which captions and images belong to one product, by the hashes and product of each pair.

    Captions and images are those of `relate`, in its order; right answers to a caption are all
    images of every product that it names, and the other way round.

    Raises:
        ValueError: the sequences differ in length.
    """
    related = relate(caption_hashes, image_hashes)
    caption_at = {caption_hashes[row]: at for at, row in enumerate(related.caption_row.tolist())}
    image_at = {image_hashes[row]: at for at, row in enumerate(related.image_row.tolist())}

    rows = list(zip(caption_hashes, image_hashes, products, strict=True))
    images = values_by_key((product, image_at[image]) for _, image, product in rows)
    named = {(caption_at[caption], product) for caption, _, product in rows}
    edges = sorted({(caption, image) for caption, product in named for image in images[product]})
    query, candidate = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return RelevantPairs(related.caption_row, related.image_row, query, candidate)


def draw_candidates(
    pairs: RelevantPairs,
    products: RelevantPairs,
    caption_label: Sequence[str],
    image_label: Sequence[str],
    seed: int,
) -> CandidateSets:
    """Draw one right answer and `WRONG` wrong ones with its label for every caption and image.

    ``pairs`` are the pair-level relations, of which the right answer is drawn; ``products`` the
    product-level ones, none of which is a wrong answer. ``caption_label`` [Q] and ``image_label``
    [C] are the subcategories.
    """
    turned = [
        RelevantPairs(each.image_row, each.caption_row, each.candidate, each.query)
        for each in (pairs, products)
    ]
    return CandidateSets(
        text_to_image=_draw(pairs, products, caption_label, image_label, (seed, 0)),
        image_to_text=_draw(turned[0], turned[1], image_label, caption_label, (seed, 1)),
    )


def evaluate_candidates(
    text_QD: Tensor, image_CD: Tensor, sets: CandidateSets, groups: tuple[Ints, Ints]
) -> RetrievalResult:
    """Measure Rank@K of each query among its own candidates, exactly, ties against the model."""
    return RetrievalResult(
        text_to_image=_rank_among(text_QD, image_CD, sets.text_to_image, groups[0]),
        image_to_text=_rank_among(image_CD, text_QD, sets.image_to_text, groups[1]),
    )


def _draw(
    pairs: RelevantPairs,
    products: RelevantPairs,
    query_label: Sequence[str],
    candidate_label: Sequence[str],
    seed: tuple[int, int],
) -> Ints:
    right, same_product = _answers(pairs), _answers(products)
    labels = np.array(candidate_label, dtype=object)
    pools = {label: np.flatnonzero(labels == label) for label in set(query_label)}

    drawn = np.full((len(query_label), 1 + WRONG), -1)
    for query, label in enumerate(query_label):
        generator = np.random.default_rng((*seed, query))
        wrong = pools[label][~np.isin(pools[label], same_product[query])]
        drawn[query, 0] = generator.choice(right[query])
        chosen = np.sort(generator.choice(wrong, min(WRONG, len(wrong)), replace=False))
        drawn[query, 1 : 1 + len(chosen)] = chosen
    return drawn


def _answers(related: RelevantPairs) -> list[Ints]:
    """Return the right answers of each query, ascending."""
    query, candidate = related.query.numpy(), related.candidate.numpy()
    order = np.lexsort((candidate, query))
    ends = np.cumsum(np.bincount(query, minlength=len(related.caption_row)))
    return np.split(candidate[order], ends[:-1])


def _rank_among(query_QD: Tensor, candidate_CD: Tensor, drawn_QK: Ints, group_Q: Ints) -> Direction:
    is_there = drawn_QK >= 0
    query, place = np.nonzero(is_there)
    at_query, at_candidate = torch.from_numpy(query), torch.from_numpy(drawn_QK[query, place])
    exact = exact_similarity(query_QD.float(), candidate_CD.float(), at_query, at_candidate)

    # What is not there is as far away as can be.
    similarity = torch.full(drawn_QK.shape, -torch.inf)
    similarity[at_query, torch.from_numpy(place)] = exact.cpu()
    right, wrong = similarity[:, :1], similarity[:, 1:]
    ahead, tied = (wrong >= right).sum(1), (wrong == right).sum(1)

    return Direction.of(
        rank_Q=(ahead + 1).numpy(),
        tied_Q=tied.numpy(),
        right_Q=np.ones(len(drawn_QK), np.int64),
        candidates_Q=is_there.sum(axis=1),
        group_Q=group_Q,
    )
