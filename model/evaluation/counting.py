"""How many wrong candidates stand ahead of each right answer, counted exactly and tile by tile.

A float32 product of one tile at a time decides all but the candidates within its rounding error of
the right answer, and those are computed again in float64, so neither block size nor order nor BLAS
nor device changes a count. Memory: a tile of block_rows × 4,096 floats, never a matrix of all
queries by all candidates. Time: 1.2 to 1.35 times the bare float32 product, for both directions
(32,528 × 32,528 × 512 on one core); a collapsed model, whose similarities are nearly all the same,
takes 8 times.

Shapes: Q queries, C candidates, P pairs of a query with a right candidate, D dimensions; R rows and
W columns of a tile.
"""

import torch
from torch import Tensor

from model.evaluation.similarity import exact_product, exact_similarity, float32_product, slices

TILE_COLUMNS = 4096  # with 1,024 rows a tile is 16 MB and stays in the cache while it is counted
COUNTED_ROWS = 64  # of a tile, on a CPU: 1 MB (DECISIONS 30)
# With more undecided pairs than this in a tile, its whole float64 product is the faster way.
DENSE_SHARE = 1 / 64


def count_ahead(
    query_QD: Tensor, candidate_CD: Tensor, query_P: Tensor, candidate_P: Tensor, block_rows: int
) -> tuple[Tensor, Tensor]:
    """Count the wrong answers at least as similar as the best right one, and those that are equal.

    Returns int64 [Q, 2] for the queries and [C, 2] for the candidates, on the CPU: ahead, and of
    those tied. A candidate without any right query has none ahead.

    Raises:
        ValueError: an embedding is NaN or infinite, shapes do not fit, or a query has no right
        answer.
    """
    query_QD, candidate_CD = checked(query_QD, candidate_CD, block_rows)
    query_P, candidate_P = query_P.to(query_QD.device), candidate_P.to(query_QD.device)

    right_P = exact_similarity(query_QD, candidate_CD, query_P, candidate_P)
    best_Q = _best(right_P, query_P, len(query_QD))
    best_C = _best(right_P, candidate_P, len(candidate_CD))
    if bool(best_Q.isinf().any()):
        raise ValueError(
            f"query {int(best_Q.isinf().nonzero()[0])} has no right answer; "
            "rank queries that have one"
        )

    # A float32 sum of D products errs by at most D half-units of the largest possible value; two
    # more round the rest.
    half_units = (query_QD.shape[1] + 2) * 2.0**-24
    margin = float(half_units * query_QD.norm(dim=1).max() * candidate_CD.norm(dim=1).max())

    ahead_Q2 = best_Q.new_zeros(len(best_Q), 2, dtype=torch.int64)
    ahead_C2 = best_C.new_zeros(len(best_C), 2, dtype=torch.int64)
    memory = query_QD.new_empty(min(block_rows, len(query_QD)) * TILE_COLUMNS)
    for row_block, rows in enumerate(slices(len(query_QD), block_rows)):
        for column_block, columns in enumerate(slices(len(candidate_CD), TILE_COLUMNS)):
            query_RD, candidate_WD = query_QD[rows], candidate_CD[columns]
            shape = len(query_RD), len(candidate_WD)
            tile_RW = memory[: shape[0] * shape[1]].view(shape)
            float32_product(query_RD, candidate_WD, tile_RW)

            # Right answers never stand ahead of each other.
            is_here_P = query_P // block_rows == row_block
            is_here_P &= candidate_P // TILE_COLUMNS == column_block
            right_R = query_P[is_here_P] - rows.start
            right_W = candidate_P[is_here_P] - columns.start
            tile_RW[right_R, right_W] = -torch.inf

            best_R, best_W = best_Q[rows], best_C[columns]
            bounds_2R, bounds_2W = _bounds(tile_RW, best_R, best_W, margin)
            ahead_Q2[rows] += _decide(tile_RW, bounds_2R, best_R, margin, query_RD, candidate_WD)
            ahead_C2[columns] += _decide(
                tile_RW.T, bounds_2W, best_W, margin, candidate_WD, query_RD
            )
    return ahead_Q2.cpu(), ahead_C2.cpu()


def checked(query_QD: Tensor, candidate_CD: Tensor, block_rows: int) -> tuple[Tensor, Tensor]:
    """Return both as float32 on a device that has float64.

    Raises:
        ValueError: an embedding is NaN or infinite, or shapes do not fit.
    """
    if query_QD.ndim != 2 or candidate_CD.ndim != 2 or query_QD.shape[1] != candidate_CD.shape[1]:
        raise ValueError(
            f"embeddings of shapes {list(query_QD.shape)} and {list(candidate_CD.shape)} do not fit"
        )
    if block_rows < 1 or not len(query_QD) or not len(candidate_CD):
        raise ValueError(
            f"{len(query_QD)} queries, {len(candidate_CD)} candidates, block_rows {block_rows}: "
            "need one each"
        )

    for side, embedding in (("query", query_QD), ("candidate", candidate_CD)):
        bad = (~embedding.isfinite().all(dim=1)).nonzero()[:, 0]
        if len(bad):
            raise ValueError(
                f"{len(bad)} {side} embeddings are NaN or infinite, the first in row {int(bad[0])}"
            )

    device = "cpu" if query_QD.device.type == "mps" else query_QD.device  # MPS has no float64
    return (
        query_QD.detach().to(device, torch.float32),
        candidate_CD.detach().to(device, torch.float32),
    )


def _best(similarity_P: Tensor, row_P: Tensor, rows: int) -> Tensor:
    """Return the greatest similarity of each row's pairs [rows], +inf where it has none.

    Nothing is ahead of +inf.
    """
    best = similarity_P.new_full((rows,), -torch.inf)
    best.scatter_reduce_(0, row_P, similarity_P, "amax")
    return torch.where(best.isinf(), torch.inf, best)


def _bounds(
    tile_RW: Tensor, best_R: Tensor, best_W: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """Count what is possibly and what is certainly ahead of each row's and column's right answer.

    Returns int64 [2, R] of the rows, possibly first, and [2, W] of the columns. The tile is right
    within ``margin``. A CPU counts a few rows at a time, so that what it compares into stays in the
    cache: half the time of comparing the tile whole (DECISIONS 30).
    """
    at_once = COUNTED_ROWS if tile_RW.device.type == "cpu" else len(tile_RW)
    scratch_RW = tile_RW.new_empty(min(at_once, len(tile_RW)), tile_RW.shape[1])
    of_rows, of_columns = (
        best.new_zeros(2, len(best), dtype=torch.int64) for best in (best_R, best_W)
    )
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
            of_rows[kind, rows] = test(some_RW, limit_R[rows, None], out=out_RW).sum(1).long()
            of_columns[kind].add_(test(some_RW, limit_W, out=out_RW).sum(0).long())
    return of_rows, of_columns


def _decide(
    tile_RW: Tensor,
    bounds_2R: Tensor,
    best_R: Tensor,
    margin: float,
    row_RD: Tensor,
    column_WD: Tensor,
) -> Tensor:
    """Count the columns at least as similar to each row as its right answer, and its equals.

    Returns int64 [R, 2]; -inf marks right answers. Within ``margin`` the exact similarity decides.
    """
    possible_R, certain_R = bounds_2R
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

    # Few pairs are open: those alone are computed exactly.
    open_R = (possible_R > certain_R).nonzero()[:, 0]
    some_RW, best_R1 = tile_RW[open_R], best_R[open_R, None]
    at, column = ((some_RW >= best_R1 - margin) & (some_RW <= best_R1 + margin)).nonzero().unbind(1)
    row = open_R[at]
    exact, best = exact_similarity(row_RD, column_WD, row, column), best_R[row]
    return counts_R2.index_add(0, row, torch.stack([exact >= best, exact == best], dim=1).long())
