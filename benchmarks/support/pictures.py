"""Lines to measure on: real pairs where ``REAL_PAIRS`` names a folder of them, else drawn ones.

Images are encoded again as JPEG of the side that a bar names, quality 90; real photos are 224
pixels square.
"""

import base64
import io
import os
from itertools import cycle, islice
from pathlib import Path
from random import Random

from PIL import Image

from model.errors import FaultReason
from model.pairs.tsv import parse_line, read_lines

MAX_LINE_BYTES = 16_000_000
DRAWN = 200

Captioned = tuple[str, Image.Image]


def captioned_pictures(count: int) -> list[Captioned]:
    """Read the first captions and images of the real test split, or draw as many."""
    real = real_split("test")
    return list(islice(_drawn() if real is None else _read(real), count))


def real_split(name: str) -> Path | None:
    """Name the TSV of a split of the real pairs, None without them."""
    folder = os.environ.get("REAL_PAIRS")
    return Path(folder) / "fashion-products" / f"{name}.tsv" if folder else None


def lines_of(pictures: list[Captioned], side: int) -> list[bytes]:
    """Make a line without its newline of each image, as a JPEG ``side`` pixels square."""
    return [
        _line(caption, image.resize((side, side), Image.Resampling.BICUBIC))
        for caption, image in pictures
    ]


def write_tsv(path: Path, lines: list[bytes], rows: int) -> Path:
    """Write so many rows, the lines over and over, each caption with a number of its own."""
    with path.open("wb") as file:
        for number, line in enumerate(islice(cycle(lines), rows)):
            file.write(b"%d %s\n" % (number, line))
    return path


def _line(caption: str, image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=90)
    return caption.encode() + b"\t" + base64.b64encode(buffer.getvalue())


def _read(tsv: Path) -> list[Captioned]:
    pairs = [parse_line(line.data or b"") for line in islice(read_lines(tsv, MAX_LINE_BYTES), 1000)]
    return [
        (pair.caption or "", Image.open(io.BytesIO(pair.image or b"")).convert("RGB"))
        for pair in pairs
        if not isinstance(pair, FaultReason)
    ]


def _drawn() -> list[Captioned]:
    from scripts.draw_sample import choose_products, draw_pair

    products = choose_products(DRAWN, Random(0))
    pairs = [draw_pair(product, number, seed=0) for number, product in enumerate(products)]
    return [(pair.caption, Image.open(io.BytesIO(pair.jpeg)).convert("RGB")) for pair in pairs]
