"""Draw the committed sample: about 1,200 product pictures with captions that describe them.

    python scripts/draw_sample.py [--out data] [--seed 0] [--sizes train=40,test=16]

Promises: the same seed gives the same bytes (on one version of Pillow); no combination of
attributes, caption or image occurs twice, so each query has exactly one right answer and the test
split asks for unseen combinations of well-known attributes. Costs: 1,220 pairs take about 25 s on
one core and 5.1 MB of TSV.
"""

import argparse
import base64
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image
from tqdm import tqdm

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model.errors import CommerceClipError, ConfigError, nearest
from model.storage.files import atomic_write
from scripts.fabric import COLOURS, PATTERNS
from scripts.garments import draw_product
from scripts.products import RANGES, Product, caption_product

SIZES: dict[str, int] = {"pretrain": 600, "train": 320, "valid": 100, "test": 200}
FILES: dict[str, tuple[str, ...]] = {
    "pretrain": ("pretrain/products-1.tsv", "pretrain/products-2.tsv"),
    "train": ("finetune/train.tsv",),
    "valid": ("finetune/valid.tsv",),
    "test": ("finetune/test.tsv",),
}
SIDE_TABLE_HEADER = ("id", "title", "category", "subcategory", "colour", "pattern")
JPEG_QUALITY = 88
MAX_PAIRS = 4_000  # caps come in 336 kinds; beyond 4,000 pairs in all, new ones get hard to find


@dataclass(frozen=True)
class Pair:
    """A line of a TSV and its row of the side table."""

    id: str
    product: Product
    caption: str
    jpeg: bytes

    @property
    def line(self) -> bytes:
        return self.caption.encode() + b"\t" + base64.b64encode(self.jpeg) + b"\n"

    @property
    def side_row(self) -> tuple[str, ...]:
        product, stock = self.product, RANGES[self.product.garment]
        title = self.caption.split(". ")[0].removesuffix(".")
        kind = (stock.category, stock.subcategory)
        return (self.id, title, *kind, product.colour, product.pattern)


def write_sample(out: Path, sizes: Mapping[str, int] = SIZES, seed: int = 0) -> list[Path]:
    """Draw all splits below ``out`` and return the TSV files; each has its side table beside it.

    Raises:
        ConfigError: a split is unknown, or there are not that many different products.
    """
    check_sizes(sizes)
    products = choose_products(sum(sizes.values()), Random(f"{seed}/products"))
    numbered = iter(tqdm(list(enumerate(products)), desc="draw", unit="pair", disable=None))

    written = []
    for split, names in FILES.items():
        for part, name in enumerate(names):
            count = share_of(sizes.get(split, 0), len(names), part)
            pairs = [draw_pair(product, number, seed) for number, product in take(numbered, count)]
            written.append(write_pairs(out / name, pairs))
    return written


def check_sizes(sizes: Mapping[str, int]) -> None:
    for split, count in sizes.items():
        if split not in FILES:
            raise ConfigError(f"--sizes: unknown split '{split}'{nearest(split, FILES)}")
        if count < 0:
            raise ConfigError(f"--sizes: {split}={count} is negative; give 0 or more")
    if sum(sizes.values()) > MAX_PAIRS:
        raise ConfigError(
            f"--sizes: {sum(sizes.values())} pairs asked for; "
            f"at most {MAX_PAIRS} in all splits together"
        )


def share_of(count: int, parts: int, part: int) -> int:
    """Return how many of ``count`` fall to one of several files."""
    return count * (part + 1) // parts - count * part // parts


def take(source: Iterator[tuple[int, Product]], count: int) -> list[tuple[int, Product]]:
    # zip stops at the range first, so that nothing is drawn from the source in vain.
    return [item for _, item in zip(range(count), source, strict=False)]


def choose_products(count: int, random: Random) -> list[Product]:
    """Choose products that all differ.

    Each garment and each of its attributes is about equally frequent at any time.
    """
    decks: dict[tuple[str, ...], Iterator[str]] = {}

    def next_value(values: Iterable[str], *key: str) -> str:
        return next(decks.setdefault(key, deal(tuple(values), random)))

    chosen: dict[Product, None] = {}
    while len(chosen) < count:
        garment = next_value(RANGES)
        stock = RANGES[garment]
        product = Product(
            garment=garment,
            colour=next_value(COLOURS, garment, "colour"),
            pattern=next_value(PATTERNS, garment, "pattern"),
            sleeve=next_value(stock.sleeves, garment, "sleeve"),
            neck=next_value(stock.necks, garment, "neck"),
            cut=next_value(stock.cuts, garment, "cut"),
            detail=next_value(stock.details, garment, "detail"),
        )
        chosen.setdefault(product)
    return list(chosen)


def deal(values: Sequence[str], random: Random) -> Iterator[str]:
    """Yield the values for ever, in a new order each round."""
    while True:
        yield from random.sample(values, len(values))


def draw_pair(product: Product, number: int, seed: int) -> Pair:
    identity = f"p{number:06d}"
    random = Random(f"{seed}/{identity}")
    caption = caption_product(product, random)
    return Pair(identity, product, caption, encode_jpeg(draw_product(product, random)))


def encode_jpeg(image: Image.Image) -> bytes:
    """Encode with full colour resolution: at 96 px a halved one would blur a dotted scarf."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def write_pairs(path: Path, pairs: Sequence[Pair]) -> Path:
    """Write a TSV and its side table."""
    with atomic_write(path) as file:
        file.writelines(pair.line for pair in pairs)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(SIDE_TABLE_HEADER)
    table.writerows(pair.side_row for pair in pairs)
    with atomic_write(path.with_suffix(".products.csv")) as file:
        file.write(text.getvalue().encode())
    return path


def parse_sizes(text: str) -> dict[str, int]:
    """Read ``train=40,test=16``; splits that are not named keep their size."""
    sizes = dict(SIZES)
    for part in filter(None, text.split(",")):
        split, _, count = part.partition("=")
        try:
            sizes[split.strip()] = int(count)
        except ValueError:
            raise ConfigError(f"--sizes: '{part}' is not of the form train=40") from None
    return sizes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the sample data set.")
    parser.add_argument(
        "--out", type=Path, default=Path("data"), help="folder to write (default: data)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sizes", default="", help="pairs a split, e.g. pretrain=40,train=40,valid=12,test=16"
    )
    options = parser.parse_args(arguments)

    try:
        sizes = parse_sizes(options.sizes)
        files = write_sample(options.out, sizes, options.seed)
    except CommerceClipError as error:
        print(error, file=sys.stderr)
        return 1

    megabytes = sum(path.stat().st_size for path in files) / 1e6
    count = f"{sum(sizes.values())} pairs in {len(files)} TSV files"
    print(f"{count}, {megabytes:.1f} MB, under {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
