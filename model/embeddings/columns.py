"""Embeddings as Parquet has them: fixed-size lists of float32 beside names. Imports no service."""

from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from model.pairs.tsv import LineColumns

if TYPE_CHECKING:
    import torch

    from model.embeddings.embed import Products


def write_products(
    file: IO[bytes],
    products: "Iterable[Products]",
    columns: LineColumns,
    width: int,
    facts: Mapping[str, str],
    stem: str,
    ids: Sequence[str] | None = None,
) -> None:
    """Write a row a line: ``id``, ``line``, the facts that hold for all, and the embeddings.

    Without ids a line is named by the file's stem and its number. A TSV of captions or of images
    alone has only its own embedding column: Parquet readers stumble over fixed-size lists that are
    null.
    """
    kinds = ("text", "image") if columns == "pair" else (columns,)
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("line", pa.int64()),
            *((name, pa.string()) for name in facts),
            *((f"{kind}_embedding", pa.list_(pa.float32(), width)) for kind in kinds),
        ]
    )

    with pq.ParquetWriter(file, schema) as writer:
        for batch in products:
            values = {
                "id": [ids[line - 1] if ids else f"{stem}-{line}" for line in batch.lines],
                "line": batch.lines,
                "text_embedding": _fixed_lists(batch.texts),
                "image_embedding": _fixed_lists(batch.images),
            }
            values |= {name: [value] * len(batch.lines) for name, value in facts.items()}
            writer.write_table(pa.table([values[name] for name in schema.names], schema=schema))


def _fixed_lists(embeddings: "torch.Tensor | None") -> pa.Array | None:
    """Return embeddings [N, D] as an array of N lists of D floats, None for none."""
    if embeddings is None:
        return None
    return pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.numpy().ravel()), embeddings.shape[1]
    )
