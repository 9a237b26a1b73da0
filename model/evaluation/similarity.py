"""Similarities of embeddings: exact ones, which decide ranks, and fast ones, which find where an
exact one is worth computing.

Exact is the dot product in float64, rounded to float32; single pairs are computed 8,192 at a time.
Fast is a full float32 product, whatever autocast or TF32 setting a training left behind.

Shapes: R rows, W columns, P pairs of a row and a column, D dimensions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

RECOMPUTED_AT_ONCE = 8192  # pairs; 32 MB a side in float64 at 512 dimensions


def exact_similarity(row_RD: Tensor, column_WD: Tensor, row_P: Tensor, column_P: Tensor) -> Tensor:
    """Return the similarity of each pair, float32 [P]: the float64 dot product, rounded."""
    similarity_P = row_RD.new_empty(len(row_P))
    for some in slices(len(row_P), RECOMPUTED_AT_ONCE):
        similarity_P[some] = (row_RD[row_P[some]].double() * column_WD[column_P[some]]).sum(1)
    return similarity_P


def exact_product(row_RD: Tensor, column_WD: Tensor) -> Tensor:
    """Return all similarities, float32 [R, W]: float64 dot products, rounded."""
    return (row_RD.double() @ column_WD.double().T).float()


def float32_product(row_RD: Tensor, column_WD: Tensor, out_RW: Tensor) -> None:
    """Multiply in full float32, whatever autocast or TF32 setting a training left behind."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(row_RD.device.type, enabled=False):
            torch.mm(row_RD, column_WD.T, out=out_RW)
    finally:
        torch.set_float32_matmul_precision(before)


def slices(length: int, step: int) -> Iterator[slice]:
    """Cut a length into slices of a step, the last as short as it is."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
