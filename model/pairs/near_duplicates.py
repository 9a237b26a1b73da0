"""Images that are the same to the eye, by the signature that a profile keeps of each.

A signature is a perceptual hash, which finds candidates, and a thumbnail, which picks the true ones
among them: shop photos of one kind (a shirt, centred, on white) share hashes by the hundred, but
not their colours in 36 places. Measured on 4,000 x 1,000 real product photos: of copies saved again
(JPEG quality 30 to 90, or as PNG) 99 to 100 % were found, of resized ones (100 to 800 pixels) 97 to
100 %, and one of 4,000,000 pairs of other photos. Against a test split of 32,000 that would be one
image in a hundred, so the few that are left are decoded and compared in 1,024 places: all copies
pass and no other photo (DECISIONS 17). A copy cropped by 2 % at each side is another image.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.pairs.arrays import Hashes, Pixels, Rows

THUMB_SIDE = 6
HASH_SIDE = 8
THUMB_BYTES = THUMB_SIDE * THUMB_SIDE * 3
# Shares of red, green and blue (ITU-R BT.601) in 256ths.
BRIGHTNESS = np.array([77, 150, 29]) / 256
MAX_BITS = 4
MAX_LEVELS = 10
FIRST_BYTES = THUMB_SIDE * 3
PLACES_SIDE = 32
# Copies, resized ones too, differed by at most 32 levels, other photos with the same signature by
# at least 71.
MAX_PLACE_LEVELS = 50
# Of six bands of a hash, four flipped bits leave two as they are: hashes that are at most 4 bits
# apart agree under one of these masks. Keys of two bands (21 bits) make few candidates.
BANDS = [(1 << stop) - (1 << start) for start, stop in pairwise((0, 11, 22, 33, 44, 54, 64))]
KEY_MASKS = [np.uint64(one + other) for one, other in combinations(BANDS, 2)]
# Candidates compared at a time, about 10 MB.
CANDIDATES = 1 << 17
NEIGHBOURS = 4

# Whether two rows that look the same by their signatures are the same image.
Confirm = Callable[[int, int], bool]


class Signature(NamedTuple):
    """A 64-bit perceptual hash, and a thumbnail of 6 x 6 RGB bytes."""

    phash: int
    thumb: bytes


class Signatures(NamedTuple):
    """The signatures of N images: hashes uint64 [N], thumbnails uint8 [N, 108]."""

    phash: Hashes
    thumb: Pixels


def image_signature(pixels: Pixels) -> Signature:
    """Return the signature of an RGB image uint8 [H, W, 3]; about 30 µs for 32 pixels square.

    A bit of the hash says whether one of the 64 lowest frequencies of the brightness is above their
    median. Source: the DCT hash of perceptual hashing (C. Zauner, 2010). All sums are of whole
    numbers below 2^53, so they are exact on every machine, in whatever order a matrix product adds.
    """
    height, width, channels = pixels.shape
    levels = pixels.astype(np.float64)

    waves = (_cosines(height) @ np.floor(levels @ BRIGHTNESS) @ _cosines(width).T).ravel()
    middle = np.partition(waves[1:], len(waves) // 2 - 1)[len(waves) // 2 - 1]
    phash = int.from_bytes(np.packbits(waves > middle).tobytes(), "big")

    # The thumbnail is the mean of each of 6 x 6 cells: down the columns first, then along the rows.
    rows = (_cell_shares(height) @ levels.reshape(height, -1)).reshape(THUMB_SIDE, width, channels)
    thumb = np.rint(_cell_shares(width) @ rows / (height * width))
    return Signature(phash, thumb.astype(np.uint8).tobytes())


@lru_cache(maxsize=512)
def _cosines(side: int) -> npt.NDArray[np.float64]:
    """Return the rows of the discrete cosine transform of ``side`` values, times 1024.

    They are whole numbers [8, side].
    """
    angles = np.pi * np.outer(np.arange(HASH_SIDE), 2 * np.arange(side) + 1) / (2 * side)
    return np.asarray(np.rint(1024 * np.cos(angles)), np.float64)


@lru_cache(maxsize=512)
def _cell_shares(side: int) -> npt.NDArray[np.float64]:
    """Return how many sixths of each of ``side`` pixels lie in each of 6 equal cells.

    They are whole numbers [6, side].
    """
    first, start = np.arange(side) * THUMB_SIDE, np.arange(THUMB_SIDE)[:, None] * side
    overlap = np.minimum(first + THUMB_SIDE, start + side) - np.maximum(first, start)
    return np.asarray(np.maximum(overlap, 0), np.float64)


def image_places(pixels: Pixels) -> Pixels:
    """Return an RGB image uint8 [H, W, 3] in 32 x 32 places: uint8 [32, 32, 3]."""
    return np.asarray(
        Image.fromarray(pixels).resize((PLACES_SIDE, PLACES_SIDE), Image.Resampling.BILINEAR)
    )


def looks_the_same(one: Pixels, other: Pixels) -> bool:
    """Whether two images with one signature, each as `image_places`, are alike in every place."""
    return bool((np.maximum(one, other) - np.minimum(one, other) <= MAX_PLACE_LEVELS).all())


def near_duplicates(
    left: Signatures, right: Signatures, confirm: Confirm = lambda row, other: True
) -> Rows:
    """Return for each of N left images the first right row that looks the same, or -1: int64 [N].

    Two look the same whose hashes are at most 4 bits apart, no byte of the thumbnails more than 10
    levels, if ``confirm(row, other)`` agrees. No such pair is missed. Memory is flat in the left
    images but for the answer; the right ones take about 150 bytes each. Two million against 32,000
    of the variety of shop photos take about 35 s of one core.
    """
    found, refuted = np.full(len(left.phash), len(right.phash), np.int64), set[tuple[int, int]]()
    for mask in KEY_MASKS:
        order = np.argsort(right.phash & mask, kind="stable")
        ordered = right.phash[order]

        for rows, places in _candidates(left.phash & mask, ordered & mask):
            close = np.bitwise_count(left.phash[rows] ^ ordered[places]) <= MAX_BITS
            rows, others = rows[close], order[places[close]]
            alike = same_colours(left.thumb, rows, right.thumb, others)
            _settle(found, rows[alike], others[alike], confirm, refuted)
    found[found == len(right.phash)] = -1
    return found


def earlier_duplicates(images: Signatures, confirm: Confirm = lambda row, other: True) -> Rows:
    """Return for each of N images an earlier row that looks the same, or its own: int64 [N].

    The same as in `near_duplicates`, but of images that share part of their hash each is compared
    with the next four alone, so time grows with N and no bucket of ten thousand explodes. All are
    compared where there are few.
    """
    found, refuted = np.arange(len(images.phash)), set[tuple[int, int]]()
    by_hash = np.argsort(images.phash, kind="stable")
    for mask in KEY_MASKS:
        order = by_hash[np.argsort(images.phash[by_hash] & mask, kind="stable")]
        ordered = images.phash[order]

        for step in range(1, min(NEIGHBOURS + 1, len(order))):
            differing = ordered[step:] ^ ordered[:-step]
            is_close = ((differing & mask) == 0) & (np.bitwise_count(differing) <= MAX_BITS)
            places = np.flatnonzero(is_close)
            one, other = order[places], order[places + step]
            alike = same_colours(images.thumb, one, images.thumb, other)
            later, earlier = np.maximum(one, other)[alike], np.minimum(one, other)[alike]
            _settle(found, later, earlier, confirm, refuted)
    return found


def _settle(
    found: Rows, rows: Rows, others: Rows, confirm: Confirm, refuted: set[tuple[int, int]]
) -> None:
    """Put the confirmed pairs into ``found`` where they name an earlier row than it does."""
    better = others < found[rows]
    for row, other in zip(rows[better].tolist(), others[better].tolist(), strict=True):
        if other < found[row] and (row, other) not in refuted:
            if confirm(row, other):
                found[row] = other
            else:
                refuted.add((row, other))


def same_colours(left: Pixels, rows: Rows, right: Pixels, others: Rows) -> npt.NDArray[np.bool_]:
    """Return whether no byte of thumbnail ``rows[i]`` differs much from ``others[i]``: bool [P].

    The first row of cells sorts out most of the different ones; all bytes are compared only for
    the rest.
    """
    alike = _are_within(left[rows, :FIRST_BYTES], right[others, :FIRST_BYTES])
    rest = np.flatnonzero(alike)
    alike[rest] = _are_within(left[rows[rest]], right[others[rest]])
    return alike


def _are_within(one: Pixels, other: Pixels) -> npt.NDArray[np.bool_]:
    differences = np.maximum(one, other) - np.minimum(one, other)
    return np.asarray(np.all(differences <= MAX_LEVELS, axis=1), np.bool_)


def _candidates(keys: Hashes, ordered: Hashes) -> Iterator[tuple[Rows, Rows]]:
    """Yield (rows of keys, places in ordered) with equal values, about CANDIDATES at a time."""
    first = np.searchsorted(ordered, keys, "left")
    counts = np.searchsorted(ordered, keys, "right") - first
    rows = np.flatnonzero(counts)
    ends = np.cumsum(counts[rows])

    # Each block takes as many rows as have CANDIDATES places together, one at least.
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CANDIDATES, "right")))
        chosen = rows[start:stop]
        repeats = counts[chosen]

        # The places of a row count up from its first one.
        within = np.arange(repeats.sum()) - np.repeat(ends[start:stop] - repeats - before, repeats)
        yield np.repeat(chosen, repeats), np.repeat(first[chosen], repeats) + within
        start = stop
