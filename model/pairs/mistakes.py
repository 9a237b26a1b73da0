"""The one mistake behind a whole TSV that cannot be used, as a sentence with what to do about it.

Who writes a TSV by a script makes one mistake a line: columns swapped, ``str()`` of bytes, an index
column, another encoding. Each line has its own fault then, and none of them says what happened. The
first lines are looked at, one megabyte at most; nothing is decoded.
"""

import re
from collections import Counter
from pathlib import Path

from model.errors import FaultReason, typed
from model.pairs.image_bytes import has_signature
from model.pairs.tsv import BOM, decode_base64, likely_encoding

SAMPLE_BYTES = 1_000_000
HEAD_LINES = 200
IMAGE_START = re.compile(rb"(?:data:image/[^,]*,)?([\w+/=-]{16,64})")
MAX_FILE_NAME = 2_000
NAMED_FILE = re.compile(rb"https?://\S+|[^<>]*\.(?:jpe?g|png|webp|gif|bmp|avif)", re.I)
HEADER_WORDS = frozenset(
    b"id caption title text description label image img picture base64 imgbase64 image_base64 url "
    b"path filename file_name product_id item_id".split()
)

SWAPPED = (
    "its lines are base64 first and caption second; swap the columns, as `{imports} "
    "easynlp {name} --out FOLDER` does"
)
BYTES_TEXT = (
    "its images are Python's str() of bytes, b'…'; write base64.b64encode(image).decode() instead"
)
QUOTED = "its images stand in quotation marks; write the columns without any"
FILE_NAMES = (
    "it names image files where their base64 should be; `{imports} csv {name} --out "
    "FOLDER` reads the files, from a table with a header"
)
INDEX = (
    "a column of numbers stands before caption and base64, as an index or ids; leave it out "
    "(pandas: index=False), or `{imports} easynlp {name} --out FOLDER` takes it as ids"
)
MORE_COLUMNS = (
    "its lines have more columns than caption and base64; `{imports} easynlp {name} "
    "--out FOLDER` with the option columns takes the right ones"
)
SPELLED_TAB = "its tabs are written as backslash and t; write a real tab between the columns"
COMMAS = (
    "its columns are separated by commas or semicolons; `{imports} csv {name} --out "
    "FOLDER` reads such a table"
)
HEADER = "its first line is a header ({header}); take it out (tail -n +2 {name} > without.tsv)"
# Where most lines have one of these, the reason is the cause.
TELLING_REASONS = {
    FaultReason.HTML_PAGE: "its images are web pages, so the download of them failed; fetch them "
    "again",
    FaultReason.JSON_TEXT: "its images are JSON, as a server answers in an error; fetch them again",
    FaultReason.SVG_DRAWING: "its images are SVG drawings; draw them as PNG first",
    FaultReason.TIFF_IMAGE: "its images are TIFF; convert them to JPEG or PNG first",
    FaultReason.HEIC_IMAGE: "its images are HEIC; convert them to JPEG first",
    FaultReason.JPEG2000_IMAGE: "its images are JPEG 2000; convert them to JPEG or PNG first",
}


def likely_mistake(tsv: Path, faults: dict[str, int]) -> str | None:
    """Name what most likely went wrong with a TSV of pairs, and what to do; None if unknown.

    ``faults`` are its faulty lines by their reasons.
    """
    if not faults:
        return None
    main = max(faults, key=lambda reason: faults[reason])
    if main in TELLING_REASONS and faults[main] > sum(faults.values()) / 2:
        return TELLING_REASONS[FaultReason(main)]
    if main == FaultReason.BAD_UTF8 and (code := likely_encoding(tsv)):
        # iconv knows the first word.
        command = f"iconv -f {code.split()[0]} -t UTF-8 {tsv.name} > utf8.tsv"
        return f"it is likely {code}: convert it with `{command}`"

    with tsv.open("rb") as file:
        head = file.read(SAMPLE_BYTES).removeprefix(BOM)
    # The last line may be cut.
    lines = (head.split(b"\n")[:-1] or [head])[:HEAD_LINES]
    mistakes = Counter(mistake for line in lines if (mistake := _mistake_of(line)))
    mistake, count = max(mistakes.items(), key=lambda item: item[1], default=(None, 0))
    if mistake is not None and count > len(lines) / 2:
        return mistake.format(name=tsv.name, imports=typed("import"))

    cells = _cells(lines[0])
    if sum(faults.values()) == 1 and {cell.strip().lower() for cell in cells} <= HEADER_WORDS:
        header = b", ".join(cells).decode("utf-8", "replace")
        return HEADER.format(header=header, name=tsv.name)
    return None


def image_column(line: bytes) -> int | None:
    """Return the place of the cell that begins as the base64 of an image, None if there is none."""
    cells = _cells(line)
    return next((place for place, cell in enumerate(cells) if _is_image(cell)), None)


def _mistake_of(line: bytes) -> str | None:
    cells, place = _cells(line), image_column(line)
    if len(cells) == 1:
        if b"\\t" in line:
            return SPELLED_TAB
        return COMMAS if b"," in line or b";" in line else None
    if len(cells) > 2:
        is_index = place == len(cells) - 1 == 2 and cells[0].strip().isdigit()
        return INDEX if is_index else MORE_COLUMNS if place is not None else None

    second = cells[1]
    if place == 0:
        return SWAPPED
    if place == 1:
        return None
    if second.startswith((b"b'", b'b"')):
        return BYTES_TEXT
    if second[:1] in (b'"', b"'") and _is_image(second.strip(b"\"'")):
        return QUOTED
    name = second.strip()
    return FILE_NAMES if len(name) < MAX_FILE_NAME and NAMED_FILE.fullmatch(name) else None


def _cells(line: bytes) -> list[bytes]:
    return line.removesuffix(b"\r").split(b"\t")


def _is_image(cell: bytes) -> bool:
    start = IMAGE_START.match(cell)
    image = decode_base64(start[1][: len(start[1]) // 4 * 4]) if start else None
    return image is not None and has_signature(image)
