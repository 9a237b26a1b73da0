"""A TSV of pairs on disk: lines, faults and the profile; the only reader of TSV.

A line is ``caption<TAB>base64 of an image``; a TSV may also hold captions alone or images alone. Bytes are split at
a newline and at the tab and nowhere else, so no quoting, ``NA`` or U+2028 can change a caption. A faulty line is a
value, never a raise: in a profile, accepted plus quarantined are the lines, to the byte.

Memory stays flat at a few row groups however long a line or a file is; a profile is written at half the speed of
bare JPEG decoding (1,900 lines/s of 224-pixel JPEGs a core): each image is decoded once, to know that it can be.
"""

import base64
import binascii
import hashlib
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from model.config import DataConfig
from model.errors import DataError, FaultReason
from model.files import atomic_write
from model.images import decode_image, has_signature, inspect_image, is_flat_below

Columns = Literal["pair", "text", "image"]

BOM = b"\xef\xbb\xbf"
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 1 << 16
ROWS_A_GROUP = 8192
ROWS_A_REPORT = 256

# VT stays a part of a caption like the other line breaks of Unicode; a CR that does not end the line does not.
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

PROFILE_SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "offset": pa.int64(),
        "length": pa.int64(),
        "caption_chars": pa.int32(),
        "caption_words": pa.int32(),
        "caption_hash": pa.string(),
        "image_format": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
        "image_bytes": pa.int32(),
        "image_hash": pa.string(),
        "fault": pa.string(),
        "notes": pa.string(),
    }
)


class Pair(NamedTuple):
    """A caption and its encoded image; None where the TSV has no such column."""

    caption: str | None
    image: bytes | None


class RawLine(NamedTuple):
    """The bytes of a line without its newline, and where they lie; ``data`` is None where it is too long to hold."""

    line: int
    offset: int
    length: int
    data: bytes | None


@dataclass(frozen=True)
class ProfileSummary:
    """Counts of a profile; ``notes`` counts what was accepted although it is unusual."""

    lines: int
    accepted: int
    quarantined: int
    faults: dict[str, int]
    notes: dict[str, int]

    def __post_init__(self) -> None:
        assert self.accepted + self.quarantined == self.lines == self.accepted + sum(self.faults.values())


def check_file(path: Path) -> None:
    """Refuse what cannot be a TSV before a line of it is read.

    Raises:
        DataError: missing, not a regular file, unreadable, empty, compressed, or UTF-16.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise DataError(f"{path}: is {kind}; name a TSV file of pairs")
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path or pull the data version again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions and its disk") from error
    if head in (b"", BOM):
        raise DataError(f"{path}: is empty; write its pairs again")
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: is gzip-compressed; gunzip it first")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: is UTF-16; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)")


def count_lines(path: Path) -> int:
    """Count the lines as `read_lines` does, at the speed of a newline scan (GB a second)."""
    newlines, last = 0, b"\n"
    with path.open("rb") as file:
        file.seek(_bom_length(file))
        while chunk := file.read(CHUNK_BYTES):
            newlines += chunk.count(b"\n")
            last = chunk[-1:]
    return newlines + (last != b"\n")


def read_lines(path: Path, max_line_bytes: int) -> Iterator[RawLine]:
    """Yield the lines, 1-based; seeking to ``offset`` and reading ``length`` bytes gives a line without its newline.

    A BOM belongs to the file, not to line 1, whose offset is then 3. Memory is ``max_line_bytes`` at most: what is
    longer is streamed past. The last line needs no newline; nothing after the last newline is not a line.
    """
    with path.open("rb", buffering=CHUNK_BYTES) as file:
        number, offset = 0, _bom_length(file)
        file.seek(offset)
        while data := file.readline(max_line_bytes + 1):
            number += 1
            ended = data.endswith(b"\n")
            if ended or len(data) <= max_line_bytes:
                line = RawLine(number, offset, len(data) - ended, data[:-1] if ended else data)
            else:
                length = len(data)
                while data and not ended:
                    data = file.readline(CHUNK_BYTES)
                    ended = data.endswith(b"\n")
                    length += len(data) - ended
                line = RawLine(number, offset, length, None)
            yield line
            offset += line.length + ended


def _bom_length(file: IO[bytes]) -> int:
    return len(BOM) if file.read(len(BOM)) == BOM else 0


def parse_line(raw: bytes, columns: Columns = "pair") -> Pair | FaultReason:
    """Return the caption and the encoded image of a line without its newline, or the first fault.

    Checked in this order: NO_TAB, EXTRA_TAB, then the caption (BAD_UTF8, CONTROL_BYTE, EMPTY_CAPTION), then the image
    (BAD_BASE64). The bytes of the image are judged by `model.images`. One CR at the end is cut.
    """
    tabs = raw.count(b"\t")
    wanted = 1 if columns == "pair" else 0
    if tabs != wanted:
        return FaultReason.NO_TAB if tabs < wanted else FaultReason.EXTRA_TAB
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

    A ``data:image/…;base64,`` prefix is cut and missing padding added; a text that mixes the alphabets, or holds
    anything else (white space too), is None: guessing would give wrong bytes silently.
    """
    text = _without_prefix(text)
    if _is_url_safe(text):
        if b"+" in text or b"/" in text:
            return None
        text = text.translate(TO_STANDARD)
    digits = text.rstrip(b"=")
    padding = -len(digits) % 4
    if len(text) > len(digits) + padding:  # strict decoding forgives padding after a whole group
        return None
    try:
        return base64.b64decode(digits + b"=" * padding, validate=True)
    except binascii.Error:
        return None


def line_notes(raw: bytes, pair: Pair) -> Iterator[str]:
    """Name what is unusual in a line that parsed: a CR, a spelling of base64, a caption that other readers change."""
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


def detect_columns(path: Path) -> Columns:
    """Tell pairs from captions alone and images alone by what most of the first lines look like.

    Raises:
        DataError: the file cannot be a TSV.
    """
    check_file(path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).removeprefix(BOM)
    kinds = Counter(_kind_of(line) for line in head.split(b"\n")[:100] if line.strip())
    return max(("pair", "text", "image"), key=lambda kind: kinds[kind])


def _kind_of(line: bytes) -> Columns:
    if b"\t" in line:
        return "pair"
    image = decode_base64(_without_prefix(line)[:64].removesuffix(b"\r"))
    return "image" if image and has_signature(image) else "text"


def write_profile(
    tsv: Path,
    profile: Path,
    quarantine: Path,
    limits: DataConfig,
    columns: Columns = "pair",
    on_rows: Callable[[int], None] | None = None,
) -> ProfileSummary:
    """Judge every line of a TSV in one streaming pass: a Parquet row a line, and the faulty lines put aside.

    ``profile`` has the columns of ``PROFILE_SCHEMA``, the same bytes for the same TSV. ``quarantine`` gets
    ``line number<TAB>reason<TAB>original bytes`` a faulty line and does not exist when there is none. ``on_rows`` is
    called with the rows done since its last call.

    Raises:
        DataError: the file cannot be a TSV, or changed while it was read.
    """
    check_file(tsv)
    before, faults, notes, lines = _stamp(tsv), Counter[str](), Counter[str](), 0
    with atomic_write(profile) as table_file, atomic_write(quarantine) as quarantined:
        with pq.ParquetWriter(table_file, PROFILE_SCHEMA, compression="zstd") as writer:
            rows = _with_reports(_profile_rows(tsv, quarantined, limits, columns), on_rows)
            while group := list(islice(rows, ROWS_A_GROUP)):
                writer.write_table(pa.Table.from_pylist(group, PROFILE_SCHEMA))
                lines += len(group)
                faults.update(row["fault"].value for row in group if "fault" in row)
                notes.update(note for row in group for note in row["notes"].split())
        if _stamp(tsv) != before:
            raise DataError(f"{tsv}: changed while it was read; wait until it is complete and run again")
    if not faults:
        quarantine.unlink(missing_ok=True)
    quarantined_lines = faults.total()
    return ProfileSummary(
        lines, lines - quarantined_lines, quarantined_lines, dict(sorted(faults.items())), dict(sorted(notes.items()))
    )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _with_reports(rows: Iterator[dict[str, Any]], on_rows: Callable[[int], None] | None) -> Iterator[dict[str, Any]]:
    while part := list(islice(rows, ROWS_A_REPORT)):
        yield from part
        if on_rows is not None:
            on_rows(len(part))


def _profile_rows(tsv: Path, quarantined: IO[bytes], limits: DataConfig, columns: Columns) -> Iterator[dict[str, Any]]:
    """Yield the profile's row of each line; a faulty line is also copied to the open quarantine file."""
    size = tsv.stat().st_size
    for line in read_lines(tsv, limits.max_line_bytes):
        row = _profile_row(line, limits, columns)
        if line.line == 1 and line.offset:
            row["notes"].append("bom")
        if line.offset + line.length == size:
            row["notes"].append("no_final_newline")
        if "fault" in row:
            quarantined.write(b"%d\t%s\t" % (line.line, row["fault"].encode()))
            _copy_line(tsv, line, quarantined)
        yield row | {"notes": " ".join(row["notes"])}


def _copy_line(tsv: Path, line: RawLine, quarantined: IO[bytes]) -> None:
    """Append the line's bytes and a newline, in chunks where it was too long to hold."""
    if line.data is not None:
        quarantined.write(line.data)
    else:
        with tsv.open("rb") as file:
            file.seek(line.offset)
            for start in range(0, line.length, CHUNK_BYTES):
                quarantined.write(file.read(min(CHUNK_BYTES, line.length - start)))
    quarantined.write(b"\n")


def _profile_row(line: RawLine, limits: DataConfig, columns: Columns) -> dict[str, Any]:
    """Return what is known of a line; the key ``fault`` is there only where it has one."""
    row: dict[str, Any] = {"line": line.line, "offset": line.offset, "length": line.length, "notes": []}
    if line.data is None:
        return row | {"fault": FaultReason.LINE_TOO_LONG}
    pair = parse_line(line.data, columns)
    if isinstance(pair, FaultReason):
        return row | {"fault": pair}
    row["notes"].extend(line_notes(line.data, pair))
    if pair.caption is not None:
        row["caption_chars"] = len(pair.caption)
        row["caption_words"] = len(pair.caption.split())
        row["caption_hash"] = hashlib.sha256(unicodedata.normalize("NFC", pair.caption).encode()).hexdigest()[:16]
    if pair.image is not None:
        _add_image(row, pair.image, limits)
    return row


def _add_image(row: dict[str, Any], image: bytes, limits: DataConfig) -> None:
    """Add the image's facts to a row, and its fault where it has one."""
    row["image_bytes"] = len(image)
    row["image_hash"] = hashlib.sha256(image).hexdigest()[:32]
    facts = inspect_image(image, limits.max_pixels, limits.min_image_side)
    if isinstance(facts, FaultReason):
        row["fault"] = facts
        return
    row |= {"image_format": facts.format, "width": facts.width, "height": facts.height, "mode": facts.mode}
    row["notes"].extend(facts.notes)
    pixels = decode_image(image, limits.max_pixels)
    if isinstance(pixels, FaultReason):
        row["fault"] = pixels
    elif is_flat_below(pixels):
        row["notes"].append("flat_below")


def read_profile(path: Path) -> pa.Table:
    """Return the table that `write_profile` wrote.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such profile; validate the data first") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged profile; delete it and validate the data again") from error
    if not table.schema.equals(PROFILE_SCHEMA):
        raise DataError(f"{path}: is no profile of this version; delete it and validate again")
    return table
