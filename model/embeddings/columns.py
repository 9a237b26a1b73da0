"""Embeddings as Arrow has them: fixed-size lists of float32. Imports no service."""

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import torch


def fixed_lists(embeddings: "torch.Tensor | None") -> pa.Array | None:
    """Return embeddings [N, D] as an array of N lists of D floats, None for none."""
    if embeddings is None:
        return None
    return pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.numpy().ravel()), embeddings.shape[1]
    )
