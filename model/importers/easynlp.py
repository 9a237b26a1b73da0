"""EasyNLP's own TSV files, which are nearly ours.

Formats (EasyNLP, appzoo ``clip`` and ``text2image_generation``), UTF-8, no header, base64 in the
URL-safe or the standard alphabet:

    caption<TAB>base64            train and evaluation of ``clip``; becomes <split>.tsv
    id<TAB>caption<TAB>base64     train and evaluation of ``text2image_generation`` (idx, text,
                                  imgbase64); becomes <split>.tsv, the ids its side table
    caption, or base64            prediction; becomes <name>.tsv, which embedding export takes

Columns in another order are known by what is in them, others beside them by the option ``columns``,
as ``--input_schema`` of EasyNLP's scripts names them.
The split is a word of the file's name (``MUGE_MR_valid_base64_part.tsv`` is valid), else train. The
tar files of ``clip`` are webdataset shards: kind webdataset. Every line passes through byte for
byte, good or faulty, without its BOM and its CR (in the right order of its columns); faults are
left to validation. Only lines over 85 MB are left out. About 17,000 rows/s a core.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field, field_validator

from model.errors import DataError
from model.importers.records import (
    MAX_LINE_BYTES,
    ImportOptions,
    LeftOut,
    LeftOutReason,
    SourceRow,
    SplitSource,
    Untouched,
)
from model.importers.sources import by_split, find_files, reading_source
from model.pairs.mistakes import image_column
from model.pairs.tsv import BOM, HEAD_BYTES, RawLine, check_file, count_lines, read_lines

Roles = tuple[str, ...]  # id, caption, image or - a column


class Options(ImportOptions):
    """Options of EasyNLP's TSV files."""

    columns: str | None = Field(
        None,
        pattern=r"^(id|caption|image|-)(,(id|caption|image|-))*$",
        description="What the columns are, in their order: id, caption, image, or - for one to "
        "leave out (-,caption,image); by default they are known by what is in them.",
    )

    @field_validator("columns")
    @classmethod
    def _names_a_pair(cls, columns: str | None) -> str | None:
        names = [] if columns is None else columns.split(",")
        if columns is not None and any(names.count(name) != 1 for name in ("caption", "image")):
            raise ValueError("one column must be caption and one image")
        return columns


def find_splits(sources: Sequence[Path], options: Options) -> list[SplitSource]:
    """Return the splits of the pairs, and one split a prediction file.

    Raises:
        DataError: a file is no TSV, or its columns must be named.
    """
    roles = {path: _find_roles(path, options) for path in find_files(sources, (".tsv",))}

    groups: list[tuple[str, tuple[Path, ...], Roles]] = []
    for each in dict.fromkeys(found for found in roles.values() if len(found) > 1):
        pairs = [path for path, found in roles.items() if found == each]
        groups += [(*group, each) for group in by_split(pairs, options.split).items()]
    # A prediction file is of no split and keeps its own name, in the letters that splits may have.
    for path in (path for path, found in roles.items() if len(found) == 1):
        name = re.sub(r"[^a-z0-9._-]", "_", path.stem.lower()).lstrip("._-")[:64] or "import"
        groups.append((options.split or name, (path,), roles[path]))

    return [
        SplitSource(
            split,
            files,
            read=partial(_read, files, each),
            rows=sum(map(count_lines, files)),
            has_side_table="id" in each,
        )
        for split, files, each in groups
    ]


def _find_roles(path: Path, options: Options) -> Roles:
    """Find out what the columns of a file are, by the option or by what most first lines hold."""
    check_file(path)
    if options.columns is not None:
        return tuple(options.columns.split(","))
    with reading_source(path), path.open("rb") as file:
        head = file.read(HEAD_BYTES).removeprefix(BOM).split(b"\n")

    lines = [line for line in head[:-1] if line.strip()] or head
    columns = Counter(line.count(b"\t") + 1 for line in lines).most_common(1)[0][0]
    if columns > 3:
        raise DataError(
            f"{path}: {columns} columns, expected caption and base64, with an id before them or "
            "alone; name them by the option columns (columns=-,caption,-,image)"
        )

    whole = [line for line in lines if line.count(b"\t") + 1 == columns]
    places = Counter(image_column(line) for line in whole)
    image = max(range(columns), key=lambda place: (places[place], place))
    if columns < 3:
        return (("image", "caption") if image == 0 else ("caption", "image"))[:columns]

    # Of the two others the caption has words; in EasyNLP's own order it is the second.
    others = [place for place in range(3) if place != image]
    words = [sum(b" " in line.split(b"\t")[place].strip() for line in whole) for place in others]
    caption = others[0] if image < 2 and words[0] > words[1] else others[1]
    return tuple({image: "image", caption: "caption"}.get(place, "id") for place in range(3))


def _read(files: Sequence[Path], roles: Roles) -> Iterator[SourceRow]:
    for path in files:
        with reading_source(path):
            for line in read_lines(path, MAX_LINE_BYTES):
                yield _row(line, f"{path.name} line {line.line}", roles)


def _row(line: RawLine, name: str, roles: Roles) -> SourceRow:
    if line.data is None:
        return LeftOut(LeftOutReason.TOO_LARGE, name)

    data = line.data.removesuffix(b"\r")
    cells = data.split(b"\t")
    if len(roles) == 1 or len(cells) != len(roles):
        return Untouched(data, name if "id" in roles else "")
    pair = cells[roles.index("caption")] + b"\t" + cells[roles.index("image")]
    product = cells[roles.index("id")].decode("utf-8", "replace") if "id" in roles else ""
    return Untouched(pair, product)
