"""Embeddings → ranks → Rank@K, exact and over the full set, both directions from one matrix
product.

The similarity of a caption and an image is their dot product in float64, rounded to float32; ties
count against the model. Ranking 32,528 captions and as many images of 512 dimensions both ways
takes about ten seconds on two cores and a tile of 16 MB (`model.evaluation.counting`).

Shapes: Q queries (in `evaluate_retrieval` distinct captions), C candidates (distinct images), P
pairs of a query with a right candidate, D dimensions, K answers; R rows of a block.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.evaluation.counting import checked, count_ahead
from model.evaluation.similarity import exact_product, slices

RANK_AT = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value", bound=Hashable)


@dataclass(frozen=True)
class RelevantPairs:
    """Which distinct captions and distinct images of a split belong together.

    ``caption_row`` [Q] and ``image_row`` [C] hold the first pair row of each; ``query`` [P] and
    ``candidate`` [P] are the distinct edges (caption index, image index). All int64, on the CPU.
    """

    caption_row: Tensor
    image_row: Tensor
    query: Tensor
    candidate: Tensor

    def groups(self) -> tuple[Tensor, Tensor]:
        """Return the group of each caption, int64 [Q], and of each image [C].

        What any edge connects shares a group.
        """
        group_Q = torch.arange(len(self.caption_row))
        while True:
            group_C = torch.full((len(self.image_row),), len(group_Q))
            group_C.scatter_reduce_(0, self.candidate, group_Q[self.query], "amin")
            next_Q = group_Q.scatter_reduce(0, self.query, group_C[self.candidate], "amin")

            # Jump to the group of one's group, so that long chains end in few rounds.
            next_Q = next_Q[next_Q]
            if torch.equal(next_Q, group_Q):
                return group_Q, group_C
            group_Q = next_Q


@dataclass(frozen=True)
class Direction:
    """How well one side finds the other.

    ``rank_at`` and ``chance_at`` are shares 0 to 1 by K; ``chance_at`` is what a random order is
    expected to reach. ``ranks`` and ``group`` (which product a query belongs to, see
    `RelevantPairs.groups`), both int64 [Q], are there for the paired bootstrap, and ``tied`` [Q]
    says how many wrong candidates are exactly as similar as the right answer: ``ranks - tied`` are
    the ranks if ties went to the model. These three are not written to JSON.
    """

    queries: int
    candidates: int
    rank_at: dict[int, float]
    median_rank: float
    chance_at: dict[int, float]
    ranks: Ints = field(repr=False, compare=False)
    group: Ints = field(repr=False, compare=False)
    tied: Ints = field(repr=False, compare=False)

    @classmethod
    def of(
        cls, rank_Q: Ints, tied_Q: Ints, right_Q: Ints, candidates_Q: Ints, group_Q: Ints
    ) -> Self:
        """Summarise where each query's best right answer stands, int64 [Q], 1 is first.

        ``tied_Q`` counts its wrong equals, which are counted in the rank, ``right_Q`` and
        ``candidates_Q`` each query's right answers and its candidates.
        """
        return cls(
            queries=len(rank_Q),
            candidates=int(candidates_Q.max()),
            rank_at={k: float((rank_Q <= k).mean()) for k in RANK_AT},
            median_rank=float(np.median(rank_Q)),
            chance_at={k: chance(right_Q, candidates_Q, k) for k in RANK_AT},
            ranks=rank_Q,
            group=group_Q,
            tied=tied_Q,
        )

    @property
    def hits(self) -> Floats:
        """Share of K = 1, 5, 10 at which each query finds its right answer, float64 [Q].

        Their mean is the direction's part of the mean recall.
        """
        hits = np.mean([self.ranks <= k for k in RANK_AT], axis=0, dtype=np.float64)
        return cast("Floats", hits)

    def to_json(self) -> dict[str, float]:
        """Return the figures as a flat mapping, without the ranks."""
        return {
            "queries": self.queries,
            "candidates": self.candidates,
            **{f"rank_at_{k}": share for k, share in self.rank_at.items()},
            "median_rank": self.median_rank,
            **{f"chance_at_{k}": share for k, share in self.chance_at.items()},
        }


@dataclass(frozen=True)
class RetrievalResult:
    """Rank@K of one model on one split, both directions."""

    text_to_image: Direction
    image_to_text: Direction

    @property
    def mean_recall(self) -> float:
        """Mean of Rank@K over K = 1, 5, 10 and both directions, 0 to 1."""
        shares = [
            side.rank_at[k] for side in (self.text_to_image, self.image_to_text) for k in RANK_AT
        ]
        return sum(shares) / len(shares)

    def metrics(self) -> dict[str, float]:
        """Return flat metric names and values: ``mean_recall``, ``text_to_image_rank_at_1``, …"""
        return {"mean_recall": self.mean_recall} | {
            f"{name}_{key}": float(value)
            for name in DIRECTIONS
            for key, value in getattr(self, name).to_json().items()
            if key not in ("queries", "candidates")
        }

    def to_json(self) -> dict[str, Any]:
        """Return a plain mapping: ``{"mean_recall": …, "text_to_image": {"rank_at_1": …}, …}``."""
        sides = {name: getattr(self, name).to_json() for name in DIRECTIONS}
        return {"mean_recall": self.mean_recall, **sides}


def relate(caption_hashes: Sequence[Hashable], image_hashes: Sequence[Hashable]) -> RelevantPairs:
    """Find which captions and images are right answers to each other, by the hashes of each pair.

    Identical captions become one query and identical images one candidate; all images of a caption
    are right answers to it, and all captions of an image.

    Raises:
        ValueError: the two sequences differ in length.
    """
    captions, caption_row = _distinct(caption_hashes)
    images, image_row = _distinct(image_hashes)
    pairs = zip(caption_hashes, image_hashes, strict=True)
    edges = dict.fromkeys((captions[caption], images[image]) for caption, image in pairs)
    query, candidate = torch.tensor([*edges], dtype=torch.int64).reshape(-1, 2).unbind(1)
    return RelevantPairs(caption_row, image_row, query, candidate)


def evaluate_retrieval(
    text_QD: Tensor, image_CD: Tensor, related: RelevantPairs, block_rows: int
) -> RetrievalResult:
    """Measure Rank@K both ways, exactly, over the full set.

    ``text_QD`` and ``image_CD`` are the normalised embeddings of the captions at
    ``related.caption_row`` and of the images at ``related.image_row``, on a CPU or a GPU.

    Raises:
        ValueError: there is nothing to rank, the rows are not those of ``related``, or an embedding
        is NaN or infinite.
    """
    if (len(text_QD), len(image_CD)) != (len(related.caption_row), len(related.image_row)):
        raise ValueError(
            f"{len(text_QD)} text and {len(image_CD)} image embeddings for "
            f"{len(related.caption_row)} captions and {len(related.image_row)} images; "
            "embed the distinct ones, at caption_row and image_row of the split"
        )

    # Each direction's right answers are one column of the edges, its candidates the other side.
    ahead = count_ahead(text_QD, image_CD, related.query, related.candidate, block_rows)
    edges = related.query.numpy(), related.candidate.numpy()
    sides = []
    for counted, own, others, group in zip(
        ahead, edges, (image_CD, text_QD), related.groups(), strict=True
    ):
        sides.append(
            Direction.of(
                rank_Q=(counted[:, 0] + 1).numpy(),
                tied_Q=counted[:, 1].clone().numpy(),
                right_Q=np.bincount(own),
                candidates_Q=np.full(len(counted), len(others)),
                group_Q=group.numpy(),
            )
        )
    return RetrievalResult(*sides)


def ranks(
    query_QD: Tensor, candidate_CD: Tensor, query_P: Tensor, candidate_P: Tensor, block_rows: int
) -> Tensor:
    """Return the rank of each query's best-placed right answer, int64 [Q], 1 is first.

    A wrong candidate as similar as the right answer goes ahead of it; other right answers never
    count as ahead.

    Raises:
        ValueError: an embedding is NaN or infinite, shapes do not fit, or a query has no right
        answer.
    """
    ahead_Q2, _ = count_ahead(query_QD, candidate_CD, query_P, candidate_P, block_rows)
    return ahead_Q2[:, 0] + 1


def top_k(
    query_QD: Tensor,
    candidate_CD: Tensor,
    k: int,
    block_rows: int,
    right: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return similarity, float32 [Q, K], and index, int64 [Q, K], of the most similar candidates.

    The best comes first. Of equally similar candidates the lower index comes first; where ``right``
    names right answers (query and candidate, int64 [P] each), these stand behind wrong ones that
    are as similar. K is ``k``, or C where there are fewer candidates. Memory is block_rows × C × 20
    bytes.

    Raises:
        ValueError: an embedding is NaN or infinite, or shapes do not fit.
    """
    query_QD, candidate_CD = checked(query_QD, candidate_CD, block_rows)
    order_C = torch.arange(len(candidate_CD) - 1, -1, -1, device=candidate_CD.device)
    similarities, indices = [], []
    for rows in slices(len(query_QD), block_rows):
        # Adding 0.0 makes -0.0 the 0.0 that it equals.
        similarity_RC = exact_product(query_QD[rows], candidate_CD) + 0.0
        bits_RC = similarity_RC.view(torch.int32)

        # Similarity above, reversed index below: one integer a candidate, sorted as the floats are,
        # with no ties.
        ordered_RC = torch.where(bits_RC < 0, bits_RC ^ 0x7FFFFFFF, bits_RC).long()
        key_RC = (ordered_RC << 32) | (order_C + len(order_C))
        if right is not None:
            is_here_P = (right[0] >= rows.start) & (right[0] < rows.stop)
            key_RC[right[0][is_here_P] - rows.start, right[1][is_here_P]] -= len(order_C)

        index_RK = key_RC.topk(min(k, len(candidate_CD)), dim=1).indices
        similarities.append(similarity_RC.gather(1, index_RK))
        indices.append(index_RK)
    return torch.cat(similarities).cpu(), torch.cat(indices).cpu()


def chance(right_Q: Ints, candidates: Ints | int, k: int) -> float:
    """Return the expected Rank@K of a random order.

    It is 1 - C(candidates - right, k) / C(candidates, k), the mean over queries. ``right_Q`` is the
    number of right answers that each query has; ``candidates`` that of its candidates, or of all's.
    """
    candidates_Q1 = np.broadcast_to(candidates, right_Q.shape)[:, None]
    drawn = np.arange(k)
    # Where fewer candidates are left than are drawn, the right one is among them: no miss.
    missed = np.maximum(candidates_Q1 - right_Q[:, None] - drawn, 0)
    miss_QK = missed / np.maximum(candidates_Q1 - drawn, 1)
    return float(1 - miss_QK.prod(axis=1).mean())


def values_by_key(pairs: Iterable[tuple[_Key, _Value]]) -> defaultdict[_Key, set[_Value]]:
    """Collect the distinct values that stand beside each key; none beside an unknown one."""
    found = defaultdict[_Key, set[_Value]](set)
    for key, value in pairs:
        found[key].add(value)
    return found


def _distinct(hashes: Sequence[Hashable]) -> tuple[dict[Hashable, int], Tensor]:
    """Return the number of each distinct hash, in order of appearance, and their first rows."""
    first = {each: row for row, each in reversed(list(enumerate(hashes)))}
    numbers = {each: number for number, each in enumerate(dict.fromkeys(hashes))}
    return numbers, torch.tensor([first[each] for each in numbers], dtype=torch.int64)
