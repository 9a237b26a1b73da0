"""Which images lie nearest to each concept: what training made of the concepts, seen from outside.

A prototype is made of some pairs as `model.concepts.prototypes` makes it of the queue's, and images
of other pairs are ranked by it, so that no image is near because it is a part of what it is
compared with.
"""

from typing import NamedTuple

import numpy as np
import torch

from model.batches.loading import PairInput
from model.concepts.mining import ConceptLabels, Vocabulary
from model.concepts.prototypes import FeatureQueue
from model.embeddings.embed import embed_pairs
from model.towers.towers import Towers


class Nearest(NamedTuple):
    """A concept's number and the rows of the images nearest to its prototype, nearest first."""

    concept: int
    rows: list[int]


def spread_pairs(pairs: PairInput, most: int) -> PairInput:
    """Choose at most so many pairs, spread evenly over all."""
    rows = np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(np.int64)
    return pairs.take(rows)


def weightiest_concepts(vocabulary: Vocabulary, labels: ConceptLabels, most: int) -> list[int]:
    """Rank the concepts by their weight in the concept loss of the labelled pairs: members × idf.

    Only those that have a prototype: two pairs at least name them, and not all do.
    """
    members = np.bincount(labels[labels >= 0], minlength=len(vocabulary))
    weights = members * vocabulary.idf().numpy() * ((members >= 2) & (members < len(labels)))
    order = np.argsort(-weights, kind="stable")[:most]
    return [int(number) for number in order if weights[number] > 0]


def nearest_images(
    towers: Towers,
    made_of: PairInput,
    labels: ConceptLabels,
    searched: PairInput,
    concepts: list[int],
    most: int,
    batch_size: int,
    workers: int,
) -> list[Nearest]:
    """Find for each concept the rows of ``searched`` whose images its prototype is nearest to.

    ``labels``, int32 [N, M], are those of the N pairs that prototypes are made of.

    Raises:
        DataError: a line cannot be decoded any more.
    """
    # The prototypes of all concepts, from a queue that holds every pair once.
    text_ND, image_ND = embed_pairs(towers, made_of, batch_size, workers)
    queue = FeatureQueue(len(labels), int(labels.max(initial=0)) + 1, towers.embed_dim)
    queue.push(image_ND, text_ND, torch.from_numpy(labels).long(), torch.arange(len(labels)))

    _, image_PD = embed_pairs(towers, searched, batch_size, workers)
    similarity_CP = queue.prototypes()[concepts] @ (image_PD - queue.means()[0]).T
    order = similarity_CP.argsort(dim=1, descending=True, stable=True)[:, :most]
    return [Nearest(concept, rows) for concept, rows in zip(concepts, order.tolist(), strict=True)]
