"""Rows of any importer → ``<split>.tsv`` and ``<split>.products.csv``, both or none.

One pass and flat memory. The columns of a side table need not be known before the last row (the
JSON of a webdataset may bring a new field at any time), so its rows wait in a nameless temporary
file beside the output, each a JSON list, and become CSV when all columns are known, in the order of
their first appearance; that costs their size on disk once more. Tabs and line breaks become spaces
in captions and in the side table, whose line N+1 is thus line N of the TSV.

The TSV is renamed last and an old one removed first: whenever a TSV is there, its own side table
lies beside it.
"""

import base64
import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO

from model.importers.records import (
    ImportedPair,
    ImportedSplit,
    LeftOut,
    LeftOutReason,
    LeftOutRows,
    SourceRow,
    SplitSource,
    Untouched,
)
from model.pairs.splits import side_table_path
from model.storage.files import atomic_write

BREAK = re.compile(r"\r\n|[\t\r\n]")
MAX_COLUMNS = 200
MAX_NAME_CHARS = 100
NAMES_A_REASON = 5
ROWS_A_REPORT = 256

OnRows = Callable[[int], None]


class _NothingToWrite(Exception):
    """Ends the writing of files that would have no line."""


def tsv_path(out: Path, split: str) -> Path:
    """Return where the pairs of a split go."""
    return out / f"{split}.tsv"


def write_split(
    source: SplitSource, out: Path, on_rows: OnRows = lambda rows: None
) -> ImportedSplit:
    """Write the pairs of a split and their side table into a folder.

    What an earlier import left there is replaced. ``on_rows`` is called with the rows read since
    its last call. Nothing is written where no row becomes a pair.

    Raises:
        DataError: the source cannot be read.
        CheckpointError: the folder cannot be written or the disk is full.
    """
    tsv, tally, table = tsv_path(out, source.split), _Tally(), _SideTable()
    side_path = side_table_path(tsv)
    written: tuple[Path | None, Path | None] = (tsv, side_path if source.has_side_table else None)
    try:
        with (
            atomic_write(tsv) as lines,
            atomic_write(side_path) if source.has_side_table else nullcontext() as side_file,
            tempfile.TemporaryFile(dir=out) as spool,
        ):
            for row in _with_reports(source.read(), on_rows):
                _write_row(row, lines, spool, tally, table)
            if not tally.pairs:
                raise _NothingToWrite
            if side_file is not None:
                table.write_csv(spool, side_file)

            # An earlier pair of files goes once the new bytes are known to be on disk.
            for file in (lines, side_file):
                if file is not None:
                    file.flush()
                    os.fsync(file.fileno())
            tsv.unlink(missing_ok=True)
            side_path.unlink(missing_ok=True)
    except _NothingToWrite:
        written = (None, None)

    return ImportedSplit(
        source.split,
        source.files,
        *written,
        rows=tally.rows,
        pairs=tally.pairs,
        left_out=tally.left_out,
        cleaned_captions=tally.cleaned,
        dropped_columns=tuple(table.dropped),
        advice=tuple(
            f"{reason}: {advice}"
            for reason, advice in source.advice.items()
            if reason in tally.left_out
        ),
    )


def _with_reports(rows: Iterator[SourceRow], on_rows: OnRows) -> Iterator[SourceRow]:
    done = 0
    for done, row in enumerate(rows, 1):
        yield row
        if done % ROWS_A_REPORT == 0:
            on_rows(ROWS_A_REPORT)
    if done % ROWS_A_REPORT:
        on_rows(done % ROWS_A_REPORT)


def _write_row(
    row: SourceRow, lines: IO[bytes], spool: IO[bytes], tally: "_Tally", table: "_SideTable"
) -> None:
    tally.rows += 1
    columns = row.columns if isinstance(row, ImportedPair) else {}
    line = tally.as_line(row) if isinstance(row, ImportedPair) else row
    if isinstance(line, LeftOut):
        tally.leave_out(line)
        return

    lines.write(line.line + b"\n")
    spool.write(table.spooled(line.id, columns))
    tally.pairs += 1


class _Tally:
    """Counts of one split."""

    def __init__(self) -> None:
        self.rows = self.pairs = self.cleaned = 0
        self.left_out: dict[str, LeftOutRows] = {}

    def as_line(self, pair: ImportedPair) -> Untouched | LeftOut:
        """Return the line of a pair, with a caption that fits a TSV, or why it becomes none."""
        if not pair.caption.strip():
            return LeftOut(LeftOutReason.NO_CAPTION, pair.id)
        if not pair.image:
            return LeftOut(LeftOutReason.NO_IMAGE, pair.id)

        caption, breaks = BREAK.subn(" ", pair.caption)
        try:
            line = caption.encode() + b"\t" + base64.b64encode(pair.image)
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            return LeftOut(LeftOutReason.BAD_UTF8, pair.id)
        self.cleaned += breaks > 0
        return Untouched(line, pair.id)

    def leave_out(self, row: LeftOut) -> None:
        count, names = self.left_out.get(row.reason, LeftOutRows(0, ()))
        names = names if count >= NAMES_A_REASON else (*names, printable(row.name))
        self.left_out[row.reason.value] = LeftOutRows(count + 1, names)


def printable(text: str) -> str:
    r"""Return the text with its control characters spelled out (``\x1b``), cut where it is long."""
    cut = text if len(text) <= MAX_NAME_CHARS else text[:MAX_NAME_CHARS] + "…"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut
    )


class _SideTable:
    """The columns seen so far.

    A row lists its values in their order and may be shorter than later ones.
    """

    def __init__(self) -> None:
        self.columns = {"id": 0}
        self.dropped: dict[str, None] = {}

    def spooled(self, product: str, columns: Mapping[str, str]) -> bytes:
        """Return one line of JSON for a row."""
        # Past the limit a column is dropped; of these so many names are kept.
        for name in columns:
            if name not in self.columns and len(self.columns) < MAX_COLUMNS:
                self.columns[name] = len(self.columns)
            elif name not in self.columns and len(self.dropped) < MAX_COLUMNS:
                self.dropped[printable(name)] = None

        row = [_one_line(product), *[""] * (len(self.columns) - 1)]
        for name, value in columns.items():
            if name in self.columns:
                row[self.columns[name]] = _one_line(value)
        return json.dumps(row).encode() + b"\n"

    def write_csv(self, spool: IO[bytes], file: IO[bytes]) -> None:
        """Turn the spooled rows into a CSV with a header."""
        spool.seek(0)
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_one_line(name) for name in self.columns)
        while lines := list(islice(spool, ROWS_A_REPORT)):
            writer.writerows(
                row + [""] * (len(self.columns) - len(row)) for row in map(json.loads, lines)
            )
        text.flush()
        text.detach()


def _one_line(text: str) -> str:
    return BREAK.sub(" ", text).encode("utf-8", "replace").decode()
