"""CSV or Parquet beside image files: a shop's export, Kaggle's and Hugging Face's tables.

Format: a CSV with a header (comma, semicolon or tab, quotes as RFC 4180, UTF-8) or a Parquet file,
one row a pair. One column is the caption. One names the image: a path relative to the table's
folder or to the option ``images``, with or without its extension, or a URL whose file lies there
under the URL's path or file name (nothing is ever downloaded); in Parquet the image may also be the
bytes themselves, or Hugging Face's ``{bytes, path}``. All other columns go to the side table as
text, where ``NA`` stays ``NA``; binary ones do not.

Columns are chosen by name unless an option says otherwise, see ``ROLES``. An image outside its root
(``../``, a link that leads away) is refused and a missing one counted. Tables are read in batches:
60 MB, 4,500 rows/s from a warm disk.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from pydantic import Field

from model.errors import DataError, nearest
from model.importers.image_files import find_image
from model.importers.records import (
    ImportedPair,
    ImportOptions,
    LeftOut,
    LeftOutReason,
    SourceRow,
    SplitSource,
)
from model.importers.sources import by_split, find_files, reading_source

ROLES: Mapping[str, tuple[str, ...]] = {
    "caption": (
        "caption", "title", "text", "description",
        "productdisplayname", "productname", "producttitle", "name",
    ),
    "image": (
        "image", "imagepath", "img", "path", "filename", "file",
        "imagefile", "imageurl", "imgurl", "url", "link",
    ),
    "id": ("id", "productid", "itemid", "sku", "articleid", "asin", "uid"),
    "title": ("title", "productdisplayname", "productname", "producttitle", "name"),
    "category": ("category", "mastercategory", "maincategory"),
    "subcategory": ("subcategory",),
}  # fmt: skip
SIDE_ROLES = ("title", "category", "subcategory")
CSV_ADVICE = "save it as CSV with a header in UTF-8"
CSV_BLOCK_BYTES = 16 << 20


class Options(ImportOptions):
    """Options of CSV and Parquet tables."""

    images: Path | None = Field(
        None, description="Folder of the image files; by default the table's own."
    )
    caption: str | None = Field(None, description="Column that is the caption.")
    image: str | None = Field(
        None, description="Column that names the image file, holds its URL or its bytes."
    )
    id: str | None = Field(
        None, description="Column that is the product's id; without one, the image's name is."
    )
    title: str | None = Field(None, description="Column that becomes title in the side table.")
    category: str | None = Field(
        None, description="Column that becomes category in the side table."
    )
    subcategory: str | None = Field(
        None, description="Column that becomes subcategory in the side table."
    )


def find_splits(sources: Sequence[Path], options: Options) -> list[SplitSource]:
    """Return the splits by the tables' names or their folders' names, else train.

    Raises:
        DataError: a table or the folder of images is missing, or a table has no fitting columns.
    """
    if options.images is not None and not options.images.is_dir():
        raise DataError(f"{options.images}: no such folder of images; correct the option images")

    # The columns of all tables are checked before the first is read.
    tables = find_files(sources, (".csv", ".tsv", ".parquet"))
    for path in tables:
        _choose_columns(path, _column_names(path), options)
    return [
        SplitSource(split, group, partial(_read, group, options), _count_rows(group))
        for split, group in by_split(tables, options.split).items()
    ]


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def _column_names(path: Path) -> list[str]:
    if _is_parquet(path):
        with reading_source(path, pa.ArrowException, advice="fetch it again"):
            return list(pq.read_schema(path).names)

    with (
        reading_source(path, pa.ArrowException, advice=CSV_ADVICE),
        _open_csv(path, lambda row: "skip") as reader,
    ):
        return list(reader.schema.names)


def _count_rows(tables: Sequence[Path]) -> int | None:
    """Return the rows where all tables are Parquet.

    A CSV must be read for it, since a quoted field may hold line breaks.
    """
    are_parquet = all(map(_is_parquet, tables))
    return sum(int(pq.read_metadata(path).num_rows) for path in tables) if are_parquet else None


def _choose_columns(path: Path, names: Sequence[str], options: Options) -> dict[str, str]:
    """Return the column of each role that has one."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are named {twice}; rename one")

    # Of columns whose plain names are equal the first one counts.
    by_plain_name = {re.sub(r"[\W_]", "", name.lower()): name for name in reversed(names)}
    chosen: dict[str, str] = {}
    for role, candidates in ROLES.items():
        named = getattr(options, role)
        if named is not None and named not in names:
            raise DataError(
                f"{path}: no column {named}{nearest(named, names)} (found: {', '.join(names)})"
            )

        known = (by_plain_name[plain] for plain in candidates if plain in by_plain_name)
        found = named or next(known, None)
        if found is not None:
            chosen[role] = found
        elif role in ("caption", "image"):
            raise DataError(
                f"{path}: no column for the {role} among {', '.join(names)}; "
                f"name it by the option {role}"
            )
    return chosen


def _read(tables: Sequence[Path], options: Options) -> Iterator[SourceRow]:
    for path in tables:
        columns = _choose_columns(path, _column_names(path), options)
        root = (options.images or path.parent).resolve()
        rows = _read_parquet(path) if _is_parquet(path) else _read_csv(path)
        for number, row in enumerate(rows, 1):
            name = f"{path.name} row {number}"
            yield row if isinstance(row, LeftOut) else _row(row, columns, root, name)


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    with reading_source(path, pa.ArrowException), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _read_csv(path: Path) -> Iterator[dict[str, Any] | LeftOut]:
    """Yield the rows in their order, those with a wrong number of fields as left out."""
    refused: dict[int, LeftOut] = {}

    def refuse(row: csv.InvalidRow) -> str:
        name = (
            f"{path.name} row {row.number - 1}, {row.actual_columns} fields "
            f"for {row.expected_columns} columns: {row.text}"
        )
        refused[row.number] = LeftOut(LeftOutReason.BAD_ROW, name)
        return "skip"

    number = 2  # pyarrow counts the header as row 1
    with (
        reading_source(path, pa.ArrowException, advice=CSV_ADVICE),
        _open_csv(path, refuse) as reader,
    ):
        for batch in reader:
            for row in batch.to_pylist():
                # A refused row is not in the batch; it stood where the numbers have a gap.
                while number in refused:
                    yield refused.pop(number)
                    number += 1
                yield row
                number += 1
    yield from refused.values()


def _open_csv(path: Path, on_bad_row: Callable[[csv.InvalidRow], str]) -> csv.CSVStreamingReader:
    with path.open("rb") as file:
        header = file.readline(CSV_BLOCK_BYTES).decode("utf-8", "replace")
    parsing = csv.ParseOptions(
        delimiter=max(",;\t", key=header.count),
        newlines_in_values=True,
        invalid_row_handler=on_bad_row,
    )

    # Every column is text, so that an empty field stays empty and NA stays NA.
    as_text = csv.ConvertOptions(default_column_type=pa.string(), strings_can_be_null=False)
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
        parse_options=parsing,
        convert_options=as_text,
    )


def _row(row: dict[str, Any], columns: Mapping[str, str], root: Path, name: str) -> SourceRow:
    # The cell holds the image, or names its file, or is Hugging Face's struct of both.
    cell = row[columns["image"]]
    embedded = cell.get("bytes") if isinstance(cell, dict) else cell
    path = cell.get("path") if isinstance(cell, dict) else cell
    label = _text(path) if isinstance(path, str | int) else ""

    image = embedded if isinstance(embedded, bytes) else find_image(root, label)
    if isinstance(image, LeftOutReason):
        return LeftOut(image, label or name)
    product = _text(row[columns["id"]]) if "id" in columns else label

    # A column that has the name of another's role gets ``source_`` before its own.
    side = {role: _text(row[columns[role]]) for role in SIDE_ROLES if role in columns}
    used, taken = set(columns.values()), {"id", *side}
    side |= {
        f"source_{column}" if column in taken else column: _text(value)
        for column, value in row.items()
        if column not in used and not isinstance(value, bytes)
    }
    return ImportedPair(product or name, _text(row[columns["caption"]]), image, side)


def _text(value: Any) -> str:
    """Return a cell as text; lists and structs as JSON."""
    if value is None or isinstance(value, bytes):
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=_text)
    return str(value)
