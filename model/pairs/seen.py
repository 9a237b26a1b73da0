"""What a model was trained on, kept small, and which pairs of a test split are among it.

A version's traces are the distinct hashes of its captions, images and products and the signatures
of its images, sorted: about 140 bytes a pair, 0.3 GB for two million. With them a gate needs no old
data to know what a champion has seen. Images that look the same are found by their signatures
alone, without the pictures that would confirm them (`model.pairs.near_duplicates`): against 100,000
trained images that leaves out some 25 of 1,000 test images that were never seen, and misses none.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.pairs.arrays import Hashes, Rows
from model.pairs.near_duplicates import THUMB_BYTES, Signatures, near_duplicates
from model.pairs.profile import PROFILE_VERSION, read_profile
from model.pairs.repeats import LEAK_KINDS, Profiled
from model.pairs.splits import canonical_ids

# Traces of profiles whose hashes mean something else are of no use.
TRACES_SCHEMA = pa.schema(
    {"kind": pa.string(), "hash": pa.uint64(), "thumb": pa.binary(THUMB_BYTES)},
    metadata={"profile": str(PROFILE_VERSION)},
)
TRACED_COLUMNS = ["line", "caption_key", "image_hash", "image_phash", "image_thumb", "fault"]


class _Keys(NamedTuple):
    """The hashes of N accepted pairs; products are 0 where a pair has none."""

    line: Rows
    caption: Hashes
    image: Hashes
    product: Hashes
    looks: Signatures


def collect_traces(splits: Iterable[tuple[Profiled, Rows]]) -> pa.Table:
    """Return the traces of some splits, each with the numbers of the lines that are not trained on.

    Raises:
        DataError: a profile is missing or damaged.
    """
    parts = [_keys(split, left_out) for split, left_out in splits]
    captions, images, products = (
        np.unique(np.concatenate([np.empty(0, np.uint64), *(part[place] for part in parts)]))
        for place in (1, 2, 3)
    )
    looks = [
        np.column_stack([part.looks.phash.view(np.uint8).reshape(-1, 8), part.looks.thumb])
        for part in parts
    ]
    distinct = np.unique(np.concatenate([np.empty((0, 8 + THUMB_BYTES), np.uint8), *looks]), axis=0)

    # A row a hash; only images that look like others need a thumbnail to be told apart.
    hashes = {
        "caption": captions,
        "image": images,
        "product": products[products > 0],
        "near_image": np.ascontiguousarray(distinct[:, :8]).view(np.uint64).ravel(),
    }
    thumbs: list[bytes | None] = [None] * sum(map(len, (captions, images, hashes["product"])))
    return pa.table(
        [
            np.repeat(list(hashes), [len(each) for each in hashes.values()]).tolist(),
            np.concatenate(list(hashes.values())),
            thumbs + [row.tobytes() for row in distinct[:, 8:]],
        ],
        schema=TRACES_SCHEMA,
    )


def find_seen(test: Profiled, lines: Rows, traces: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    """Return for each kind of thing which of some accepted lines of test share one with traces.

    The result is bool [N] by kind, in the order of ``LEAK_KINDS``; ``lines`` ascend.

    Raises:
        DataError: the profile is missing or damaged.
    """
    every = _keys(test, np.empty(0, np.int64))
    rows = np.searchsorted(every.line, lines)
    kinds = traces["kind"].to_numpy()
    hashes = {kind: traces["hash"].to_numpy()[kinds == kind] for kind in LEAK_KINDS}

    # Each image of test is looked up once for all traces of its look.
    of_look = traces.filter(pa.array(kinds == "near_image"))
    thumbs = b"".join(of_look["thumb"].to_pylist())
    trained = Signatures(
        hashes["near_image"], np.frombuffer(thumbs, np.uint8).reshape(-1, THUMB_BYTES)
    )
    alike = near_duplicates(every.looks, trained) >= 0
    found = {
        "image": np.isin(every.image, hashes["image"]),
        "near_image": alike,
        "caption": np.isin(every.caption, hashes["caption"]),
        "product": np.isin(every.product, hashes["product"]),
    }
    return {kind: found[kind][rows] for kind in LEAK_KINDS}


def is_readable(traces: pa.Table) -> bool:
    """Whether the hashes of traces mean what those of today's profiles mean."""
    return bool(traces.schema.equals(TRACES_SCHEMA, check_metadata=True))


def _keys(split: Profiled, left_out: Rows) -> _Keys:
    """Return the hashes of the accepted lines of a split but for some."""
    table = read_profile(split.profile, TRACED_COLUMNS)
    ids = [None] * len(table) if split.ids is None else canonical_ids(split.ids).to_pylist()
    is_used = table["fault"].is_null().to_numpy() & ~np.isin(table["line"].to_numpy(), left_out)
    used = table.filter(pa.array(is_used))

    number = {name: _hash(name) if name else 0 for name in set(ids)}
    products = np.array([number[name] for name in ids], np.uint64)[is_used]
    thumbs = b"".join(used["image_thumb"].to_pylist())
    return _Keys(
        line=used["line"].to_numpy(),
        caption=used["caption_key"].to_numpy(),
        image=used["image_hash"].to_numpy(),
        product=products,
        looks=Signatures(
            used["image_phash"].to_numpy(),
            np.frombuffer(thumbs, np.uint8).reshape(-1, THUMB_BYTES),
        ),
    )


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") or 1
