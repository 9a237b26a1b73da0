"""Embeddings of one file's captions or images, as Parquet or in EasyNLP's form, by any model that
is here.

EasyNLP's predictor writes one row a line, in the order of the lines and without a head: the floats
of an embedding, each as numpy writes a float32, between tabs. Such a row has no name, so a line
that cannot be embedded stops the prediction and nothing is written; Parquet has line numbers and
passes over it.

Source: EasyNLP's easynlp/appzoo/clip/predictor.py (postprocess) and easynlp/core/predictor.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from model.config.sections import DataConfig
from model.embeddings.columns import fixed_lists
from model.errors import DataError
from model.pairs.tsv import LineColumns, count_lines, detect_columns
from model.storage.files import atomic_write
from tasks.registry.zoo import folder_of
from tasks.runtime.progress import progress

if TYPE_CHECKING:
    from model.embeddings.embed import Products
    from model.towers.towers import Towers

Form = Literal["parquet", "easynlp"]
Truncation = Literal["open_clip", "easynlp"]


@dataclass(frozen=True)
class Predicted:
    """What was embedded: lines = rows + faulty; the columns that the file has."""

    columns: LineColumns
    lines: int
    rows: int
    width: int

    @property
    def faulty(self) -> int:
        """Return how many lines could not be embedded."""
        return self.lines - self.rows


def predict(
    tsv: Path, model: str, out: Path, form: Form = "parquet", device: str = "auto", precision: str = "fp32",
    batch_size: int = 256, workers: int = 1, truncate: Truncation = "open_clip", context_length: int | None = None,
) -> Predicted:  # fmt: skip
    """Write the embeddings of a TSV of captions, of images or of pairs, by a registered version or
    an imported model.

    ``truncate`` says how captions of too many tokens are cut: EasyNLP leaves out the end of text.
    ``context_length`` is how many tokens of a caption a BERT text tower reads, by default as many
    as it was trained on.

    Raises:
        ConfigError: the model is unknown, reads another number of tokens, or no captions that
            EasyNLP's truncation is for.
        DataError: the TSV has no line that can be embedded; in EasyNLP's form, it holds pairs or a
        faulty line.
        CheckpointError: the model is damaged, or ``out`` cannot be written.
    """
    from model.embeddings.embed import embed_products
    from model.towers.create import lengthen_towers
    from model.towers.folder import load_towers
    from model.zoo.forms.easynlp_english import truncating_as_theirs

    columns, lines = detect_columns(tsv), count_lines(tsv)
    if form == "easynlp" and columns == "pair":
        raise DataError(
            f"{tsv}: has captions and images, but a row of EasyNLP's form is one embedding; keep one column"
        )
    towers = load_towers(folder_of(model), device, precision)
    if truncate == "easynlp":
        towers = truncating_as_theirs(towers)
    if context_length is not None:
        towers = lengthen_towers(towers, context_length)
    with progress("predict", lines, "lines") as shown, atomic_write(out) as file:
        products = embed_products(
            towers, tsv, columns, DataConfig(), batch_size, workers, shown.advance
        )
        write = {"parquet": _write_parquet, "easynlp": _write_easynlp}[form]
        rows = write(file, products, _Source(tsv, model, columns, towers))
        if not rows:
            raise DataError(
                f"{tsv}: none of its {lines:,} lines can be embedded; validate the data to see why"
            )
        if form == "easynlp" and rows < lines:
            raise DataError(
                f"{tsv}: line {rows + 1} cannot be embedded, so rows would not be lines; mend or remove it"
            )
    return Predicted(columns, lines, rows, towers.embed_dim)


@dataclass(frozen=True)
class _Source:
    tsv: Path
    model: str
    columns: LineColumns
    towers: "Towers"


def _write_easynlp(file: IO[bytes], products: "Iterator[Products]", source: _Source) -> int:
    written = 0
    for batch in products:
        embeddings = batch.texts if batch.images is None else batch.images
        assert embeddings is not None
        for line, row in zip(batch.lines, embeddings.numpy(), strict=True):
            written += 1
            if line != written:
                raise DataError(
                    f"{source.tsv}: line {written} cannot be embedded, so rows would not be lines; mend or remove it"
                )
            file.write("\t".join(map(str, row)).encode() + b"\n")
    return written


def _write_parquet(file: IO[bytes], products: "Iterator[Products]", source: _Source) -> int:
    kinds = {"pair": ("text", "image"), "text": ("text",), "image": ("image",)}[source.columns]
    embedding = pa.list_(pa.float32(), source.towers.embed_dim)
    fields = [("id", pa.string()), ("line", pa.int64()), ("model", pa.string())]
    schema = pa.schema([*fields, *((f"{kind}_embedding", embedding) for kind in kinds)])
    written = 0
    with pq.ParquetWriter(file, schema) as writer:
        for batch in products:
            columns = {
                "id": [f"{source.tsv.stem}-{line}" for line in batch.lines],
                "line": batch.lines,
                "model": [source.model] * len(batch.lines),
                "text_embedding": fixed_lists(batch.texts),
                "image_embedding": fixed_lists(batch.images),
            }
            writer.write_table(pa.table([columns[name] for name in schema.names], schema=schema))
            written += len(batch.lines)
    return written
