"""Queries that many products answer: labels and fields of a side table, scored by precision.

Right answers to a query are all images of products whose fields satisfy it. Scores follow the
field: precision, recall, nDCG with binary gains, mean reciprocal rank. Of equally similar images
the wrong ones stand first.

Shapes: Q queries, C distinct images, P pairs of a query with a right image, D dimensions, K
answers.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.concepts.mining import Phrases
from model.concepts.rewording import FEWEST, choose_concepts
from model.evaluation.figures import Floats
from model.evaluation.retrieval import RANK_AT, RelevantPairs, chance, ranks, top_k

MAX_QUERIES = 2000
MOST_ANSWERS = 10
# How much of a product's embedding is its picture's and how much its caption's in Marqo's category
# → product tasks. Source: github.com/marqo-ai/marqo-FashionCLIP, configs/KAGL.json (doc_weights).
IMAGE_SHARE, CAPTION_SHARE = 0.9, 0.1


@dataclass(frozen=True)
class KeywordQueries:
    """Q distinct keyword queries; ``query`` and ``candidate``, int64 [P], are their right answers among the images."""

    texts: tuple[str, ...]
    query: torch.Tensor
    candidate: torch.Tensor

    def metrics(
        self, text_QD: torch.Tensor, image_CD: torch.Tensor, block_rows: int
    ) -> dict[str, float]:
        """Return ``keyword_rank_at_1``, …, ``keyword_chance_at_1``, … and ``keyword_mean_recall``,
        shares 0 to 1.

        Nothing where there are no queries. ``text_QD`` are the normalised embeddings of the
        queries, ``image_CD`` those of the distinct images.
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
    """Return a query of each caption that names two concepts or more, of at most ``most`` spread
    evenly over them.

    ``captions`` are the distinct ones of a split, at ``related.caption_row``. Right answers to a
    query are the images of all captions that name all of its concepts, whatever else they say.
    """
    named = [phrases.find(caption) for caption in captions]
    able = [number for number, concepts in enumerate(named) if len(concepts) >= FEWEST]
    spread = np.unique(np.linspace(0, len(able) - 1, min(most, len(able))).round().astype(int))
    naming, images = _holders(enumerate(named)), _images(related)
    chosen: dict[frozenset[int], tuple[str, list[int]]] = {}
    for caption in (able[place] for place in spread):
        concepts = choose_concepts(named[caption], np.random.default_rng((seed, caption)))
        if frozenset(concepts) not in chosen:
            all_named = set.intersection(*sorted((naming[number] for number in concepts), key=len))
            right = sorted({image for each in all_named for image in images[each]})
            chosen[frozenset(concepts)] = (
                " ".join(phrases.phrases[number] for number in concepts),
                right,
            )
    texts, rights = [text for text, _ in chosen.values()], [right for _, right in chosen.values()]
    query = np.repeat(np.arange(len(texts)), [len(right) for right in rights])
    candidate = np.fromiter(itertools.chain.from_iterable(rights), np.int64, len(query))
    return KeywordQueries(tuple(texts), torch.from_numpy(query), torch.from_numpy(candidate))


def label_queries(label_C: Sequence[str]) -> KeywordQueries:
    """Return a query a distinct label, in lower case; right are the images that have it. No label is no query."""
    holders = defaultdict[str, list[int]](list)
    for image, label in enumerate(label_C):
        if label:
            holders[label.lower()].append(image)
    return _queries(dict(sorted(holders.items())))


def field_queries(
    fields: Mapping[str, Sequence[str]],
    columns: Sequence[str],
    most: int = MAX_QUERIES,
    seed: int = 0,
) -> KeywordQueries:
    """Return queries such as "navy blue casual shoes", composed from the fields of at most ``most``
    images.

    ``fields`` [C] a column are those of the distinct images, taken spread evenly. The last of
    ``columns`` that a product has is the noun and always said; of the others one to all are, in the
    order of ``columns``. Right are all images whose fields have these values. Queries of equal
    words are one.
    """
    present = [column for column in columns if column in fields]
    values = [
        [(column, fields[column][image].lower()) for column in present]
        for image in range(_length(fields))
    ]
    said = [[field for field in each if field[1]] for each in values]
    able = [image for image, each in enumerate(said) if len(each) > 1]
    holders = defaultdict[tuple[str, str], set[int]](set)
    for image, each in enumerate(said):
        for field in each:
            holders[field].add(image)
    spread = np.unique(np.linspace(0, len(able) - 1, min(most, len(able))).round().astype(int))
    rights: dict[str, list[int]] = {}
    for image in (able[place] for place in spread):
        *others, noun = said[image]
        generator = np.random.default_rng((seed, image))
        wanted = generator.choice(
            len(others), generator.integers(1, len(others), endpoint=True), replace=False
        )
        chosen = [*(others[place] for place in sorted(wanted.tolist())), noun]
        text = " ".join(value for _, value in chosen)
        if text not in rights:
            rights[text] = sorted(set.intersection(*(holders[field] for field in chosen)))
    return _queries(rights)


def caption_queries(
    captions: Sequence[str], related: RelevantPairs, most: int = MAX_QUERIES
) -> KeywordQueries:
    """Return at most ``most`` captions of a split, spread evenly, with their images: Marqo's text → image task."""
    spread = np.unique(
        np.linspace(0, len(captions) - 1, min(most, len(captions))).round().astype(int)
    )
    place_of = torch.full((len(captions),), -1)
    place_of[torch.from_numpy(spread)] = torch.arange(len(spread))
    query = place_of[related.query]
    is_chosen = query >= 0
    texts = tuple(captions[int(number)] for number in spread)
    return KeywordQueries(texts, query[is_chosen], related.candidate[is_chosen])


def product_embeddings(
    text_QD: torch.Tensor, image_CD: torch.Tensor, caption_C: torch.Tensor
) -> torch.Tensor:
    """Return the normalised mixture of each image with a caption of its own, [C, D], as Marqo searches products."""
    mixed = IMAGE_SHARE * image_CD + CAPTION_SHARE * text_QD[caption_C]
    return torch.nn.functional.normalize(mixed, dim=1)


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
    answers_of = defaultdict[int, set[int]](set)
    for query, candidate in zip(queries.query.tolist(), queries.candidate.tolist(), strict=True):
        answers_of[query].add(candidate)
    is_right = np.array(
        [[a in answers_of[q] for a in row] for q, row in enumerate(answers.tolist())],
        dtype=np.float64,
    )
    right_Q = np.array([len(answers_of[query]) for query in range(len(rank_Q))])
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


def expected_precision(queries: KeywordQueries, candidates: int) -> float:
    """Return the precision of a random order: the mean share of candidates that are right."""
    return len(queries.query) / max(len(queries.texts) * candidates, 1)


def _queries(rights: Mapping[str, Sequence[int]]) -> KeywordQueries:
    query = np.repeat(np.arange(len(rights)), [len(right) for right in rights.values()])
    candidate = np.array([image for right in rights.values() for image in right], dtype=np.int64)
    return KeywordQueries(tuple(rights), torch.from_numpy(query), torch.from_numpy(candidate))


def _length(fields: Mapping[str, Sequence[str]]) -> int:
    return max(map(len, fields.values()), default=0)


def _holders(named: Iterable[tuple[int, list[int]]]) -> Mapping[int, set[int]]:
    """Return the captions that name each concept."""
    naming = defaultdict[int, set[int]](set)
    for caption, concepts in named:
        for number in concepts:
            naming[number].add(caption)
    return naming


def _images(related: RelevantPairs) -> Mapping[int, list[int]]:
    """Return the images of each caption."""
    images = defaultdict[int, list[int]](list)
    for caption, image in zip(related.query.tolist(), related.candidate.tolist(), strict=True):
        images[caption].append(image)
    return images
