"""CSV, Parquet or JSON lines beside image files: exports of shops, of Kaggle and of Hugging Face.

Format: a CSV with a header (comma, semicolon or tab, quotes as RFC 4180; `delimited`), a Parquet
file, or JSON lines as Hugging Face's ``metadata.jsonl``; one row a pair. One column is the caption.
One names the image: a path relative to the table's folder, to ``images/`` in it or to the option
``images``, with or without its ending, or a URL whose file lies there under the URL's path or file
name (nothing is ever downloaded). In Parquet the image may also be the bytes themselves, or Hugging
Face's ``{bytes, path}``. A cell may list several images: the first counts, or all of them as images
of one product. All other columns go to the side table as text, where ``NA`` stays ``NA``; binary
ones do not.

Columns are chosen by name unless an option says otherwise, see ``ROLES``. An image outside its root
(``../``, a link that leads away) is refused and a missing one counted. Tables are read row by row:
60 MB, 4,500 rows/s from a warm disk.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from model.errors import DataError, nearest
from model.importers.delimited import (
    Quotes,
    column_names,
    find_form,
    names_image,
    read_rows,
)
from model.importers.image_files import find_image
from model.importers.records import (
    MAX_LINE_BYTES,
    ImportedPair,
    ImportOptions,
    LeftOut,
    LeftOutReason,
    SourceRow,
    SplitSource,
)
from model.importers.sources import by_split, find_files, reading_source
from model.pairs.tsv import check_file, read_lines

ROLES: Mapping[str, tuple[str, ...]] = {
    "caption": (
        "caption", "title", "text", "description",
        "productdisplayname", "productname", "producttitle", "name",
    ),
    "image": (
        "image", "imagepath", "img", "path", "filename", "filepath", "file",
        "imagefile", "imageurl", "imgurl", "url", "link", "images", "imageurls",
    ),
    "id": ("id", "productid", "itemid", "sku", "articleid", "asin", "uid"),
    "title": ("title", "productdisplayname", "productname", "producttitle", "name"),
    "category": ("category", "mastercategory", "maincategory"),
    "subcategory": ("subcategory",),
}  # fmt: skip
SIDE_ROLES = ("title", "category", "subcategory")
IMAGES_FOLDER = "images"
JSON_LINES = ".jsonl"
# Of so many objects the columns of JSON lines are known.
HEAD_OBJECTS = 100
BRACKETED = re.compile(r"\s*\[(.*)\]\s*", re.DOTALL)
SIGNS = re.compile(r"[|;,]")


class Options(ImportOptions):
    """Options of CSV, Parquet and JSON lines."""

    images: Path | None = Field(
        None,
        description="Folder of the image files; by default the table's own and images/ in it.",
    )
    several: Literal["first", "all"] = Field(
        "first",
        description="Of a cell that lists several images, the first becomes a pair, or all do as "
        "images of one product.",
    )
    encoding: str | None = Field(
        None,
        description="Encoding of a CSV (cp1252, gb18030, …); by default UTF-8, or UTF-16 by its "
        "mark.",
    )
    quotes: Quotes | None = Field(
        None,
        description="Quotation marks of a CSV: checked stops where one may have swallowed rows, "
        "literal takes them as text (usual where tabs separate columns), trusted does not check.",
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

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                "".encode(name)
            except LookupError:
                raise ValueError("no encoding that Python knows") from None
        return name


def find_splits(sources: Sequence[Path], options: Options) -> list[SplitSource]:
    """Return the splits by the tables' names or their folders' names, else train.

    Raises:
        DataError: a table or the folder of images is missing, or a table has no fitting columns.
    """
    if options.images is not None and not options.images.is_dir():
        raise DataError(f"{options.images}: no such folder of images; correct the option images")

    # The columns of all tables are checked before the first is read.
    tables = find_files(sources, (".csv", ".tsv", ".parquet", f"metadata{JSON_LINES}"))
    for path in tables:
        _choose_columns(path, _column_names(path, options), options)

    where = options.images or f"{tables[0].parent} and its folder {IMAGES_FOLDER}"
    advice = {
        LeftOutReason.MISSING_IMAGE: f"looked in {where}; the option images names another folder",
        LeftOutReason.OUTSIDE_IMAGES: f"absolute, or leads out of {where}; the option images names "
        "the folder that all images lie in",
        LeftOutReason.BAD_UTF8: "the option encoding names another encoding, such as cp1252",
    }
    return [
        SplitSource(split, group, partial(_read, group, options), _count_rows(group), advice=advice)
        for split, group in by_split(tables, options.split).items()
    ]


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def _column_names(path: Path, options: Options) -> list[str]:
    if path.suffix == JSON_LINES:
        check_file(path)
        head = islice((row for row in _read_json(path) if isinstance(row, dict)), HEAD_OBJECTS)
        return list(dict.fromkeys(name for row in head for name in row))
    if not _is_parquet(path):
        return column_names(find_form(path, options.encoding, options.quotes))
    with reading_source(path, pa.ArrowException, advice="fetch it again"):
        return list(pq.read_schema(path).names)


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
        names = _column_names(path, options)
        columns, images = _choose_columns(path, names, options), _Images.of(path, options)
        for number, row in enumerate(_read_table(path, options, names, columns, images), 1):
            if isinstance(row, LeftOut):
                yield row
            else:
                name = f"{path.name} row {number}"
                yield from _pairs(row, columns, images, name, options.several)


def _read_table(
    path: Path,
    options: Options,
    names: Sequence[str],
    columns: Mapping[str, str],
    images: "_Images",
) -> Iterator[dict[str, Any] | LeftOut]:
    if _is_parquet(path):
        with reading_source(path, pa.ArrowException), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
        return
    if path.suffix == JSON_LINES:
        yield from _read_json(path)
        return

    # A line that is a row names its image in the column of the images.
    place = names.index(columns["image"])

    def finds_image(cells: Sequence[str]) -> bool:
        is_row = len(cells) == len(names) and cells[place].strip()
        return names_image(cells) or bool(is_row and isinstance(images.find(cells[place]), bytes))

    for row in read_rows(find_form(path, options.encoding, options.quotes), finds_image):
        yield row if isinstance(row, LeftOut) else dict(zip(names, row, strict=True))


def _read_json(path: Path) -> Iterator[dict[str, Any] | LeftOut]:
    """Yield the objects of a file of JSON lines; blank lines are none."""
    with reading_source(path):
        for line in read_lines(path, MAX_LINE_BYTES):
            name = f"{path.name} line {line.line}"
            if line.data is None:
                yield LeftOut(LeftOutReason.TOO_LARGE, name)
            elif line.data.strip():
                try:
                    row = json.loads(line.data)
                except (ValueError, RecursionError):
                    yield LeftOut(LeftOutReason.BAD_JSON, name)
                    continue
                yield row if isinstance(row, dict) else LeftOut(LeftOutReason.BAD_FIELD, name)


class _Images(NamedTuple):
    """Where the images of a table lie: a resolved folder, and the folders in it to begin in."""

    root: Path
    folders: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, options: Options) -> "_Images":
        if options.images is not None:
            return cls(options.images.resolve(), ("",))
        return cls(path.parent.resolve(), ("", IMAGES_FOLDER))

    def find(self, name: str) -> bytes | LeftOutReason:
        return find_image(self.root, name, self.folders)


def _pairs(
    row: dict[str, Any], columns: Mapping[str, str], images: _Images, name: str, several: str
) -> Iterator[SourceRow]:
    """Yield the pair of a row, or of each image that its cell lists."""
    cells = _cells_of(row.get(columns["image"]), images)
    product = _text(row.get(columns["id"])) if "id" in columns else _label(cells[0])

    # A column that has the name of another's role gets ``source_`` before its own.
    side = {role: _text(row.get(columns[role])) for role in SIDE_ROLES if role in columns}
    used, taken = set(columns.values()), {"id", *side}
    side |= {
        f"source_{column}" if column in taken else column: _text(value)
        for column, value in row.items()
        if column not in used and not isinstance(value, bytes)
    }

    caption = _text(row.get(columns["caption"]))
    for cell in cells if several == "all" else cells[:1]:
        embedded = cell.get("bytes") if isinstance(cell, dict) else cell
        image = embedded if isinstance(embedded, bytes) else images.find(_label(cell))
        if isinstance(image, LeftOutReason):
            yield LeftOut(image, _label(cell) or name)
        else:
            yield ImportedPair(product or name, caption, image, side)


def _label(cell: Any) -> str:
    """Return the name of an image's file: the cell, or the path in Hugging Face's struct."""
    path = cell.get("path") if isinstance(cell, dict) else cell
    return _text(path) if isinstance(path, str | int) else ""


def _cells_of(cell: Any, images: _Images) -> list[Any]:
    """Return the images that a cell lists, at least one: a list, or a text of one."""
    if isinstance(cell, list):
        return cell or [None]
    if not isinstance(cell, str):
        return [cell]

    # Lists as JSON and Python write them; names between signs, unless the whole is a name.
    if bracketed := BRACKETED.fullmatch(cell):
        return [name.strip(" '\"") for name in bracketed[1].split(",")]
    parts = [part.strip() for part in SIGNS.split(cell)]
    if len(parts) > 1 and all(names_image([part]) for part in parts):
        return [cell] if isinstance(images.find(cell), bytes) else parts
    return [cell]


def _text(value: Any) -> str:
    """Return a cell as text; lists and structs as JSON."""
    if value is None or isinstance(value, bytes):
        return ""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=_text)
    return str(value)
