"""A TSV of pairs on disk: its lines, and what a line holds; the only reader of TSV.

A line is ``caption<TAB>base64 of an image``; a TSV may also hold captions alone or images alone.
Bytes are split at a newline and at the tab and nowhere else, so no quoting, ``NA`` or U+2028 can
change a caption. A faulty line is a value, never a raise. Parsing a line of 7 KB takes about 10 µs;
memory stays flat however long a line or a file is.
"""

import binascii
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

import pybase64

from model.errors import DataError, FaultReason
from model.pairs.image_bytes import has_signature

LineColumns = Literal["pair", "text", "image"]

BOM = b"\xef\xbb\xbf"
BUFFER_BYTES = 1 << 20
HEAD_BYTES = 1 << 16

# What files of other formats begin with, and no caption of a shop does.
FOREIGN_FILES = {
    b"\x1f\x8b": "gzip-compressed; gunzip it first",
    b"\xfd7zXZ\0": "xz-compressed; unxz it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unzstd it first",
    b"BZh91AY&": "bzip2-compressed; bunzip2 it first",
    b"PK\x03\x04": "a zip archive; unzip it first",
    b"PAR1\x15": "a Parquet file; write its pairs as lines of caption<TAB>base64 first",
    b"\xff\xfe": "UTF-16; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "UTF-16; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)",
}
PAGE_STARTS = (b"<!doctype html", b"<html")
# VT stays a part of a caption like the other line breaks of Unicode; a CR that does not end the
# line does not.
CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0c-\x1f\x7f]")
DATA_PREFIX = re.compile(rb"data:image/[^,;\s]+(?:;[^,;\s]+)*?;base64,", re.IGNORECASE)
TO_STANDARD = bytes.maketrans(b"-_", b"+/")
CAPTION_NOTES = {
    "line_separator": re.compile("[\x0b\x85\u2028\u2029]"),
    "quoted": re.compile(r'\A"|"\Z'),
    "null_word": re.compile(r"\A(?:na|n/a|nan|null|none)\Z", re.IGNORECASE),
    "number": re.compile(r"\A[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?\Z", re.IGNORECASE),
    "formula": re.compile(r"\A="),
}


class Pair(NamedTuple):
    """A caption and its encoded image; None where the TSV has no such column."""

    caption: str | None
    image: bytes | None


class RawLine(NamedTuple):
    """The bytes of a line without its newline, and where they lie.

    ``data`` is None where the line is too long to hold in memory.
    """

    line: int
    offset: int
    length: int
    data: bytes | None


def check_file(path: Path) -> None:
    """Refuse what cannot be a TSV before a line of it is read.

    Raises:
        DataError: missing, not a regular file, unreadable, empty, of another format, or UTF-16.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise DataError(
                f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}; "
                "name a TSV file of pairs"
            )
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; check the path or pull the data version again"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check its permissions and its disk"
        ) from error

    if head in (b"", BOM):
        raise DataError(f"{path}: is empty; write its pairs again")
    for start, advice in FOREIGN_FILES.items():
        if head.startswith(start):
            raise DataError(f"{path}: is {advice}")
    if head.removeprefix(BOM).lstrip().lower().startswith(PAGE_STARTS):
        raise DataError(
            f"{path}: is an HTML page, as a failed download leaves; fetch the file itself"
        )


def likely_encoding(path: Path) -> str | None:
    """Return the likely encoding of the captions at the head of a file; None when it is UTF-8."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.count(0) > len(head) // 4:
        return "UTF-16LE" if head[1::2].count(0) > head[::2].count(0) else "UTF-16BE"

    # The last line may be cut, and a character with it.
    captions = [line.partition(b"\t")[0] for line in head.split(b"\n")[:-1] or [head]]
    foreign = b"\n".join(
        caption for caption in captions if caption.decode("utf-8", "ignore").encode() != caption
    )
    if not foreign:
        return None

    # A Chinese character takes two bytes, an accented letter one between plain ones.
    runs = re.findall(rb"[\x80-\xff]+", foreign)
    is_chinese = sum(len(run) > 1 for run in runs) > len(runs) / 2
    return "GB18030" if is_chinese else "Windows-1252 (latin-1)"


def count_lines(path: Path) -> int:
    """Count the lines as `read_lines` does, at the speed of a newline scan (GB a second)."""
    newlines, last = 0, b"\n"
    with path.open("rb") as file:
        file.seek(_bom_length(file))
        while chunk := file.read(BUFFER_BYTES):
            newlines += chunk.count(b"\n")
            last = chunk[-1:]
    return newlines + (last != b"\n")


def read_lines(
    path: Path, max_line_bytes: int, start: int = 0, stop: int | None = None
) -> Iterator[RawLine]:
    """Yield the lines, counted from 1.

    Seeking to ``offset`` and reading ``length`` bytes gives a line without its newline. A BOM
    belongs to the file, not to line 1, whose offset is then 3. Memory is ``max_line_bytes`` at
    most: what is longer is streamed past. The last line needs no newline; a file that ends in a
    newline has no empty line behind it. With ``start``, which must begin a line, and ``stop``, only
    the lines that begin between them are read, counted from 1.
    """
    with path.open("rb", buffering=BUFFER_BYTES) as file:
        number, offset = 0, max(start, _bom_length(file))
        file.seek(offset)
        while (stop is None or offset < stop) and (data := file.readline(max_line_bytes + 1)):
            number += 1
            ended = data.endswith(b"\n")

            if ended or len(data) <= max_line_bytes:
                line = RawLine(number, offset, len(data) - ended, data[:-1] if ended else data)
            else:
                # Too long to hold: only its length is counted, up to its newline.
                length = len(data)
                while data and not ended:
                    data = file.readline(BUFFER_BYTES)
                    ended = data.endswith(b"\n")
                    length += len(data) - ended
                line = RawLine(number, offset, length, None)

            yield line
            offset += line.length + ended


def chunk_bounds(path: Path, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of consecutive pieces of a file that end after a newline.

    A piece has ``chunk_bytes`` or a little more, of which a few kilobytes are read. The bounds
    depend on the file alone, so whatever is made piece by piece is the same whoever makes it.
    """
    size, start = path.stat().st_size, 0
    with path.open("rb") as file:
        while start < size:
            # From where the piece should end, read on to the end of the line that lies there.
            file.seek(min(start + chunk_bytes, size))
            while (block := file.read(HEAD_BYTES)) and b"\n" not in block:
                pass

            stop = file.tell() - len(block) + block.index(b"\n") + 1 if block else size
            yield start, stop
            start = stop


def _bom_length(file: IO[bytes]) -> int:
    return len(BOM) if file.read(len(BOM)) == BOM else 0


def read_line_at(tsv: Path, offset: int, length: int) -> bytes:
    """Return the bytes of a line that a profile has found, without its newline."""
    with tsv.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def parse_line(raw: bytes, columns: LineColumns = "pair") -> Pair | FaultReason:
    """Return the caption and the encoded image of a line without its newline, or the first fault.

    Checked in this order: NO_TAB, EXTRA_TAB, then the caption (BAD_UTF8, CONTROL_BYTE,
    EMPTY_CAPTION), then the image (BAD_BASE64). The bytes of the image are left to
    `model.pairs.images`. One CR at the end is cut.
    """
    surplus_tabs = raw.count(b"\t") - (1 if columns == "pair" else 0)
    if surplus_tabs:
        return FaultReason.NO_TAB if surplus_tabs < 0 else FaultReason.EXTRA_TAB

    fields = raw.removesuffix(b"\r").split(b"\t")
    caption = None if columns == "image" else _parse_caption(fields[0])
    if isinstance(caption, FaultReason):
        return caption

    image = None if columns == "text" else decode_base64(fields[-1])
    if image is None and columns != "text":
        return FaultReason.BAD_BASE64
    return Pair(caption, image)


def _parse_caption(raw: bytes) -> str | FaultReason:
    try:
        caption = raw.decode("utf-8")
    except UnicodeDecodeError:
        return FaultReason.BAD_UTF8
    if CONTROL_BYTES.search(raw):
        return FaultReason.CONTROL_BYTE
    return caption if caption.strip() else FaultReason.EMPTY_CAPTION


def decode_base64(text: bytes) -> bytes | None:
    """Decode either base64 alphabet, or return None.

    A ``data:image/…;base64,`` prefix is cut and missing padding added; a text that mixes the
    alphabets, or holds anything else (white space too), is None: guessing would give wrong bytes
    silently.
    """
    text = _without_prefix(text)
    if _is_url_safe(text):
        if b"+" in text or b"/" in text:
            return None
        text = text.translate(TO_STANDARD)

    # Strict decoding wants whole groups, and forgives padding after one.
    digits = text.rstrip(b"=")
    padding = -len(digits) % 4
    if len(text) > len(digits) + padding:
        return None
    try:
        return pybase64.b64decode(digits + b"=" * padding, validate=True)
    except binascii.Error:
        return None


def line_notes(raw: bytes, pair: Pair) -> Iterator[str]:
    """Yield what is unusual in a line that parsed.

    A CR, a spelling of base64, or a caption that other readers change.
    """
    if raw.endswith(b"\r"):
        yield "crlf"

    if pair.image is not None:
        field = raw.removesuffix(b"\r").rpartition(b"\t")[2]
        text = _without_prefix(field)
        if len(text) < len(field):
            yield "data_prefix"
        if _is_url_safe(text):
            yield "url_safe_base64"
        if len(text) % 4:
            yield "missing_padding"

    if pair.caption is not None:
        for note, pattern in CAPTION_NOTES.items():
            if pattern.search(pair.caption):
                yield note


def _without_prefix(text: bytes) -> bytes:
    prefix = DATA_PREFIX.match(text)
    return text[prefix.end() :] if prefix else text


def _is_url_safe(text: bytes) -> bool:
    return b"-" in text or b"_" in text


def detect_columns(path: Path) -> LineColumns:
    """Return the columns of a TSV, by what most of its first lines look like.

    Raises:
        DataError: the file cannot be a TSV.
    """
    check_file(path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).removeprefix(BOM)
    kinds = Counter(_kind_of(line) for line in head.split(b"\n")[:100] if line.strip())
    return max(("pair", "text", "image"), key=lambda kind: kinds[kind])


def _kind_of(line: bytes) -> LineColumns:
    if b"\t" in line:
        return "pair"
    image = decode_base64(_without_prefix(line)[:64].removesuffix(b"\r"))
    return "image" if image and has_signature(image) else "text"
