"""Embeddings → ranks → Rank@K, exact and over the full set, both directions from one matrix
product.

The similarity of a caption and an image is their dot product in float64, rounded to float32. A
float32 product of one tile at a time decides all but the candidates within its rounding error of
the right answer, and those are computed again, so neither block size nor order nor BLAS nor device
changes a rank. Memory: a tile of block_rows × 4,096 floats, never a matrix of all queries by all
candidates. Time: 1.2 to 1.35 times the bare float32 product, for both directions (32,528 × 32,528 ×
512 on one core); a collapsed model, whose similarities are nearly all the same, takes 8 times.

Shapes: Q queries (in `evaluate_retrieval` distinct captions), C candidates (distinct images), P
pairs of a query with a right candidate, D dimensions, K answers; R rows and W columns of a tile.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.evaluation.similarity import exact_product, exact_similarity, float32_product, slices

RANK_AT = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")
TILE_COLUMNS = 4096  # with 1,024 rows a tile is 16 MB and stays in the cache while it is counted
COUNTED_ROWS = 64  # of a tile, on a CPU: 1 MB
DENSE_SHARE = (
    1 / 64
)  # more undecided pairs than this in a tile, and its whole float64 product is the faster way


Counts = npt.NDArray[np.int64]


class Found(NamedTuple):
    """Where each query's best right answer stands, int64 [Q] each: its rank, 1 is first, and its
    wrong equals.

    The equals are counted in the rank, so ``rank - tied`` is the rank if they stood behind.
    """

    rank: Counts
    tied: Counts


class _Bounds(NamedTuple):
    """How many columns are possibly and how many certainly ahead of each row's right answer, int64 [R] each."""

    possible: Tensor
    certain: Tensor


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
        """Return the group of each caption, int64 [Q], and of each image [C]; what any edge connects shares a group."""
        group_Q = torch.arange(len(self.caption_row))
        while True:
            group_C = torch.full((len(self.image_row),), len(group_Q)).scatter_reduce_(
                0, self.candidate, group_Q[self.query], "amin"
            )
            next_Q = group_Q.scatter_reduce(0, self.query, group_C[self.candidate], "amin")
            next_Q = next_Q[
                next_Q
            ]  # jump to the group of one's group, so that long chains end in few rounds
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
    the ranks if ties went to the model. They are not written to JSON and are empty after
    `from_json`.
    """

    queries: int
    candidates: int
    rank_at: dict[int, float]
    median_rank: float
    chance_at: dict[int, float]
    ranks: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64), repr=False, compare=False
    )
    group: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64), repr=False, compare=False
    )
    tied: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64), repr=False, compare=False
    )

    @classmethod
    def of(cls, found: "Found", right_Q: Counts, candidates_Q: Counts, group_Q: Counts) -> Self:
        """Summarise ranks, given how many right answers and how many candidates each query has, int64 [Q] each."""
        return cls(
            queries=len(found.rank),
            candidates=int(candidates_Q.max()),
            rank_at={k: float((found.rank <= k).mean()) for k in RANK_AT},
            median_rank=float(np.median(found.rank)),
            chance_at={k: chance(right_Q, candidates_Q, k) for k in RANK_AT},
            ranks=found.rank,
            group=group_Q,
            tied=found.tied,
        )

    def to_json(self) -> dict[str, float]:
        """Return the figures as a flat mapping, without the ranks."""
        return {
            "queries": self.queries,
            "candidates": self.candidates,
            **{f"rank_at_{k}": share for k, share in self.rank_at.items()},
            "median_rank": self.median_rank,
            **{f"chance_at_{k}": share for k, share in self.chance_at.items()},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            queries=int(values["queries"]),
            candidates=int(values["candidates"]),
            rank_at={k: float(values[f"rank_at_{k}"]) for k in RANK_AT},
            median_rank=float(values["median_rank"]),
            chance_at={k: float(values[f"chance_at_{k}"]) for k in RANK_AT},
        )


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
        """Return a plain mapping, ``{"mean_recall": …, "text_to_image": {"rank_at_1": …}, …}``, without the ranks."""
        sides = {name: getattr(self, name).to_json() for name in DIRECTIONS}
        return {"mean_recall": self.mean_recall, **sides}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` wrote; the ranks are empty."""
        return cls(**{name: Direction.from_json(values[name]) for name in DIRECTIONS})


def relate(caption_hashes: Sequence[Hashable], image_hashes: Sequence[Hashable]) -> RelevantPairs:
    """Say which captions and images are right answers to each other, given one hash of each a pair.

    Identical captions become one query and identical images one candidate; all images of a caption
    are right answers to it, and all captions of an image.

    Raises:
        ValueError: the two sequences differ in length.
    """
    captions: dict[Hashable, int] = {}
    images: dict[Hashable, int] = {}
    caption_row, image_row = [], []
    edges: dict[tuple[int, int], None] = {}
    for row, (caption, image) in enumerate(zip(caption_hashes, image_hashes, strict=True)):
        if caption not in captions:
            captions[caption] = len(captions)
            caption_row.append(row)
        if image not in images:
            images[image] = len(images)
            image_row.append(row)
        edges[captions[caption], images[image]] = None
    query, candidate = torch.tensor(list(edges), dtype=torch.int64).reshape(-1, 2).unbind(1)
    return RelevantPairs(
        torch.tensor(caption_row, dtype=torch.int64),
        torch.tensor(image_row, dtype=torch.int64),
        query,
        candidate,
    )


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
            f"{len(text_QD)} text and {len(image_CD)} image embeddings for {len(related.caption_row)} captions and "
            f"{len(related.image_row)} images; embed the distinct ones, at caption_row and image_row of the split"
        )
    text, image = _ranks_both_ways(text_QD, image_CD, related.query, related.candidate, block_rows)
    query, candidate = related.query.numpy(), related.candidate.numpy()
    text_group, image_group = (group.numpy() for group in related.groups())
    texts, images = np.full(len(text_QD), len(image_CD)), np.full(len(image_CD), len(text_QD))
    return RetrievalResult(
        text_to_image=Direction.of(text, np.bincount(query), texts, text_group),
        image_to_text=Direction.of(image, np.bincount(candidate), images, image_group),
    )


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
    found, _ = _ranks_both_ways(query_QD, candidate_CD, query_P, candidate_P, block_rows)
    return torch.from_numpy(found.rank)


def top_k(
    query_QD: Tensor,
    candidate_CD: Tensor,
    k: int,
    block_rows: int,
    right: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return similarity, float32 [Q, K], and index, int64 [Q, K], of the k most similar candidates,
    best first.

    Of equally similar candidates the lower index comes first; where ``right`` names right answers
    (query and candidate, int64 [P] each), these stand behind wrong ones that are as similar. K is
    ``k``, or C where there are fewer candidates. Memory is block_rows × C × 20 bytes.

    Raises:
        ValueError: an embedding is NaN or infinite, or shapes do not fit.
    """
    query_QD, candidate_CD = _checked(query_QD, candidate_CD, block_rows)
    order_C = torch.arange(len(candidate_CD) - 1, -1, -1, device=candidate_CD.device)
    similarities, indices = [], []
    for rows in slices(len(query_QD), block_rows):
        similarity_RC = (
            exact_product(query_QD[rows], candidate_CD) + 0.0
        )  # makes -0.0 the 0.0 that it equals
        bits_RC = similarity_RC.view(torch.int32)
        # Similarity above, reversed index below: one integer a candidate, sorted as the floats are,
        # with no ties.
        key_RC = (torch.where(bits_RC < 0, bits_RC ^ 0x7FFFFFFF, bits_RC).long() << 32) | (
            order_C + len(order_C)
        )
        if right is not None:
            is_here_P = (right[0] >= rows.start) & (right[0] < rows.stop)
            key_RC[right[0][is_here_P] - rows.start, right[1][is_here_P]] -= len(order_C)
        index_RK = key_RC.topk(min(k, len(candidate_CD)), dim=1).indices
        similarities.append(similarity_RC.gather(1, index_RK))
        indices.append(index_RK)
    return torch.cat(similarities).cpu(), torch.cat(indices).cpu()


def chance(right_Q: Counts, candidates: Counts | int, k: int) -> float:
    """Return the expected Rank@K of a random order, 1 - C(candidates - right, k) / C(candidates, k)
    over queries.

    ``right_Q`` is the number of right answers that each query has; ``candidates`` that of its
    candidates, or of all's.
    """
    candidates_Q1 = np.broadcast_to(candidates, right_Q.shape)[:, None]
    drawn = np.arange(k)
    # Where fewer candidates are left than are drawn, the right one is among them: no miss.
    miss_QK = np.maximum(candidates_Q1 - right_Q[:, None] - drawn, 0) / np.maximum(
        candidates_Q1 - drawn, 1
    )
    return float(1 - miss_QK.prod(axis=1).mean())


def _ranks_both_ways(
    query_QD: Tensor, candidate_CD: Tensor, query_P: Tensor, candidate_P: Tensor, block_rows: int
) -> tuple[Found, Found]:
    """Return where each query's right answer stands [Q] and each candidate's [C]; first where the latter has none."""
    query_QD, candidate_CD = _checked(query_QD, candidate_CD, block_rows)
    query_P, candidate_P = query_P.to(query_QD.device), candidate_P.to(query_QD.device)
    right_P = exact_similarity(query_QD, candidate_CD, query_P, candidate_P)
    best_Q, best_C = (
        _best(right_P, query_P, len(query_QD)),
        _best(right_P, candidate_P, len(candidate_CD)),
    )
    if bool(best_Q.isinf().any()):
        raise ValueError(
            f"query {int(best_Q.isinf().nonzero()[0])} has no right answer; rank queries that have one"
        )
    # A float32 sum of D products errs by at most D half-units of the largest possible value; two
    # more round the rest.
    margin = float(
        (query_QD.shape[1] + 2)
        * 2.0**-24
        * query_QD.norm(dim=1).max()
        * candidate_CD.norm(dim=1).max()
    )
    ahead_Q2, ahead_C2 = (
        best.new_zeros(len(best), 2, dtype=torch.int64) for best in (best_Q, best_C)
    )
    memory = query_QD.new_empty(min(block_rows, len(query_QD)) * TILE_COLUMNS)
    for row_block, rows in enumerate(slices(len(query_QD), block_rows)):
        for column_block, columns in enumerate(slices(len(candidate_CD), TILE_COLUMNS)):
            query_RD, candidate_WD = query_QD[rows], candidate_CD[columns]
            tile_RW = memory[: len(query_RD) * len(candidate_WD)].view(
                len(query_RD), len(candidate_WD)
            )
            float32_product(query_RD, candidate_WD, tile_RW)
            is_here_P = (query_P // block_rows == row_block) & (
                candidate_P // TILE_COLUMNS == column_block
            )
            tile_RW[
                query_P[is_here_P] - rows.start, candidate_P[is_here_P] - columns.start
            ] = -torch.inf
            best_R, best_W = best_Q[rows], best_C[columns]
            bounds_R, bounds_W = _bounds(tile_RW, best_R, best_W, margin)
            ahead_Q2[rows] += _decide(tile_RW, bounds_R, best_R, margin, query_RD, candidate_WD)
            ahead_C2[columns] += _decide(
                tile_RW.T, bounds_W, best_W, margin, candidate_WD, query_RD
            )
    return _found(ahead_Q2), _found(ahead_C2)


def _found(ahead_Q2: Tensor) -> Found:
    ahead_Q, tied_Q = ahead_Q2.cpu().unbind(1)
    return Found((ahead_Q + 1).numpy(), tied_Q.clone().numpy())


def _bounds(
    tile_RW: Tensor, best_R: Tensor, best_W: Tensor, margin: float
) -> tuple[_Bounds, _Bounds]:
    """Count, for each row and for each column, what is possibly and what is certainly ahead of its
    right answer.

    The tile is right within ``margin``. A CPU counts a few rows at a time, so that what it compares
    into stays in the cache: half the time of comparing the tile whole.
    """
    at_once = COUNTED_ROWS if tile_RW.device.type == "cpu" else len(tile_RW)
    scratch_RW = tile_RW.new_empty(min(at_once, len(tile_RW)), tile_RW.shape[1])
    of_rows, of_columns = _empty_bounds(best_R), _empty_bounds(best_W)
    tests = (
        (torch.ge, best_R - margin, best_W - margin),
        (torch.gt, best_R + margin, best_W + margin),
    )
    for rows in slices(len(tile_RW), at_once):
        some_RW = tile_RW[rows]
        out_RW = scratch_RW[: len(some_RW)]
        for kind, (test, limit_R, limit_W) in enumerate(tests):
            # Comparing into floats and summing those is 5 to 30 times as fast as into booleans;
            # below 2^24 exact.
            of_rows[kind][rows] = test(some_RW, limit_R[rows, None], out=out_RW).sum(1).long()
            of_columns[kind].add_(test(some_RW, limit_W, out=out_RW).sum(0).long())
    return of_rows, of_columns


def _empty_bounds(best_R: Tensor) -> _Bounds:
    return _Bounds(*(torch.zeros_like(best_R, dtype=torch.int64) for _ in range(2)))


def _decide(
    tile_RW: Tensor,
    bounds_R: _Bounds,
    best_R: Tensor,
    margin: float,
    row_RD: Tensor,
    column_WD: Tensor,
) -> Tensor:
    """Count the columns at least as similar to each row as its right answer, and those of them that
    are as similar.

    Returns int64 [R, 2]; -inf marks right answers. Within ``margin`` the exact similarity decides.
    """
    possible_R, certain_R = bounds_R
    counts_R2 = torch.stack([certain_R, torch.zeros_like(certain_R)], dim=1)
    undecided = int((possible_R - certain_R).sum())
    if undecided == 0:
        return counts_R2
    if undecided > DENSE_SHARE * tile_RW.numel():
        exact_RW, is_wrong_RW = exact_product(row_RD, column_WD), tile_RW > -torch.inf
        ahead_R, tied_R = (
            (test(exact_RW, best_R[:, None]) & is_wrong_RW).sum(1) for test in (torch.ge, torch.eq)
        )
        return torch.stack([ahead_R, tied_R], dim=1)
    open_R = (possible_R > certain_R).nonzero()[:, 0]
    some_RW, best_R1 = tile_RW[open_R], best_R[open_R, None]
    at, column = ((some_RW >= best_R1 - margin) & (some_RW <= best_R1 + margin)).nonzero().unbind(1)
    row = open_R[at]
    exact, best = exact_similarity(row_RD, column_WD, row, column), best_R[row]
    return counts_R2.index_add(0, row, torch.stack([exact >= best, exact == best], dim=1).long())


def _best(similarity_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Return the greatest similarity of each row's pairs [rows]; +inf, which nothing is ahead of, where it has none."""
    worst = similarity_P.new_full((rows,), -torch.inf)
    best = worst.scatter_reduce(0, row_P, similarity_P, "amax")
    return torch.where(best.isinf(), torch.inf, best)


def _checked(query_QD: Tensor, candidate_CD: Tensor, block_rows: int) -> tuple[Tensor, Tensor]:
    """Return both as float32 on a device that has float64."""
    if query_QD.ndim != 2 or candidate_CD.ndim != 2 or query_QD.shape[1] != candidate_CD.shape[1]:
        raise ValueError(
            f"embeddings of shapes {list(query_QD.shape)} and {list(candidate_CD.shape)} do not fit"
        )
    if block_rows < 1 or not len(query_QD) or not len(candidate_CD):
        raise ValueError(
            f"{len(query_QD)} queries, {len(candidate_CD)} candidates, block_rows {block_rows}: need one each"
        )
    for side, embedding in (("query", query_QD), ("candidate", candidate_CD)):
        is_bad = ~embedding.isfinite().all(dim=1)
        if bool(is_bad.any()):
            rows = is_bad.nonzero()[:, 0]
            raise ValueError(
                f"{len(rows)} {side} embeddings are NaN or infinite, the first in row {int(rows[0])}"
            )
    device = "cpu" if query_QD.device.type == "mps" else query_QD.device  # MPS has no float64
    return query_QD.detach().to(device, torch.float32), candidate_CD.detach().to(
        device, torch.float32
    )
