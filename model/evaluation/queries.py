"""Queries that many products answer: concepts, fields, labels and captions, and their scores.

Right answers to a query are all images of products that satisfy it. Scores follow the field:
precision, recall, nDCG with binary gains, mean reciprocal rank. Of equally similar images the wrong
ones stand first. 2,000 queries over 32,528 images take about five seconds to score.

Shapes: Q queries, C distinct images, P pairs of a query with a right image, D dimensions, K
answers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.concepts.mining import Phrases
from model.concepts.rewording import FEWEST, choose_concepts
from model.evaluation.retrieval import (
    RANK_AT,
    Floats,
    Ints,
    RelevantPairs,
    chance,
    ranks,
    top_k,
    values_by_key,
)

MAX_QUERIES = 2000
MOST_ANSWERS = 10
# How much of a product's embedding is its image's and how much its caption's in Marqo's category →
# product tasks. Source: github.com/marqo-ai/marqo-FashionCLIP, configs/KAGL.json (doc_weights).
IMAGE_SHARE, CAPTION_SHARE = 0.9, 0.1


@dataclass(frozen=True)
class KeywordQueries:
    """Q distinct queries and their right answers among the images.

    ``query`` and ``candidate``, int64 [P], are the pairs of a query and a right image.
    """

    texts: tuple[str, ...]
    query: torch.Tensor
    candidate: torch.Tensor

    def metrics(
        self, text_QD: torch.Tensor, image_CD: torch.Tensor, block_rows: int
    ) -> dict[str, float]:
        """Return ``keyword_rank_at_1``, …, ``keyword_chance_at_1``, … and ``keyword_mean_recall``.

        All are shares 0 to 1; there are none where there are no queries. ``text_QD`` are the
        normalised embeddings of the queries, ``image_CD`` those of the distinct images.
        """
        if not self.texts:
            return {}
        rank_Q = ranks(text_QD, image_CD, self.query, self.candidate, block_rows)
        right_Q = np.bincount(self.query.numpy())
        found = {k: float((rank_Q <= k).double().mean()) for k in RANK_AT}
        return {
            "keyword_mean_recall": sum(found.values()) / len(found),
            **{f"keyword_rank_at_{k}": share for k, share in found.items()},
            **{f"keyword_chance_at_{k}": chance(right_Q, len(image_CD), k) for k in RANK_AT},
        }


def keyword_queries(
    captions: Sequence[str],
    related: RelevantPairs,
    phrases: Phrases,
    most: int = MAX_QUERIES,
    seed: int = 0,
) -> KeywordQueries:
    """Return queries of captions that name two concepts or more, at most ``most``, spread evenly.

    ``captions`` are the distinct ones of a split, at ``related.caption_row``. Right answers to a
    query are the images of all captions that name all of its concepts, whatever else they say.
    """
    named = [phrases.find(caption) for caption in captions]
    naming = values_by_key(
        (number, caption) for caption, concepts in enumerate(named) for number in concepts
    )
    images = values_by_key(zip(related.query.tolist(), related.candidate.tolist(), strict=True))

    # Captions that name the same concepts are one query.
    able = [caption for caption, concepts in enumerate(named) if len(concepts) >= FEWEST]
    chosen: dict[frozenset[int], tuple[str, list[int]]] = {}
    for caption in (able[place] for place in _spread(len(able), most)):
        concepts = choose_concepts(named[caption], np.random.default_rng((seed, caption)))
        if frozenset(concepts) not in chosen:
            all_named = set.intersection(*sorted((naming[number] for number in concepts), key=len))
            text = " ".join(phrases.phrases[number] for number in concepts)
            right = sorted({image for each in all_named for image in images[each]})
            chosen[frozenset(concepts)] = text, right
    return _queries(chosen.values())


def field_queries(
    fields: Mapping[str, Sequence[str]],
    columns: Sequence[str],
    most: int = MAX_QUERIES,
    seed: int = 0,
) -> KeywordQueries:
    """Return queries such as "navy blue casual shoes", composed from the fields of images.

    ``fields`` [C] a column are those of the distinct images, of which at most ``most`` are taken,
    spread evenly. The last of ``columns`` that a product has is the noun, and every query has it;
    of the others a query has one to all, in the order of ``columns``. Right are all images whose
    fields have these values. Queries of equal words are one.
    """
    count = max(map(len, fields.values()), default=0)
    known = [
        [
            (column, fields[column][image].lower())
            for column in columns
            if column in fields and fields[column][image]
        ]
        for image in range(count)
    ]
    holders = values_by_key((field, image) for image, each in enumerate(known) for field in each)

    able = [image for image, each in enumerate(known) if len(each) > 1]
    rights: dict[str, list[int]] = {}
    for image in (able[place] for place in _spread(len(able), most)):
        *others, noun = known[image]
        generator = np.random.default_rng((seed, image))
        wanted = generator.choice(
            len(others), generator.integers(1, len(others), endpoint=True), replace=False
        )
        chosen = [*(others[place] for place in sorted(wanted.tolist())), noun]
        right = sorted(set.intersection(*(holders[field] for field in chosen)))
        rights.setdefault(" ".join(value for _, value in chosen), right)
    return _queries(rights.items())


def label_queries(label_C: Sequence[str]) -> KeywordQueries:
    """Return a query a distinct label, in lower case; right are the images that have it.

    No label is no query.
    """
    holders = values_by_key((label.lower(), image) for image, label in enumerate(label_C) if label)
    return _queries([(label, sorted(images)) for label, images in sorted(holders.items())])


def caption_queries(
    captions: Sequence[str], related: RelevantPairs, most: int = MAX_QUERIES
) -> KeywordQueries:
    """Return at most ``most`` captions of a split with their images, spread evenly.

    They are Marqo's text → image task.
    """
    spread = torch.from_numpy(_spread(len(captions), most))
    place_of = torch.full((len(captions),), -1)
    place_of[spread] = torch.arange(len(spread))
    query = place_of[related.query]
    texts = tuple(captions[number] for number in spread.tolist())
    return KeywordQueries(texts, query[query >= 0], related.candidate[query >= 0])


def product_embeddings(
    text_QD: torch.Tensor, image_CD: torch.Tensor, caption_C: torch.Tensor
) -> torch.Tensor:
    """Return the normalised mixture of each image with a caption of its own, [C, D].

    Marqo searches products so.
    """
    return torch.nn.functional.normalize(
        IMAGE_SHARE * image_CD + CAPTION_SHARE * text_QD[caption_C], dim=1
    )


def score_queries(
    queries: KeywordQueries, text_QD: torch.Tensor, candidate_CD: torch.Tensor, block_rows: int
) -> dict[str, Floats]:
    """Return the scores of each query, float64 [Q] each, by name.

    ``precision_at_1``, ``precision_at_10``, ``recall_at_1``, ``recall_at_10``, ``ndcg_at_10``,
    ``mrr``, and ``mrr_at_10``, in which a first right answer beyond the tenth place counts as none.
    """
    right = (queries.query, queries.candidate)
    _, answers = top_k(text_QD, candidate_CD, MOST_ANSWERS, block_rows, right)
    rank_Q = ranks(text_QD, candidate_CD, *right, block_rows).numpy()

    answers_of = values_by_key(zip(queries.query.tolist(), queries.candidate.tolist(), strict=True))
    is_right = np.array(
        [[a in answers_of[q] for a in row] for q, row in enumerate(answers.tolist())],
        dtype=np.float64,
    )
    right_Q = np.array([len(answers_of[query]) for query in range(len(rank_Q))])

    # The best possible order has all right answers first.
    discount = 1 / np.log2(np.arange(2, MOST_ANSWERS + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])[np.minimum(right_Q, MOST_ANSWERS)]
    hits = is_right.sum(axis=1)
    return {
        "precision_at_1": is_right[:, 0],
        "precision_at_10": hits / MOST_ANSWERS,
        "recall_at_1": is_right[:, 0] / right_Q,
        "recall_at_10": hits / right_Q,
        "ndcg_at_10": is_right @ discount[: is_right.shape[1]] / ideal,
        "mrr": 1 / rank_Q,
        "mrr_at_10": np.where(rank_Q <= MOST_ANSWERS, 1 / rank_Q, 0.0),
    }


def expected_scores(queries: KeywordQueries, candidates: int) -> dict[str, float]:
    """Return the scores that a random order of the candidates has on average, named as they are.

    Exact over all orders, the mean over the queries; what a model has to beat.
    """
    if not queries.texts:
        return {}
    # Queries of as many right answers have the same chances.
    rights, times = np.unique(np.bincount(queries.query.numpy()), return_counts=True)
    right_Q = rights[:, None]

    # The first right answer stands at place i after i - 1 wrong ones.
    place = np.arange(candidates)
    misses = np.maximum(candidates - right_Q - place, 0) / (candidates - place)
    beyond = np.concatenate([np.ones_like(right_Q, np.float64), misses.cumprod(axis=1)], axis=1)
    first = (beyond[:, :-1] - beyond[:, 1:]) / (place + 1)

    share = right_Q[:, 0] / candidates
    discount = 1 / np.log2(np.arange(2, MOST_ANSWERS + 2))
    ideal = np.concatenate([[0.0], discount.cumsum()])[np.minimum(right_Q[:, 0], MOST_ANSWERS)]
    seen = min(MOST_ANSWERS, candidates)
    means = {
        "precision_at_1": share,
        "precision_at_10": share * seen / MOST_ANSWERS,
        "recall_at_1": np.full(len(share), 1 / candidates),
        "recall_at_10": np.full(len(share), seen / candidates),
        "ndcg_at_10": share * discount[:seen].sum() / ideal,
        "mrr": first.sum(axis=1),
        "mrr_at_10": first[:, :MOST_ANSWERS].sum(axis=1),
    }
    return {name: float(np.average(each, weights=times)) for name, each in means.items()}


def _spread(count: int, most: int) -> Ints:
    """Return at most ``most`` of the places 0 to ``count`` - 1, spread evenly, int64."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def _queries(answers: Collection[tuple[str, Sequence[int]]]) -> KeywordQueries:
    """Put texts and their right images together."""
    texts, rights = [text for text, _ in answers], [right for _, right in answers]
    query = np.repeat(np.arange(len(texts)), [len(right) for right in rights])
    candidate = np.array([image for right in rights for image in right], dtype=np.int64)
    return KeywordQueries(tuple(texts), torch.from_numpy(query), torch.from_numpy(candidate))
