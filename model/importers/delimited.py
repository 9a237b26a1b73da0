"""Delimited text (CSV, TSV with a header): every line of the file is accounted for.

Python's csv reads the rows; around it stands what a shop's export needs: the encoding by its mark
or by an option, any line ends, the delimiter by the header, and a watch over quotation marks. One
that is never closed takes in all lines up to the next one, and what comes out is legal CSV, with
one row where there were many. So a row that spans lines is a suspect if it is longer than a caption
may be, is not well-formed, or holds lines that are rows themselves; a suspect stops the import.

Rows: 400,000 a second, memory is one row, at most `MAX_ROW_CHARS`.
"""

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Literal, NamedTuple

from model.config.sections import DataConfig
from model.errors import DataError
from model.importers.records import LeftOut, LeftOutReason
from model.importers.sources import reading_source
from model.importers.writer import printable
from model.pairs.tsv import BOM, HEAD_BYTES, check_file, likely_encoding

Quotes = Literal["checked", "literal", "trusted"]

MAX_ROW_CHARS = 16_000_000
MAX_CELL_CHARS = DataConfig().max_caption_chars
BOMS = {BOM: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
MAX_FOREIGN_SHARE = 0.01
LINE_END = re.compile(r"\r\n|[\r\n]")
LONGEST_FILE_NAME = 2_000
IMAGE_NAME = re.compile(
    r"https?://\S+|.*\.(?:jpe?g|png|webp|gif|bmp|avif|heic|tiff?)(?:[?#].*)?", re.IGNORECASE
)
SAVE_ADVICE = "save it as CSV with a header in UTF-8"


class Delimited(NamedTuple):
    """How a file is read; ``end`` is what ends its lines."""

    path: Path
    encoding: str
    end: str
    delimiter: str
    quotes: Quotes


class _Record(NamedTuple):
    """What the reader made of some lines; ``fields`` is None where they are no row."""

    line: int
    text: str
    fields: list[str] | None


def find_form(path: Path, encoding: str | None, quotes: Quotes | None) -> Delimited:
    """Find out how a file is to be read, by its head and by what the user chose.

    Quotation marks of a tab-separated file are text unless ``quotes`` says otherwise.

    Raises:
        DataError: the file is missing, empty, of another format, or in an encoding that must be
            named.
    """
    with reading_source(path, advice=SAVE_ADVICE):
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        marked = next((name for bom, name in BOMS.items() if head.startswith(bom)), None)
        if encoding is None and marked is None and (likely := _foreign_encoding(path, head)):
            raise DataError(
                f"{path}: is not UTF-8 but likely {likely}; name its encoding by the option "
                f"encoding (encoding={likely.split()[0]})"
            )
        if marked != "utf-16":
            check_file(path)

    chosen = encoding or marked or "utf-8"
    text = head.decode(chosen, "ignore")
    end = "\r" if "\n" not in text and "\r" in text else "\n"
    delimiter = max(",;\t", key=text.partition(end)[0].count)
    return Delimited(
        path, chosen, end, delimiter, quotes or ("literal" if delimiter == "\t" else "checked")
    )


def _foreign_encoding(path: Path, head: bytes) -> str | None:
    """Return the likely encoding of a file whose head has more than a stray byte of it."""
    lines = head.splitlines()[:-1] or [head]
    foreign = sum(line.decode("utf-8", "ignore").encode() != line for line in lines)
    is_wide = head.count(0) > len(head) // 4
    is_foreign = is_wide or foreign > max(1, MAX_FOREIGN_SHARE * len(lines))
    return likely_encoding(path) if is_foreign else None


def column_names(form: Delimited) -> list[str]:
    """Return the names in the first row; a column without one is named by its place.

    Raises:
        DataError: the file cannot be read, or its first row is no header.
    """
    header = next(_read_records(form), None)
    if header is not None:
        _refuse_suspect(form, header, len(header.fields or ()), names_image)
    if header is None or header.fields is None:
        raise DataError(f"{form.path}: its first row is no header; {SAVE_ADVICE}")
    if names_image(header.fields):
        raise DataError(
            f"{form.path}: its first row is a pair ({printable(header.text.strip())}), not the "
            f"names of the columns; put them above it, such as caption{form.delimiter}image"
        )
    return [name.strip() or f"unnamed_{place}" for place, name in enumerate(header.fields, 1)]


def names_image(cells: Sequence[str]) -> bool:
    """Whether one of the cells looks like the name or the URL of an image file."""
    names = (cell.strip("'\" \t\r\n") for cell in cells)
    return any(len(name) <= LONGEST_FILE_NAME and IMAGE_NAME.fullmatch(name) for name in names)


def read_rows(
    form: Delimited, finds_image: Callable[[Sequence[str]], bool] = names_image
) -> Iterator[list[str] | LeftOut]:
    """Yield the rows below the header; what is no row is left out, under its number.

    ``finds_image`` says of the cells of a line, whatever their number, whether one is the image's.

    Raises:
        DataError: the file cannot be read, or a quotation mark may have swallowed rows.
    """
    columns, read = len(column_names(form)), 0
    for number, record in enumerate(_read_records(form)):
        if number:
            _refuse_suspect(form, record, columns, finds_image)
            yield _checked(form, record, columns, number)
        read = record.line + record.text.removesuffix(form.end).count(form.end)

    # The lines that the csv reader took are compared with a count that knows nothing of it.
    counted = _count_lines(form)
    if counted > read:
        raise DataError(
            f"{form.path}: {counted:,} lines, of which {read:,} were read; import it again when "
            "nothing writes to it"
        )


def _checked(form: Delimited, record: _Record, columns: int, number: int) -> list[str] | LeftOut:
    """Return the fields of a row, or why it is left out."""
    name, text = f"{form.path.name} row {number}", record.text.rstrip("\r\n")
    if not text.isascii() and any("\udc80" <= char <= "\udcff" for char in text):
        return LeftOut(LeftOutReason.BAD_UTF8, name)
    if record.fields is None:
        return LeftOut(LeftOutReason.BAD_ROW, f"{name}, a stray quotation mark or CR: {text}")
    if "\0" in text:
        return LeftOut(LeftOutReason.BAD_ROW, f"{name}, holds NUL: {text}")
    if len(record.fields) != columns:
        found = f"{len(record.fields)} fields for {columns} columns"
        return LeftOut(LeftOutReason.BAD_ROW, f"{name}, {found}: {text}")
    return record.fields


def _refuse_suspect(
    form: Delimited,
    record: _Record,
    columns: int,
    finds_image: Callable[[Sequence[str]], bool],
) -> None:
    """Refuse a row of several lines that may be several rows.

    Raises:
        DataError: it may be, unless the user trusts the quotation marks.
    """
    lines = LINE_END.split(record.text.removesuffix(form.end).removesuffix("\r"))
    if len(lines) == 1 or form.quotes != "checked":
        return

    # One line of a row may name its image; a second one is another row.
    rows = (line for line in lines if finds_image(line.split(form.delimiter)))
    is_many = len(list(islice(rows, 2))) == 2
    is_one_line = form.end not in record.text.removesuffix(form.end)
    if record.fields is None and is_one_line and is_many:
        raise DataError(
            f"{form.path} line {record.line}: line ends of two kinds, CR alone and another; "
            "make them one kind (tr '\\r' '\\n')"
        )

    if record.fields is None or len(record.fields) != columns:
        problem = "" if is_one_line else "which makes no row"
    elif is_many:
        problem = "some of which are rows themselves"
    else:
        broken = (len(field) for field in record.fields if LINE_END.search(field))
        longest = max(broken, default=0)
        problem = "" if longest <= MAX_CELL_CHARS else f"a text of {longest:,} characters"
    if problem:
        raise DataError(
            f"{form.path} line {record.line}: a quotation mark opens here and takes in "
            f"{len(lines):,} lines, {problem}; close it, or import with the option quotes=literal, "
            "which reads quotation marks as text (quotes=trusted where all of it is one text)"
        )


def _read_records(form: Delimited) -> Iterator[_Record]:
    """Yield what the csv reader makes of the lines; blank ones are none."""
    csv.field_size_limit(MAX_ROW_CHARS)
    taken: list[str] = []
    line = 1
    with (
        reading_source(form.path, UnicodeError, advice=SAVE_ADVICE),
        form.path.open(encoding=form.encoding, errors="surrogateescape", newline=form.end) as file,
    ):
        reader = csv.reader(
            _keep(taken, _read_lines(form, file)),
            delimiter=form.delimiter,
            quoting=csv.QUOTE_NONE if form.quotes == "literal" else csv.QUOTE_MINIMAL,
            strict=True,
        )
        while True:
            fields: list[str] | None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                fields = None

            if fields != []:
                yield _Record(line, "".join(taken), fields)
            line += len(taken)
            taken.clear()


def _keep(taken: list[str], lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _read_lines(form: Delimited, file: IO[str]) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_ROW_CHARS):
        number += 1
        if len(line) == MAX_ROW_CHARS:
            raise DataError(
                f"{form.path} line {number}: longer than {MAX_ROW_CHARS:,} characters; is it a CSV?"
            )
        yield line


def _count_lines(form: Delimited) -> int:
    """Count the lines up to the last that is not blank."""
    ends, last = 0, 0
    with form.path.open(encoding=form.encoding, errors="surrogateescape", newline="") as file:
        while chunk := file.read(1 << 20):
            text = chunk.rstrip()
            if text:
                last = ends + text.count(form.end) + 1
            ends += chunk.count(form.end)
    return last
