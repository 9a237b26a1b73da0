"""A feed becomes train, valid and test by its products, each of which keeps its place for good."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
from pyarrow import csv

from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.split import AS_GIVEN, BY_PRODUCT, SPLITS, place_lines
from model.pairs.splits import read_side_table, side_table_path
from model.storage.files import atomic_write, file_digest

LONGEST_LINE = DataConfig().max_line_bytes
CHECKED_LINES = 100_000


def split_feed(feed: Path, folder: Path, on_bytes: Callable[[int], None]) -> dict[str, str]:
    """Write the three splits of a feed, with side tables where it has one.

    Returns the MD5 of each file by its name; ``on_bytes`` gets the bytes done since its last call.

    Raises:
        DataError: a line is too long, the side table does not fit, or a split gets no line.
        CheckpointError: the disk is full.
    """
    places: list[int] = []
    with ExitStack() as open_files:
        files = {
            split: open_files.enter_context(atomic_write(folder / f"{split}.tsv"))
            for split in SPLITS
        }
        for line, split in place_lines(feed, LONGEST_LINE):
            if line is None:
                raise DataError(
                    f"{feed} line {len(places) + 1}: longer than {LONGEST_LINE:,} bytes; remove it"
                )
            files[split].write(line + b"\n")
            places.append(SPLITS.index(split))
            on_bytes(len(line) + 1)

    # A split of nothing is a feed of too few products.
    place_N = np.array(places, np.int8)
    empty = [split for number, split in enumerate(SPLITS) if not (place_N == number).any()]
    if empty:
        raise DataError(
            f"{feed}: none of its {len(places):,} lines belongs to {' or '.join(empty)}; "
            "a feed needs some hundred products, or give the splits themselves (--train, --test)"
        )

    table = read_side_table(feed, required=False)
    if table is not None:
        for number, split in enumerate(SPLITS):
            rows = table.take(np.flatnonzero(place_N == number))
            with atomic_write(side_table_path(folder / f"{split}.tsv")) as file:
                csv.write_csv(rows, file)
    return {path.name: file_digest(path, "md5") for path in sorted(folder.iterdir())}


def split_rule(finetune: Path) -> str:
    """Return how the splits of a folder came about: by product, or as somebody gave them.

    The first lines of each split are looked at, so splits that were given end the look at once.

    Raises:
        DataError: a side table cannot be read.
    """
    for split in SPLITS:
        tsv = finetune / f"{split}.tsv"
        lines = place_lines(tsv, LONGEST_LINE) if tsv.exists() else iter(())
        looked_at = islice(lines, CHECKED_LINES)
        if any(place != split for line, place in looked_at if line is not None):
            return AS_GIVEN
    return BY_PRODUCT
