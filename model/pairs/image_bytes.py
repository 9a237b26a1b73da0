"""The bytes of image files: what they begin with, where they end, what in them no pixel needs.

Nothing is decoded here and nothing raises; each question costs one pass over the bytes at most.
"""

import struct
import zlib

from model.errors import FaultReason

# What a page that answers in place of an image writes before one.
LEADING_BYTES = b"\r\n\t \xef\xbb\xbf"
AVIF_BRANDS, ISO_CONTAINERS = (b"avif", b"avis"), (b"mif1", b"msf1")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", *ISO_CONTAINERS)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Side chunks that pixels depend on; all others may go.
PNG_KEPT = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf"})


def has_signature(data: bytes) -> bool:
    """Whether the first bytes are those of a known format.

    If so, what follows is damaged rather than foreign.
    """
    bmp_header_bytes = int.from_bytes(data[14:18], "little")
    return (
        data.startswith((b"\xff\xd8\xff", PNG_SIGNATURE, b"GIF87a", b"GIF89a"))
        or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")
        # Two letters are no proof of a BMP; the size of its second header is.
        or (data.startswith(b"BM") and bmp_header_bytes in (12, 40, 52, 56, 64, 108, 124))
        or is_avif(data)
    )


def is_avif(data: bytes) -> bool:
    """Whether an ISO file is AVIF, by its brand or those that it is compatible with."""
    brand, others = data[8:12], data[16 : int.from_bytes(data[:4])]
    return data[4:8] == b"ftyp" and (
        brand in AVIF_BRANDS or (brand in ISO_CONTAINERS and b"avif" in others)
    )


def foreign_kind(data: bytes) -> FaultReason:
    """Name the format of bytes that are no image of a known one."""
    head = data[:1000].lstrip(LEADING_BYTES)
    word = head.lower()
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        return FaultReason.HEIC_IMAGE
    if data.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return FaultReason.JPEG2000_IMAGE
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return FaultReason.TIFF_IMAGE

    # Pages may begin with a comment or an XML declaration, drawings too.
    if word.startswith(b"<") and b"<svg" in word:
        return FaultReason.SVG_DRAWING
    if word.startswith(b"<") and (b"<html" in word or b"<!doctype html" in word):
        return FaultReason.HTML_PAGE
    if head.startswith((b"{", b"[")) and data.rstrip().endswith((b"}", b"]")):
        return FaultReason.JSON_TEXT
    return FaultReason.NOT_AN_IMAGE


def trimmed(data: bytes) -> bytes:
    """Return an image without the white space and the BOM that stand before it."""
    if data[:1] not in (b"\n", b"\r", b"\t", b" ", b"\xef"):
        return data
    image = data.lstrip(LEADING_BYTES)
    return image if has_signature(image) else data


def without_side_chunks(data: bytes) -> bytes | None:
    """Return a PNG without the chunks that no pixel depends on, None where there is none to drop.

    Pillow refuses a PNG for much text, and for one wrong checksum of a side chunk.
    """
    if not data.startswith(PNG_SIGNATURE):
        return None
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind, chunk = data[at + 4 : at + 8], data[at:end]
        if kind in PNG_KEPT:
            kept.append(chunk[:-4] + struct.pack(">I", zlib.crc32(chunk[4:-4])))
        elif not kind[:1].islower():
            kept.append(chunk)
        at = end
    plain = b"".join([*kept, data[at:]])
    return None if plain == data else plain


def is_cut(data: bytes, container: str) -> bool:
    """Whether the format's own end mark is missing.

    Decoders forgive that as soon as they have their pixels.
    """
    return (
        (container == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"))
        or (container == "PNG" and b"IEND\xaeB`\x82" not in data)
        or (container == "GIF" and b"\x00;" not in data)
        or (container == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data))
        or (container == "AVIF" and _end_of_boxes(data) > len(data))
    )


def avif_side(data: bytes) -> int:
    """Return the longest side that an AVIF claims (``ispe``), 0 where it does not say."""
    at = data.find(b"ispe", 0, 10_000)
    return max(struct.unpack_from(">II", data.ljust(at + 16), at + 8)) if at >= 0 else 0


def _end_of_boxes(data: bytes) -> int:
    """Return where the last box of an ISO file ends by its own length."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if length == 1:  # the length has 64 bits and stands behind the box's name
            length = int.from_bytes(data[at + 8 : at + 16])
        if length < 8:  # 0 is a box up to the end, what else is so short is none
            return len(data)
        at += length
    return at
