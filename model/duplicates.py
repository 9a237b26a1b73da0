"""Pictures that are the same to the eye: the signature that a profile keeps of each image.

A signature is a perceptual hash, which finds candidates, and a thumbnail, which tells the true ones among them: shop
photos of one kind (a shirt, centred, on white) share hashes by the hundred, but not their colours in 36 places.
Measured on 4,000 x 1,000 real product photos: of copies saved again (JPEG quality 30 to 90, or as PNG) 96 to 100 %
were found, of resized ones 86 to 95 %, and one of 4,000,000 pairs of other photos. A copy cropped by 2 % at each side
is another picture here.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

GRID = 24
THUMB_SIDE = 6
HASH_SIDE = 8
THUMB_BYTES = THUMB_SIDE * THUMB_SIDE * 3
# Rows of the discrete cosine transform of 24 values, as integers: exact on every machine.
COSINES = np.rint(1024 * np.cos(np.pi * np.outer(np.arange(HASH_SIDE), 2 * np.arange(GRID) + 1) / (2 * GRID))).astype(
    np.int64
)


class Signature(NamedTuple):
    """A 64-bit perceptual hash, and a thumbnail of 6 x 6 RGB bytes."""

    phash: int
    thumb: bytes


def image_signature(pixels: npt.NDArray[np.uint8]) -> Signature:
    """Return the signature of an RGB image uint8 [H, W, 3]; about 90 µs for 112 pixels square.

    A bit of the hash says whether one of the 64 lowest frequencies of the brightness is above their median.
    Source: the DCT hash of perceptual hashing (C. Zauner, 2010), with an integer transform.
    """
    grid = Image.fromarray(pixels).resize((GRID, GRID), Image.Resampling.BOX)
    waves = (COSINES @ np.asarray(grid.convert("L"), dtype=np.int64) @ COSINES.T).ravel()
    middle = np.sort(waves[1:])[len(waves) // 2 - 1]
    phash = int.from_bytes(np.packbits(waves > middle).tobytes(), "big")
    return Signature(phash, grid.reduce(GRID // THUMB_SIDE).tobytes())
