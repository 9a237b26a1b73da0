"""What an importer found becomes train, valid and test by product (`model.pairs.split`).

Each of the three reads all of the sources and keeps what is its own, so memory stays flat and an
import takes three times as long.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

from model.importers.records import LeftOut, SourceRow, SplitSource, Untouched
from model.pairs.split import SPLITS, place_product


def assign_products(found: Sequence[SplitSource]) -> list[SplitSource]:
    """Return train, valid and test of all that was found; rows left out are counted in train."""
    files = tuple(chain.from_iterable(source.files for source in found))
    has_side_table = any(source.has_side_table for source in found)
    return [
        SplitSource(split, files, partial(_read, found, split), has_side_table=has_side_table)
        for split in SPLITS
    ]


def _read(found: Sequence[SplitSource], split: str) -> Iterator[SourceRow]:
    for row in chain.from_iterable(source.read() for source in found):
        if isinstance(row, LeftOut):
            place = "train"
        else:
            # Without an id, what the pair is made of stands for its product.
            content = (
                row.line
                if isinstance(row, Untouched)
                else row.caption.encode("utf-8", "replace") + row.image
            )
            place = place_product(row.id or content)
        if place == split:
            yield row
