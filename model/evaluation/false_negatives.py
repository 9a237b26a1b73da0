"""False negatives: top answers that count as wrong although they are what the caption says.

A catalogue holds many navy blue shirts; the one that belongs to a caption is right, all others
count as wrong. The audit looks at the first answer of every caption that misses at rank 1 and asks
whether that image's own captions name all concepts that the caption names. It knows only what
captions say: what no caption says is not seen. It ranks once more, 1.35 times a float32 product,
and finds the first answers of the captions that miss.

Shapes: Q captions, C images, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.evaluation.retrieval import RelevantPairs, ranks, top_k, values_by_key


@dataclass(frozen=True)
class Audit:
    """Rank@1 as it is and as audited, text → image.

    Of ``misses`` captions that miss at rank 1, ``judged`` name a concept; the top answer of
    ``satisfied`` of those names all of them. ``by_chance`` is the expected number if the top answer
    were any wrong image.
    """

    queries: int
    misses: int
    judged: int
    satisfied: int
    by_chance: float

    @property
    def strict(self) -> float:
        """Rank@1: the share of captions whose own image comes first."""
        return 1 - self.misses / self.queries

    @property
    def audited(self) -> float:
        """Rank@1 if a first image that satisfies all concepts of its caption counted as right."""
        return 1 - (self.misses - self.satisfied) / self.queries


def audit(
    text_QD: torch.Tensor,
    image_CD: torch.Tensor,
    related: RelevantPairs,
    concepts: Sequence[Sequence[int]],
    block_rows: int,
) -> Audit:
    """Audit the first answers of the captions that miss.

    ``concepts`` [Q] are the numbers of the concepts that each caption names.
    """
    found = ranks(text_QD, image_CD, related.query, related.candidate, block_rows)
    missed = (found > 1).nonzero()[:, 0]
    if not len(missed):
        return Audit(len(found), 0, 0, 0, 0.0)

    # Only the captions that miss are searched again; their right answers lose ties there, too.
    place_of = torch.full((len(found),), -1)
    place_of[missed] = torch.arange(len(missed))
    is_missed = place_of[related.query] >= 0
    right = (place_of[related.query[is_missed]], related.candidate[is_missed])
    first = top_k(text_QD[missed], image_CD, 1, block_rows, right)[1][:, 0].tolist()

    # The images of captions that name each concept.
    edges = zip(related.query.tolist(), related.candidate.tolist(), strict=True)
    naming = values_by_key(
        (concept, image) for query, image in edges for concept in concepts[query]
    )

    rights = torch.bincount(related.query, minlength=len(found)).tolist()
    judged = satisfied = 0
    by_chance = 0.0
    for query, answer in zip(missed.tolist(), first, strict=True):
        if not concepts[query]:
            continue
        judged += 1
        all_named = set.intersection(
            *sorted((naming[concept] for concept in concepts[query]), key=len)
        )
        satisfied += answer in all_named
        # A caption's own images name all that it names.
        by_chance += (len(all_named) - rights[query]) / (len(image_CD) - rights[query])
    return Audit(len(found), len(missed), judged, satisfied, by_chance)
