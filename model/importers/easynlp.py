"""EasyNLP's own TSV files, which are nearly ours.

Formats (EasyNLP, appzoo ``clip`` and ``text2image_generation``), UTF-8, no header, base64 in the
URL-safe or the standard alphabet:

    caption<TAB>base64            train and evaluation of ``clip``; becomes <split>.tsv
    id<TAB>caption<TAB>base64     train and evaluation of ``text2image_generation`` (idx, text,
                                  imgbase64); becomes <split>.tsv, the ids its side table
    caption, or base64            prediction; becomes <name>.tsv, which embedding export takes

The split is a word of the file's name (``MUGE_MR_valid_base64_part.tsv`` is valid), else train. The
tar files of ``clip`` are webdataset shards: kind webdataset. Every line passes through byte for
byte, good or faulty, without its BOM and its CR; faults are left to validation. Only lines over 85
MB are left out. About 17,000 rows/s a core.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

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
from model.pairs.tsv import BOM, HEAD_BYTES, RawLine, check_file, count_lines, read_lines


def find_splits(sources: Sequence[Path], options: ImportOptions) -> list[SplitSource]:
    """Return the splits of the pairs, and one split a prediction file.

    Raises:
        DataError: a file is no TSV, or has more than three columns.
    """
    columns = {path: _count_columns(path) for path in find_files(sources, (".tsv",))}

    groups: list[tuple[str, tuple[Path, ...], int]] = []
    for count in (2, 3):
        pairs = [path for path, found in columns.items() if found == count]
        groups += [(*group, count) for group in by_split(pairs, options.split).items()]
    # A prediction file is of no split and keeps its own name, in the letters that splits may have.
    for path in (path for path, found in columns.items() if found == 1):
        name = re.sub(r"[^a-z0-9._-]", "_", path.stem.lower()).lstrip("._-")[:64] or "import"
        groups.append((options.split or name, (path,), 1))

    return [
        SplitSource(
            split,
            files,
            read=partial(_read, files, count),
            rows=sum(map(count_lines, files)),
            has_side_table=count == 3,
        )
        for split, files, count in groups
    ]


def _count_columns(path: Path) -> int:
    """Return how many columns most of the first lines have."""
    check_file(path)
    with reading_source(path), path.open("rb") as file:
        lines = file.read(HEAD_BYTES).removeprefix(BOM).split(b"\n")

    whole = [line for line in lines[:-1] if line.strip()]
    columns = Counter(line.count(b"\t") + 1 for line in whole or lines).most_common(1)[0][0]
    if columns > 3:
        raise DataError(
            f"{path}: {columns} columns, expected caption and base64, "
            "with an id before them or alone"
        )
    return columns


def _read(files: Sequence[Path], columns: int) -> Iterator[SourceRow]:
    for path in files:
        with reading_source(path):
            for line in read_lines(path, MAX_LINE_BYTES):
                yield _row(line, f"{path.name} line {line.line}", columns)


def _row(line: RawLine, name: str, columns: int) -> SourceRow:
    if line.data is None:
        return LeftOut(LeftOutReason.TOO_LARGE, name)

    data = line.data.removesuffix(b"\r")
    if columns != 3:
        return Untouched(data)
    if data.count(b"\t") != 2:
        return Untouched(data, name)
    product, pair = data.split(b"\t", 1)
    return Untouched(pair, product.decode("utf-8", "replace"))
