"""Lines as a shop's feed damages them: real or drawn, changed at random by a seeded generator."""

import base64
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.golden import encoded, golden_lines, jpeg

SOURCES = 1500
REENCODED = 20
HEADER_BYTES = 700
SIDES = (0, 1, 15, 16, 300, 5_000, 16_384, 16_385, 65_535)
WORDS = [
    "", " ", "NA", "=cmd()", '"', "\u2028", "\u0085", "\x0b",
    "é", "裙", "\U0001f457", "\ufeff", "e\u0301", "\u202e",
]  # fmt: skip


class Source(NamedTuple):
    """A caption and its encoded image."""

    caption: bytes
    image: bytes


def read_sources(rng: Random) -> list[Source]:
    """Return some of the pairs below the folder that REAL_PAIRS names, in several encodings.

    Without that folder they are drawn.
    """
    folder = os.environ.get("REAL_PAIRS")
    sources = real_sources(Path(folder), rng) if folder else drawn_sources()
    chosen = rng.sample(sources, REENCODED)
    others = [
        Source(source.caption, image)
        for source in chosen
        for image in other_encodings(source.image)
    ]
    return sources + others * max(1, len(sources) // (3 * len(others)))


def real_sources(folder: Path, rng: Random) -> list[Source]:
    """Return some of the pairs in the TSV files below a folder."""
    lines = [
        line
        for tsv in sorted(folder.rglob("*.tsv"))
        for line in tsv.read_bytes().rstrip(b"\n").split(b"\n")
    ]
    fields = (line.split(b"\t") for line in rng.sample(lines, SOURCES))
    return [Source(caption, base64.b64decode(image)) for caption, image in fields]


def drawn_sources() -> list[Source]:
    """Return forty pairs."""
    return [Source(b"red dress %d" % seed, jpeg(120, 90, seed)) for seed in range(2 * REENCODED)]


def other_encodings(image: bytes) -> list[bytes]:
    """Return a picture in every encoding and mode that is accepted."""
    with Image.open(io.BytesIO(image)) as opened:
        rgb = opened.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6

    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    small = rgb.resize((40, 50))

    return [
        encoded(rgb, progressive=True),
        encoded(rgb, exif=exif),
        encoded(rgb.convert("CMYK")),
        encoded(rgb.convert("L")),
        encoded(rgb, restart_marker_rows=1),
        encoded(small, "PNG", exif=exif),
        encoded(small.convert("P"), "PNG", transparency=3),
        encoded(small.convert("RGBA"), "PNG"),
        encoded(deep, "PNG"),
        encoded(rgb, "WEBP"),
        encoded(small.convert("RGBA"), "WEBP", lossless=True),
        encoded(rgb, "GIF"),
        encoded(small, "GIF", save_all=True, append_images=[small.rotate(90)]),
        encoded(small, "PNG", save_all=True, append_images=[small.rotate(90)]),
        encoded(small, "BMP"),
        encoded(small, "AVIF", speed=10),
    ]


def line_of(source: Source) -> bytes:
    """Return the line of a pair, without its newline."""
    return source.caption + b"\t" + base64.b64encode(source.image)


# --- what happens to the bytes of an image ---


def flip_bits(data: bytes, rng: Random) -> bytes:
    """Flip 1 to 8 bits anywhere."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def edit_header(data: bytes, rng: Random) -> bytes:
    """Overwrite 1 to 4 bytes near the start."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4) if changed else 0):
        changed[rng.randrange(min(len(changed), HEADER_BYTES))] = rng.randrange(256)
    return bytes(changed)


def claim_size(data: bytes, rng: Random) -> bytes:
    """Write another height or width where a JPEG has its own."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + rng.choice((5, 7))
    side = rng.choice(SIDES) if rng.random() < 0.7 else rng.randrange(65_536)
    return data[:at] + side.to_bytes(2, "big") + data[at + 2 :]


def cut(data: bytes, rng: Random) -> bytes:
    """Cut the end off: a few bytes or many."""
    return (
        data[: -rng.randint(1, 4)] if rng.random() < 0.3 else data[: rng.randrange(len(data) + 1)]
    )


def insert_bytes(data: bytes, rng: Random) -> bytes:
    """Insert a few bytes somewhere."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randint(1, 20)) + data[at:]


def delete_bytes(data: bytes, rng: Random) -> bytes:
    """Delete a few bytes somewhere."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randint(1, 20) :]


def zero_middle(data: bytes, rng: Random) -> bytes:
    """Zero a stretch, as a hole in a file does."""
    at = rng.randrange(len(data) + 1)
    length = min(rng.randint(1, 2000), len(data) - at)
    return data[:at] + bytes(length) + data[at + length :]


IMAGE_MUTATIONS = (
    flip_bits,
    flip_bits,
    edit_header,
    edit_header,
    claim_size,
    cut,
    insert_bytes,
    delete_bytes,
    zero_middle,
)

# --- what happens to the bytes of a line ---


def insert_separator(line: bytes, rng: Random) -> bytes:
    """Insert a tab, a newline, a NUL or the like."""
    at = rng.randrange(len(line) + 1)
    return (
        line[:at]
        + rng.choice((b"\t", b"\n", b"\0", b"\r", b"\r\n", b" ", b"\x1b", b"\n\n", b'"', b"="))
        + line[at:]
    )


def swap_alphabet(line: bytes, rng: Random) -> bytes:
    """Spell the base64 in the other alphabet, all of it or a part."""
    at = 0 if rng.random() < 0.5 else rng.randrange(len(line) + 1)
    return line[:at] + line[at:].translate(bytes.maketrans(b"+/", b"-_"))


def change_spelling(line: bytes, rng: Random) -> bytes:
    """Drop the padding, add some, add a prefix, a CR or a BOM."""
    caption, _, image = line.partition(b"\t")
    prefixed = caption + b"\tdata:image/jpeg;base64," + image
    return rng.choice(
        (line.rstrip(b"="), line + b"=", prefixed, line + b"\r", b"\xef\xbb\xbf" + line, image)
    )


def change_caption(line: bytes, rng: Random) -> bytes:
    """Put words of other scripts, encodings and meanings into the caption."""
    word = rng.choice(WORDS)
    caption, tab, image = line.partition(b"\t")
    other = rng.choice(
        (word.encode(), word.encode("utf-16-le"), "é".encode("latin-1"), rng.randbytes(3))
    )
    return rng.choice((other, caption + other, other + caption)) + tab + image


LINE_MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_bits, cut, insert_bytes, delete_bytes,
    insert_separator, swap_alphabet, change_spelling, change_caption,
)  # fmt: skip


class Mutator:
    """Makes as many mutated lines as asked for, a pure function of the seed and the sources."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.sources = read_sources(self.rng)
        self.golden = [golden.raw for golden in golden_lines() if len(golden.raw) < 100_000]

    def lines(self, count: int) -> Iterator[bytes]:
        """Yield so many mutated lines without their newlines; a mutation may make two of one."""
        return (self._line() for _ in range(count))

    def _line(self) -> bytes:
        rng, source = self.rng, self.rng.choice(self.sources)
        dice = rng.random()

        # 5 % as they are, 5 % golden, half with a changed image, 30 % changed as lines.
        if dice < 0.05:
            return line_of(source)
        if dice < 0.1:
            return rng.choice(self.golden)
        if dice < 0.6:
            return line_of(Source(source.caption, self._image(source.image)))
        if dice < 0.9:
            return rng.choice(LINE_MUTATIONS)(line_of(source), rng)

        # The rest: two lines run into one, or one written twice.
        one, other = line_of(source), line_of(rng.choice(self.sources))
        if dice < 0.95:
            return one[: rng.randrange(len(one))] + other[rng.randrange(len(other)) :]
        return one + b"\n" + one

    def _image(self, image: bytes) -> bytes:
        rng = self.rng
        if rng.random() < 0.1:
            other = rng.choice(self.sources).image
            return image[: rng.randrange(len(image))] + other[rng.randrange(len(other)) :]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            image = rng.choice(IMAGE_MUTATIONS)(image, rng)
        return image
