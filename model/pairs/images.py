"""What an encoded image is: its header checked, its facts, its RGB pixels; the only decoder.

What a header promises is checked before a pixel is decoded, so a small file that claims a huge
image costs nothing. Plain RGB JPEGs (nearly all of a shop's) take libjpeg-turbo through simplejpeg,
about 0.19 ms for 224 pixels square on one core; whatever needs care (orientation, alpha, palettes,
CMYK, 16 bit, animation) takes Pillow, about 0.5 ms (DECISIONS 9). Nothing here raises on bad bytes:
a fault is a value. Torch is not imported, so that a profiling process stays small.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import AvifImagePlugin, ExifTags, Image

from model.errors import FaultReason
from model.pairs.arrays import Pixels
from model.pairs.image_bytes import (
    avif_side,
    foreign_kind,
    has_signature,
    is_avif,
    is_cut,
    trimmed,
    without_side_chunks,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
MAX_SIDE = 16_384
MAX_PIXELS = 25_000_000
FLAT_SHARE = 0.3
PREVIEW_SIDE = 24
# Real progressive files have about ten scans; each further one costs a pass over all pixels.
MAX_SCANS = 100
STRIP_PIXELS = 1_000_000
# Baseline, extended and progressive.
FRAME_HEADERS = (0xC0, 0xC1, 0xC2)
# Tables, restart intervals, comments and application data.
PASSED_SEGMENTS = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
START_OF_SCAN, EXIF_OR_XMP, ADOBE = 0xDA, 0xE1, 0xEE
ORIENTATION_TAGS = (b"\x01\x12", b"\x12\x01", b"tiff:Orientation")

# Several processes decode at once, each an image.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# Whatever Pillow's parsers let through on hostile bytes, listed so that a bug of ours outside them
# still surfaces.
PILLOW_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
MODE_NOTES = {
    "CMYK": "cmyk",
    "YCCK": "cmyk",
    "1": "one_bit",
    "P": "palette",
    "L": "grey",
    "LA": "grey",
    "I": "grey",
    "I;16": "grey",
}
# Values 2 to 8 of the EXIF tag, https://www.cipa.jp/std/documents/e/DC-X008-Translation-2019-E.pdf,
# 4.6.4 A.
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the header holds; width and height in pixels as stored, before orientation."""

    format: str
    width: int
    height: int
    mode: str
    notes: tuple[str, ...]


def inspect_image(
    data: bytes, max_pixels: int = MAX_PIXELS, min_side: int = 1
) -> ImageFacts | FaultReason:
    """Validate encoded bytes by their header alone, without decoding a pixel.

    Checked in this order: NOT_AN_IMAGE or what it is instead, TRUNCATED_IMAGE (the header itself is
    cut), TOO_MANY_PIXELS (more than ``max_pixels``, or a side over 16,384), TOO_SMALL (a side under
    ``min_side``). What a web page left before an image (white space, a BOM) is passed over.
    """
    data = trimmed(data)
    return _facts(data, _plain_jpeg_size(data), max_pixels, min_side)


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels | FaultReason:
    """Decode to a uint8 array [H, W, 3], or return why that is impossible.

    EXIF orientation is applied, 16 bit scaled by 1/257, alpha composited on white, the first frame
    of an animation taken. Whatever is cut off (2 bytes are enough) is TRUNCATED_IMAGE; damage
    inside is decoded as far as it goes.
    """
    data = trimmed(data)
    plain_size = _plain_jpeg_size(data)
    facts = _facts(data, plain_size, max_pixels, min_side=1)
    if isinstance(facts, FaultReason):
        return facts

    # Pillow has the last word on what the fast decoder refuses, so that both roads give the same
    # reason.
    pixels = None if plain_size is None else _decode_plain_jpeg(data)
    return _decode_with_pillow(data, facts.format) if pixels is None else pixels


class Preview(NamedTuple):
    """What a profile keeps of an image: facts, and pixels [H, W, 3], fewer where that is faster."""

    facts: ImageFacts
    pixels: Pixels


def preview_image(
    data: bytes, max_pixels: int = MAX_PIXELS, min_side: int = 1, preview_side: int = PREVIEW_SIDE
) -> Preview | FaultReason:
    """Validate an image as `inspect_image` and `decode_rgb` do, in a third of the latter's time.

    All data is decoded, but to an image whose sides may be 2 to 8 times smaller (``preview_side``
    pixels at least). Its notes hold also what only decoding can find: ``damaged`` (the decoder met
    corrupt data and went on), ``flat_below``.
    """
    data = trimmed(data)
    plain_size = _plain_jpeg_size(data)
    facts = _facts(data, plain_size, max_pixels, min_side)
    if isinstance(facts, FaultReason):
        return facts

    side, notes = min(facts.width, facts.height, preview_side), list(facts.notes)
    small = None if plain_size is None else _decode_plain_jpeg(data, side)
    if plain_size is not None and small is None:
        notes.append("damaged")

    # As in `decode_rgb`, Pillow has the last word on what the fast decoder refuses.
    pixels = _decode_with_pillow(data, facts.format, side) if small is None else small
    if isinstance(pixels, FaultReason):
        return pixels
    if _is_flat_below(pixels):
        notes.append("flat_below")
    return Preview(replace(facts, notes=tuple(notes)), pixels)


def _is_flat_below(pixels: Pixels) -> bool:
    """Whether over 30 % of the rows of an image, from the last one up, are one colour.

    What a decoder leaves behind damage looks so, and so does a plain background: worth a note,
    never a fault.
    """
    rows = pixels[math.floor(len(pixels) * (1 - FLAT_SHARE)) :].tobytes()
    return rows == rows[:3] * (len(rows) // 3)


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a complete 8-bit RGB JPEG that needs no care, else None.

    Walks the markers up to the first scan (about 5 µs), because opening a file in Pillow costs a
    tenth of a decode.
    """
    if not (data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9")):
        return None

    size, at = None, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == START_OF_SCAN:
            return size

        # The first frame header holds the size; all else is passed over. Rare coding, an
        # orientation and another colour space are left to Pillow.
        body = data[at + 4 : end]
        if marker in FRAME_HEADERS and size is None and end - at >= 10:
            precision, height, width, components = struct.unpack_from(
                ">BHHB", data.ljust(at + 10), at + 4
            )
            if (precision, components) != (8, 3) or not height * width:
                return None
            size = (width, height)
        elif (
            marker not in PASSED_SEGMENTS
            or (marker == EXIF_OR_XMP and any(tag in body for tag in ORIENTATION_TAGS))
            or (marker == ADOBE and body[:5] == b"Adobe" and body[11:12] != b"\x01")
        ):
            return None
        at = end
    return None


def _facts(
    data: bytes, plain_size: tuple[int, int] | None, max_pixels: int, min_side: int
) -> ImageFacts | FaultReason:
    """Return the facts of an image, or the fault of its header or of a size out of bounds."""
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        return FaultReason.TOO_MANY_PIXELS

    facts = ImageFacts("JPEG", *plain_size, "RGB", ()) if plain_size else _inspect_with_pillow(data)
    if isinstance(facts, FaultReason):
        return facts
    if facts.width * facts.height > max_pixels or max(facts.width, facts.height) > MAX_SIDE:
        return FaultReason.TOO_MANY_PIXELS
    return FaultReason.TOO_SMALL if min(facts.width, facts.height) < min_side else facts


def _decode_plain_jpeg(data: bytes, min_side: int = 0) -> Pixels | None:
    """Decode with libjpeg-turbo, or return None on corrupt data.

    The scale is the smallest whose sides are ``min_side`` at least.
    """
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=min_side, min_width=min_side
        )
    except ValueError:
        return None
    return pixels


def _open(data: bytes) -> Image.Image:
    # Our notes take the place of Pillow's warnings, which go for good, since threads that decode
    # share the filters.
    warnings.filterwarnings("ignore", module="PIL")
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _inspect_with_pillow(data: bytes) -> ImageFacts | FaultReason:
    try:
        with _open(data) as image:
            container = "JPEG" if image.format == "MPO" else str(image.format)
            notes = tuple(_notes(image, container, data))
            return ImageFacts(container, *image.size, image.mode, notes)
    except Image.DecompressionBombError:
        return FaultReason.TOO_MANY_PIXELS
    except PILLOW_ERRORS:
        plain = without_side_chunks(data)
        facts = None if plain is None else _inspect_with_pillow(plain)
        if isinstance(facts, ImageFacts):
            return replace(facts, notes=(*facts.notes, "side_chunk"))
        if is_avif(data) and avif_side(data) > MAX_SIDE:
            return FaultReason.TOO_MANY_PIXELS
        return facts or (FaultReason.TRUNCATED_IMAGE if has_signature(data) else foreign_kind(data))


def _decode_with_pillow(data: bytes, container: str, min_side: int = 0) -> Pixels | FaultReason:
    """Decode whatever Pillow can.

    With ``min_side`` the sides may be up to 8 times smaller, but are that at least.
    """
    if is_cut(data, container):
        return FaultReason.TRUNCATED_IMAGE
    try:
        with _open(data) as image:
            if min_side:
                image.draft(None, (min_side, min_side))
            image.load()
            orientation = ORIENTATIONS.get(_orientation(image) or 1)

            if min_side:
                small = _to_rgb(image)
                image = small.reduce(min(8, *(side // min_side for side in small.size)) or 1)
            return _to_array(image if orientation is None else image.transpose(orientation))
    except PILLOW_ERRORS:
        plain = without_side_chunks(data)
        if plain is None:
            return FaultReason.TRUNCATED_IMAGE
        return _decode_with_pillow(plain, container, min_side)


def _to_array(image: Image.Image) -> Pixels:
    """Convert by strips: the whole in one go would hold the pixels three times more on the way."""
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = STRIP_PIXELS // image.width + 1
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(_to_rgb(strip))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255; 257 maps 65,535 to 255.
        scaled = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")

    with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(with_alpha, mask=with_alpha)
    return white


def _orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation, 1 where none is given, None where the block is malformed."""
    try:
        # Opening a JPEG swallows what is wrong with its EXIF block; parsing it once more raises.
        Image.Exif().load(image.info.get("exif", b""))
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except PILLOW_ERRORS:
        return None
    return value if isinstance(value, int) and 1 <= value <= 8 else None


def _notes(image: Image.Image, container: str, data: bytes) -> Iterator[str]:
    """Yield what is converted on the way to RGB, without decoding a pixel."""
    if image.mode in MODE_NOTES:
        yield MODE_NOTES[image.mode]
    if image.mode.startswith("I;16") or (container == "PNG" and data[24:25] == b"\x10"):
        yield "sixteen_bit"
    if image.has_transparency_data:
        yield "alpha"
    with suppress(*PILLOW_ERRORS):
        if getattr(image, "is_animated", False):
            yield "animated"

    # Asking a PNG without an EXIF block before its pixels would decode it.
    if container != "PNG" or "exif" in image.info:
        orientation = _orientation(image)
        if orientation != 1:
            yield "bad_exif" if orientation is None else "rotated"
