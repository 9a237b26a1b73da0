"""Accepted lines that repeat an earlier line, or something of the test split.

Within a split a line is named once, by the strongest of: ``pair`` (same image and same words),
``image`` (same bytes), ``near_image`` (looks the same), ``caption`` (same words). What leaks from
test is named once a kind. There all images with like signatures are compared; within a split each
with four neighbours that share part of its hash, so that ten thousand of one kind cost no more than
others do. Two million lines take about 100 s of one core (40 of them against 32,000 of test) and
1.4 GB at most.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.errors import DataError, FaultReason
from model.pairs.arrays import Hashes, Pixels, Rows
from model.pairs.images import MAX_SIDE, preview_image
from model.pairs.near_duplicates import (
    PLACES_SIDE,
    THUMB_BYTES,
    Signatures,
    earlier_duplicates,
    image_places,
    looks_the_same,
    near_duplicates,
)
from model.pairs.profile import read_profile
from model.pairs.splits import canonical_ids
from model.pairs.tsv import parse_line
from model.storage.tables import read_table

REPEATS_SCHEMA = pa.schema({"kind": pa.string(), "line": pa.int64(), "of_line": pa.int64()})
REPEAT_KINDS = ("pair", "image", "near_image", "caption")
LEAK_KINDS = ("image", "near_image", "caption", "product")
LINES_AT_A_TIME = 1 << 16
COMPARED_COLUMNS = [
    "line",
    "offset",
    "length",
    "caption_key",
    "image_hash",
    "image_phash",
    "image_thumb",
    "fault",
]
# An odd number, so that no two images' hashes become one, and swapping caption and image makes
# another pair.
MIX = np.uint64(0x9E3779B97F4A7C15)


class Profiled(NamedTuple):
    """A split's TSV, its profile, and where it has a side table the product id of each line."""

    tsv: Path
    profile: Path
    ids: pa.ChunkedArray | None = None


def repeats(split: Profiled) -> pa.Table:
    """Return a row of ``REPEATS_SCHEMA`` for each accepted line that repeats an earlier one.

    Lines are ascending.

    Raises:
        DataError: the profile is missing or damaged.
    """
    table = _accepted(split)
    lines, rows = table["line"].to_numpy(), np.arange(len(table))
    captions, images = table["caption_key"].to_numpy(), table["image_hash"].to_numpy()

    # For each kind the earliest row that each row repeats, or itself.
    earlier = {
        "pair": _first(pair_hashes(captions, images)),
        "image": _first(images),
        "near_image": rows.copy(),
        "caption": _first(captions),
    }
    # Look-alikes are searched among the first images of the same bytes, which stand for all.
    distinct = np.flatnonzero(earlier["image"] == rows)
    with _places_of(split, table) as places:
        alike = earlier_duplicates(
            _signatures(table.take(distinct)),
            lambda row, other: looks_the_same(places(distinct[row]), places(distinct[other])),
        )
    earlier["near_image"][distinct] = distinct[alike]

    # A line that one kind has named is not free for a weaker one.
    found, free = [], np.ones(len(lines), bool)
    for kind in REPEAT_KINDS:
        chosen = np.flatnonzero(free & (earlier[kind] < rows))
        free[chosen] = False
        found.append(_rows(kind, lines[chosen], lines[earlier[kind][chosen]]))
    return pa.concat_tables(found).sort_by("line")


def leaks(split: Profiled, test: Profiled) -> pa.Table:
    """Return a row of ``REPEATS_SCHEMA`` for each accepted line and kind of thing shared with test.

    ``of_line`` is the first such line of test; where both have side tables, products are compared
    by their ids in canonical form.

    Raises:
        DataError: a profile is missing or damaged, or a TSV is not the one that was profiled.
    """
    there, found = _accepted(test), [REPEATS_SCHEMA.empty_table()]
    test_lines = there["line"].to_numpy()

    with _places_of(test, there) as test_places:
        for batch in _accepted(split).to_batches(max_chunksize=LINES_AT_A_TIME):
            here = pa.Table.from_batches([batch])
            lines = here["line"].to_numpy()
            with _places_of(split, here) as places:
                matches = _matches(
                    here, there, lambda row, other: looks_the_same(places(row), test_places(other))
                )

            for kind, rows in matches.items():
                shared = rows >= 0
                found.append(_rows(kind, lines[shared], test_lines[rows[shared]]))
    return pa.concat_tables(found).sort_by([("line", "ascending"), ("kind", "ascending")])


def read_repeats(path: Path) -> pa.Table:
    """Return the line pairs that `repeats` or `leaks` found, as `write_table` left them.

    Raises:
        DataError: it is missing or damaged.
    """
    return read_table(path, REPEATS_SCHEMA)


def pair_hashes(captions: Hashes, images: Hashes) -> Hashes:
    """Return the hash of each pair by those of its caption and its image: uint64 [N]."""
    return captions ^ (images * MIX)


def _rows(kind: str, lines: Rows, of_lines: Rows) -> pa.Table:
    return pa.table([pa.repeat(kind, len(lines)), lines, of_lines], schema=REPEATS_SCHEMA)


def _first(values: Hashes) -> Rows:
    """Return for each value the row where it occurs first."""
    _, index, inverse = np.unique(values, return_index=True, return_inverse=True)
    return index[inverse]


def _matches(
    here: pa.Table, there: pa.Table, confirm: Callable[[int, int], bool]
) -> dict[str, Rows]:
    """Return for each kind of leak the first row of ``there`` that each row shares, or -1."""
    image = _found_in(here["image_hash"], there["image_hash"])

    # Look-alikes are searched for images that test has not to the byte, each of them once.
    wanted = np.flatnonzero(image < 0)
    hashes = here["image_hash"].to_numpy()[wanted]
    _, index, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    distinct, near = wanted[index], np.full(len(here), -1)
    alike = near_duplicates(
        _signatures(here.take(distinct)),
        _signatures(there),
        lambda row, other: confirm(int(distinct[row]), other),
    )
    near[wanted] = alike[inverse]

    return {
        "image": image,
        "near_image": near,
        "caption": _found_in(here["caption_key"], there["caption_key"]),
        "product": _found_in(here["id"], there["id"]),
    }


@contextmanager
def _places_of(split: Profiled, table: pa.Table) -> Iterator[Callable[[int], Pixels]]:
    """Yield a function from a row of a profile to the 32 x 32 places of its image.

    ``table`` has the columns ``offset`` and ``length``.
    """
    offsets, lengths = table["offset"].to_numpy(), table["length"].to_numpy()
    changed = DataError(f"{split.tsv}: not the file that was profiled; validate the data again")
    with open(split.tsv, "rb") as file:

        @lru_cache(maxsize=4096)
        def places(row: int) -> Pixels:
            pair = parse_line(os.pread(file.fileno(), int(lengths[row]), int(offsets[row])))
            # Without bytes there is no image, which is a fault as well.
            image = b"" if isinstance(pair, FaultReason) else pair.image or b""
            preview = preview_image(image, MAX_SIDE**2, preview_side=3 * PLACES_SIDE)
            if isinstance(preview, FaultReason):
                raise changed
            return image_places(preview.pixels)

        yield places


def _found_in(values: pa.ChunkedArray, others: pa.ChunkedArray) -> Rows:
    """Return the first row of others that has each value, or -1; null is no value."""
    rows = pc.index_in(values, value_set=others.combine_chunks(), skip_nulls=True)
    return np.asarray(rows.fill_null(-1).to_numpy())


def _accepted(split: Profiled) -> pa.Table:
    """Return the accepted lines of a profile with what they are compared by.

    ``id`` is null where there is none.
    """
    table = read_profile(split.profile, COMPARED_COLUMNS)
    known = pa.nulls(len(table), pa.string())
    table = table.append_column("id", known if split.ids is None else canonical_ids(split.ids))

    is_clean = table["fault"].null_count == len(table)
    return table if is_clean else table.filter(pc.field("fault").is_null())


def _signatures(table: pa.Table) -> Signatures:
    # Arrow keeps values of one size back to back; a chunk may be a part of its buffer.
    thumbs = [
        np.frombuffer(
            chunk.buffers()[1],
            np.uint8,
            count=len(chunk) * THUMB_BYTES,
            offset=chunk.offset * THUMB_BYTES,
        )
        for chunk in table["image_thumb"].chunks
    ]
    thumb = np.concatenate([np.empty(0, np.uint8), *thumbs]).reshape(-1, THUMB_BYTES)
    return Signatures(table["image_phash"].to_numpy(), thumb)
