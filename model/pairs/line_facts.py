"""What a profile keeps of each line: caption facts, image facts, signatures, and the one fault.

A piece of a TSV becomes columns of plain values, so that several processes can share a file and
send back little. A line of a 256-pixel JPEG takes about 0.35 ms, hardly more than decoding the JPEG
alone; neither torch nor Arrow is imported here, so a process takes about 60 MB.
"""

import hashlib
import unicodedata
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import FaultReason
from model.pairs.images import preview_image
from model.pairs.markup import has_markup
from model.pairs.near_duplicates import image_signature
from model.pairs.tsv import LineColumns, RawLine, line_notes, parse_line, read_lines
from model.pairs.words import same_words, words_of

PROFILE_COLUMNS = (
    "line", "offset", "length",
    "caption_chars", "caption_words", "caption_script", "caption_hash", "caption_key",
    "image_format", "width", "height", "mode",
    "image_bytes", "image_hash", "image_phash", "image_thumb",
    "fault", "notes",
)  # fmt: skip

# The note on a caption with tags or entities.
HTML = "html"


class Piece(NamedTuple):
    """The bytes [start, stop) of a TSV, whole lines, and the limits that they are held to."""

    tsv: Path
    start: int
    stop: int
    columns: LineColumns
    max_line_bytes: int
    max_pixels: int
    min_image_side: int


class ProfiledPiece(NamedTuple):
    """The profile rows of a piece as columns of values, and how often its captions use each word.

    Lines are counted from 1 in each piece.
    """

    columns: dict[str, list[Any]]
    words: Counter[str]


def profile_piece(piece: Piece) -> ProfiledPiece:
    """Validate every line of a piece; a line that vanishes meanwhile is simply not there."""
    rows = ProfiledPiece({name: [] for name in PROFILE_COLUMNS}, Counter())
    size = piece.tsv.stat().st_size

    for line in read_lines(piece.tsv, piece.max_line_bytes, piece.start, piece.stop):
        row = _row(line, piece, rows.words)
        # Notes that depend on the place of a line in its file.
        if piece.start == 0 and line.line == 1 and line.offset:
            row["notes"].append("bom")
        if line.offset + line.length == size:
            row["notes"].append("no_final_newline")

        row["notes"] = " ".join(row["notes"])
        for name, values in rows.columns.items():
            values.append(row.get(name))
    return rows


def _row(line: RawLine, piece: Piece, words: Counter[str]) -> dict[str, Any]:
    """Return the facts of a line; ``fault`` is there only where it has one."""
    row: dict[str, Any] = {
        "line": line.line,
        "offset": line.offset,
        "length": line.length,
        "notes": [],
    }
    if line.data is None:
        return row | {"fault": FaultReason.LINE_TOO_LONG.value}

    pair = parse_line(line.data, piece.columns)
    if isinstance(pair, FaultReason):
        return row | {"fault": pair.value}

    row["notes"].extend(line_notes(line.data, pair))
    if pair.image is not None:
        _add_image(row, pair.image, piece)
    if pair.caption is None:
        return row

    used, whole = words_of(pair.caption), caption_hash(pair.caption)
    if has_markup(pair.caption):
        row["notes"].append(HTML)
    # The vocabulary is that of accepted lines.
    if "fault" not in row:
        words.update(used)
    return row | {
        "caption_chars": len(pair.caption),
        "caption_words": len(used),
        "caption_script": _script(pair.caption),
        "caption_hash": whole,
        "caption_key": content_hash(same_words(used).encode()) if used else whole,
    }


def _add_image(row: dict[str, Any], image: bytes, piece: Piece) -> None:
    row |= {"image_bytes": len(image), "image_hash": content_hash(image)}

    # A fault of the image is the line's; its size and hash stay known.
    preview = preview_image(image, piece.max_pixels, piece.min_image_side)
    if isinstance(preview, FaultReason):
        row["fault"] = preview.value
        return

    facts, signature = preview.facts, image_signature(preview.pixels)
    row["notes"].extend(facts.notes)
    row |= {
        "image_format": facts.format,
        "width": facts.width,
        "height": facts.height,
        "mode": facts.mode,
        "image_phash": signature.phash,
        "image_thumb": signature.thumb,
    }


def caption_hash(caption: str) -> int:
    """Return the hash of a caption, the same however its accents are composed."""
    return content_hash(unicodedata.normalize("NFC", caption).encode())


def content_hash(data: bytes) -> int:
    """Return the first 64 bits of the SHA-256.

    Of 2,000,000 different values two share a hash once in 9,000,000 sets.
    """
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _script(caption: str) -> str:
    """Return the script of most letters of a caption (latin, cjk, cyrillic, …), or none."""
    if caption.isascii():
        return "latin" if any(map(str.isalpha, caption)) else "none"
    counts = Counter(_script_of(letter) for letter in caption if letter.isalpha())
    return min(counts, key=lambda script: (-counts[script], script)) if counts else "none"


@lru_cache(maxsize=10_000)
def _script_of(letter: str) -> str:
    return unicodedata.name(letter, "unnamed").split()[0].lower()
