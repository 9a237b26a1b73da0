"""Lines whose one verdict is known, and the images that they are made of.

Every byte is made here, none is pasted.
"""

import base64
import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.errors import FaultReason


def picture(height: int = 40, width: int = 32, seed: int = 0) -> Image.Image:
    """Draw smooth colours with a few hard edges: what resizing and JPEG treat differently."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    phase = rng.uniform(0, 6, size=3)
    waves = [127 + 120 * np.sin(x / (5 + c) + y / (9 - c) + phase[c]) for c in range(3)]
    pixels = np.stack(waves, axis=-1)
    pixels[height // 4 : height // 2, width // 3 : width // 2] = rng.uniform(0, 255, size=3)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, container: str = "JPEG", **options: Any) -> bytes:
    """Return the encoded bytes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


def jpeg(height: int = 40, width: int = 32, seed: int = 0) -> bytes:
    """Return a plain baseline JPEG."""
    return encoded(picture(height, width, seed), quality=90)


def oriented_jpeg(orientation: int, image: Image.Image | None = None) -> bytes:
    """Return a JPEG whose EXIF block asks to be turned."""
    return encoded(image or picture(), quality=95, exif=oriented_exif(orientation))


def oriented_exif(orientation: int) -> Image.Exif:
    """Return an EXIF block that asks for an image to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def jpeg_claiming(width: int, height: int) -> bytes:
    """Return a small JPEG whose header promises another size."""
    data = jpeg()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def png_claiming(width: int, height: int) -> bytes:
    """Return a small PNG whose header, checksum included, promises another size."""
    data = encoded(picture(), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def gif_claiming(width: int, height: int) -> bytes:
    """Return a small GIF whose logical screen is of another size."""
    data = encoded(picture(), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def webp_claiming(width: int, height: int) -> bytes:
    """Return a small lossless WebP whose header promises another size, in two fields of 14 bits."""
    data = encoded(picture(), "WEBP", lossless=True)
    flags = int.from_bytes(data[21:25], "little") >> 28 << 28
    return data[:21] + (flags | (height - 1) << 14 | (width - 1)).to_bytes(4, "little") + data[25:]


def avif_claiming(width: int, height: int) -> bytes:
    """Return a small AVIF whose property box promises another size."""
    data = encoded(picture(), "AVIF")
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def iso_file(brand: bytes, *others: bytes) -> bytes:
    """Return the head of an ISO file of that brand, compatible with others, and an empty body."""
    kind = b"ftyp" + brand + bytes(4) + b"".join((brand, *others))
    return struct.pack(">I", len(kind) + 4) + kind + struct.pack(">I", 8) + b"mdat"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_16_bits(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Return a PNG of 16-bit RGB values [H, W, 3], which Pillow reads but does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def png_of_much_text(kind: bytes, unpacked_bytes: int = 20_000_000) -> bytes:
    """Return a small PNG that unpacks to a huge text or colour profile."""
    data, head = encoded(picture(), "PNG"), b"k\0\1\0\0\0" if kind == b"iTXt" else b"k\0\0"
    chunk = png_chunk(kind, head + zlib.compress(bytes(unpacked_bytes)))
    return data[:33] + chunk + data[33:]


def png_with_wrong_sum(kind: bytes, body: bytes) -> bytes:
    """Return a PNG with a side chunk whose checksum is wrong."""
    data, chunk = encoded(picture(), "PNG"), png_chunk(kind, body)
    return data[:33] + chunk[:-1] + bytes([chunk[-1] ^ 1]) + data[33:]


def png_of_late_text() -> bytes:
    """Return a PNG with 2 MB of compressed text behind its pixels."""
    data = encoded(picture(), "PNG")
    chunk = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000)))
    return data[:-12] + chunk + data[-12:]


def gif_of_frames(count: int) -> bytes:
    """Return a GIF of that many frames, each but the first one pixel large."""
    data = encoded(picture(), "GIF")
    return data[:-1] + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0" * (count - 1) + data[-1:]


def without_segment(data: bytes, marker: bytes) -> bytes:
    """Return a JPEG without its first segment of that marker."""
    at = data.index(marker)
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def damaged_jpeg() -> bytes:
    """Return a JPEG that lacks some bytes inside: decodable, but not what it was."""
    data = jpeg(200, 200)
    return data[: len(data) // 2] + data[len(data) // 2 + 100 :]


@dataclass(frozen=True)
class Golden:
    """A line without its newline, why it is refused (None: accepted), and the notes it gets."""

    name: str
    raw: bytes
    fault: FaultReason | None = None
    notes: frozenset[str] = frozenset()


@cache
def golden_lines() -> tuple[Golden, ...]:
    """Return every kind of line that the table of input faults names, each with its verdict."""
    return (*_faulty_texts(), *_unusual_texts(), *_faulty_images(), *_unusual_images())


def _image_line(image: bytes, caption: bytes = b"red dress") -> bytes:
    return caption + b"\t" + base64.b64encode(image)


def _faulty_texts() -> list[Golden]:
    good = base64.b64encode(jpeg())
    mixed = base64.b64encode(b"\xfb\xff\xfe" * 8)

    table = [
        ("no tab", b"red dress", FaultReason.NO_TAB),
        ("empty line", b"", FaultReason.NO_TAB),
        ("extra tab", b"red\tdress\t" + good, FaultReason.EXTRA_TAB),
        ("empty caption", b"\t" + good, FaultReason.EMPTY_CAPTION),
        ("white space caption", " \u3000 \t".encode() + good, FaultReason.EMPTY_CAPTION),
        ("nul in caption", b"red\x00dress\t" + good, FaultReason.CONTROL_BYTE),
        ("escape in caption", b"red\x1bdress\t" + good, FaultReason.CONTROL_BYTE),
        ("cr inside", b"red\rdress\t" + good, FaultReason.CONTROL_BYTE),
        ("utf-16 caption", "robe".encode("utf-16-le") + b"\t" + good, FaultReason.CONTROL_BYTE),
        ("latin-1", "robe d'été\t".encode("latin-1") + good, FaultReason.BAD_UTF8),
        ("cut utf-8", "robe été".encode()[:-1] + b"\t" + good, FaultReason.BAD_UTF8),
    ]

    bad_base64 = {
        "base64 with other characters": good[:9] + b"!" + good[10:],
        "base64 of impossible length": good[:-7],
        "base64 with a space": good[:8] + b" " + good[8:],
        "base64 with two crs": good + b"\r\r",
        "too much padding": base64.b64encode(jpeg()[:300]) + b"=",
        "mixed alphabets": mixed[:8] + b"-_-_" + mixed[12:],
    }
    for name, text in bad_base64.items():
        table.append((name, b"red dress\t" + text, FaultReason.BAD_BASE64))
    return [Golden(name, raw, fault) for name, raw, fault in table]


def _unusual_texts() -> list[Golden]:
    good = base64.b64encode(jpeg())
    texts = [base64.b64encode(jpeg(seed=seed)) for seed in range(99)]
    padded = next(text for text in texts if text.endswith(b"="))
    both = next(text for text in texts if b"+" in text and b"/" in text)

    images = {
        "crlf": ("crlf", good + b"\r"),
        "missing padding": ("missing_padding", padded.rstrip(b"=")),
        "url-safe base64": ("url_safe_base64", both.translate(bytes.maketrans(b"+/", b"-_"))),
        "data prefix": ("data_prefix", b"data:image/jpeg;base64," + good),
    }

    captions = {
        "line separator U+2028": ("red\u2028dress", "line_separator"),
        "next line U+0085": ("red\u0085dress", "line_separator"),
        "vertical tab": ("red\x0bdress", "line_separator"),
        "quoted": ('"red dress"', "quoted"),
        "one quote": ('red dress 12"', "quoted"),
        "NA": ("NA", "null_word"),
        "null": ("null", "null_word"),
        "a number": ("123", "number"),
        "a number with an exponent": ("1e5", "number"),
        "a formula": ("=cmd()", "formula"),
    }

    return [
        Golden("plain", b"red dress\t" + good),
        *(
            Golden(name, b"red dress\t" + text, None, frozenset({note}))
            for name, (note, text) in images.items()
        ),
        *(
            Golden(name, caption.encode() + b"\t" + good, None, frozenset({note}))
            for name, (caption, note) in captions.items()
        ),
    ]


def _faulty_images() -> list[Golden]:
    png, gif, webp = (encoded(picture(), container) for container in ("PNG", "GIF", "WEBP"))

    table = {
        FaultReason.NOT_AN_IMAGE: {
            "empty image": b"",
            "text": b"BMW drivers also bought a red dress",
            "xml": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
            "ppm": encoded(picture(), "PPM"),
        },
        FaultReason.HEIC_IMAGE: {
            "heic": iso_file(b"heic", b"mif1"),
            "heic of the general brand": iso_file(b"mif1", b"heic"),
        },
        FaultReason.JPEG2000_IMAGE: {
            "jpeg 2000": encoded(picture(), "JPEG2000"),
            "jpeg 2000 without its container": encoded(picture(), "JPEG2000", no_jp2=True),
        },
        FaultReason.TIFF_IMAGE: {"tiff": encoded(picture(), "TIFF")},
        FaultReason.SVG_DRAWING: {
            "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
            "svg behind a declaration": b'\n<?xml version="1.0"?><!-- drawn --><svg/>',
        },
        FaultReason.HTML_PAGE: {
            "html": b"<!DOCTYPE html><html><body>404</body></html>",
            "html behind a blank line": b"\r\n<HTML><body>404</body></HTML>",
        },
        FaultReason.JSON_TEXT: {"json": b'{"error": "not found"}\n'},
        FaultReason.TRUNCATED_IMAGE: {
            "jpeg two bytes short": jpeg()[:-2],
            "jpeg half": jpeg()[: len(jpeg()) // 2],
            "jpeg header only": jpeg()[:30],
            "progressive jpeg half": encoded(picture(), progressive=True)[:700],
            "png two bytes short": png[:-2],
            "png half": png[: len(png) // 2],
            "gif two bytes short": gif[:-2],
            "webp two bytes short": webp[:-2],
            "bmp two bytes short": encoded(picture(), "BMP")[:-2],
            "avif two bytes short": encoded(picture(), "AVIF")[:-2],
            "avif half": encoded(picture(), "AVIF")[:200],
            "jpeg cut after a newline": b"\n" + jpeg()[:-2],
        },
        FaultReason.TOO_MANY_PIXELS: {
            "jpeg bomb": jpeg_claiming(60_000, 60_000),
            "jpeg of a long side": jpeg_claiming(16_385, 20),
            "png of a long side": png_claiming(20, 16_385),
            "png bomb": png_claiming(100_000, 100_000),
            "png over the limit": png_claiming(6_000, 6_000),
            "gif bomb": gif_claiming(65_535, 65_535),
            "webp bomb": webp_claiming(16_000, 16_000),
            "avif bomb": avif_claiming(60_000, 60_000),
            "avif over the limit": avif_claiming(6_000, 6_000),
        },
        FaultReason.TOO_SMALL: {
            "one pixel side": encoded(picture(1, 40), "PNG"),
            "jpeg of 15 pixels": jpeg(15, 40),
            "gif of one row": encoded(picture(1, 40), "GIF"),
            "webp of one column": encoded(picture(40, 1), "WEBP"),
        },
    }

    return [
        Golden(name, _image_line(image), fault)
        for fault, images in table.items()
        for name, image in images.items()
    ]


def _unusual_images() -> list[Golden]:
    rgb = picture()
    half_clear = rgb.convert("RGBA")
    half_clear.putalpha(100)
    frames = [picture(seed=seed) for seed in (1, 2)]
    deep = Image.fromarray((np.arange(40 * 32, dtype=np.uint16) * 51).reshape(40, 32))
    deep_rgb = np.arange(40 * 32 * 3, dtype=np.uint16).reshape(40, 32, 3) * 17

    cmyk = encoded(rgb.convert("CMYK"))
    adobe_ycck = bytearray(cmyk)
    adobe_ycck[cmyk.index(b"Adobe") + 11] = 2

    malformed_exif = jpeg()[:20] + b"\xff\xe1\x00\x10Exif\0\0II\x12\x01garb" + jpeg()[20:]
    flat = Image.fromarray(np.vstack([np.asarray(rgb), np.full((40, 32, 3), 128, dtype=np.uint8)]))

    table = {
        "png": (encoded(rgb, "PNG"), ""),
        "bmp": (encoded(rgb, "BMP"), ""),
        "avif": (encoded(rgb, "AVIF"), ""),
        "alpha avif": (encoded(half_clear, "AVIF"), "alpha"),
        "grey avif": (encoded(rgb.convert("L"), "AVIF"), "grey"),
        "turned avif": (encoded(rgb, "AVIF", exif=oriented_exif(6)), "rotated"),
        "avif of two frames": (
            encoded(rgb, "AVIF", save_all=True, append_images=frames),
            "animated",
        ),
        "jpeg after a newline": (b"\r\n" + jpeg(), ""),
        "png after a BOM": (b"\xef\xbb\xbf" + encoded(rgb, "PNG"), ""),
        "png of 20 MB of text": (png_of_much_text(b"zTXt"), "side_chunk"),
        "png of 20 MB of international text": (png_of_much_text(b"iTXt"), "side_chunk"),
        "png of a colour profile of 20 MB": (png_of_much_text(b"iCCP"), "side_chunk"),
        "png of text behind its pixels": (png_of_late_text(), ""),
        "png of a wrong checksum aside": (png_with_wrong_sum(b"tEXt", b"k\0v"), "side_chunk"),
        "png of a wrong checksum of its clear colour": (
            png_with_wrong_sum(b"tRNS", bytes(6)),
            "alpha side_chunk",
        ),
        "webp": (encoded(rgb, "WEBP"), ""),
        "progressive jpeg": (encoded(rgb, progressive=True), ""),
        "jpeg with bytes behind it": (jpeg() + b"\0\0padding", ""),
        "cmyk jpeg, inverted as Adobe does": (cmyk, "cmyk"),
        "cmyk jpeg": (without_segment(cmyk, b"\xff\xee"), "cmyk"),
        "ycck jpeg": (bytes(adobe_ycck), "cmyk"),
        "grey jpeg": (encoded(rgb.convert("L")), "grey"),
        "palette png": (encoded(rgb.convert("P"), "PNG"), "palette"),
        "gif": (encoded(rgb, "GIF"), "palette"),
        "one bit png": (encoded(rgb.convert("1"), "PNG"), "one_bit"),
        "sixteen bit png": (encoded(deep, "PNG"), "grey sixteen_bit"),
        "sixteen bit colour png": (png_of_16_bits(deep_rgb), "sixteen_bit"),
        "alpha png": (encoded(rgb.convert("RGBA"), "PNG"), "alpha"),
        "grey alpha png": (encoded(rgb.convert("LA"), "PNG"), "grey alpha"),
        "png with a transparent colour": (encoded(rgb, "PNG", transparency=(1, 2, 3)), "alpha"),
        "palette png with a transparent colour": (
            encoded(rgb.convert("P"), "PNG", transparency=0),
            "palette alpha",
        ),
        "alpha webp": (encoded(half_clear, "WEBP", lossless=True), "alpha"),
        "animated gif": (
            encoded(rgb, "GIF", save_all=True, append_images=frames),
            "palette animated",
        ),
        "gif of 10,000 frames": (gif_of_frames(10_000), "palette animated"),
        "png of two frames": (encoded(rgb, "PNG", save_all=True, append_images=frames), "animated"),
        "webp of two frames": (
            encoded(rgb, "WEBP", save_all=True, append_images=frames),
            "animated",
        ),
        "upright jpeg": (oriented_jpeg(1), ""),
        **{f"jpeg of orientation {turn}": (oriented_jpeg(turn), "rotated") for turn in range(2, 9)},
        "jpeg of orientation 9": (oriented_jpeg(9), "bad_exif"),
        "jpeg with malformed exif": (malformed_exif, "bad_exif"),
        "jpeg damaged inside": (damaged_jpeg(), "damaged"),
        "flat below": (encoded(flat, "JPEG"), "flat_below"),
    }

    return [
        Golden(name, _image_line(image), None, frozenset(notes.split()))
        for name, (image, notes) in table.items()
    ]
