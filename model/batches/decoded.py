"""Images decoded once: the centre crops of a split as one mapped uint8 array.

For what is only ever cropped at its centre: evaluation, and training stages with ``crop_scale`` 1.
Nothing changes but the time: the pixels are those that decoding gives. An image of 224 pixels
square takes 150 KB on disk, about 25 times its JPEG, so the disk must have room for it. At 48
pixels a batch of 256 takes 10 ms of a core in place of 145.
"""

import hashlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model.batches import crops
from model.batches.crops import CLIP_RESIZING, Resizing, centre_crop, decode_image
from model.batches.prefetch import prefetch
from model.errors import DataError, FaultReason
from model.pairs import images
from model.pairs.arrays import Rows
from model.pairs.images import MAX_SIDE
from model.pairs.index import PairIndex
from model.storage.cache import Layout, cached_array
from model.storage.files import file_digest

Decoded = npt.NDArray[np.uint8]

IMAGES_A_BLOCK = 64
DECODING_PACKAGES = ("pillow", "simplejpeg", "torchvision")


def decode_row(index: PairIndex, row: int) -> torch.Tensor:
    """Read and decode the image of a row, uint8 [3, H, W].

    Raises:
        DataError: the line is not the one that was profiled, or its image cannot be decoded.
    """
    # The profile has held it against the config's own limit.
    image = decode_image(index.encoded_image(row), max_pixels=MAX_SIDE**2)
    if isinstance(image, FaultReason):
        raise DataError(
            f"{index.where(row)}: {image}, although its profile accepted it; "
            "validate the data again"
        )
    return image


def decoded_images(
    index: PairIndex,
    side: int,
    folder: Path,
    workers: int = 0,
    on_rows: Callable[[int], None] = lambda rows: None,
    resizing: Resizing = CLIP_RESIZING,
) -> Decoded:
    """Return the centre crops uint8 [N, 3, side, side] of an index's images, mapped from a cache.

    The cache is in the folder; ``on_rows`` counts the images that had to be decoded.

    Raises:
        DataError: an image cannot be decoded any more.
        CheckpointError: the disk lacks room, found before anything is decoded, or the folder cannot
        be written.
    """

    def crop(rows: Rows) -> Decoded:
        return np.stack(
            [centre_crop(decode_row(index, int(row)), side, resizing).numpy() for row in rows]
        )

    def blocks() -> Iterator[Decoded]:
        parts = (
            np.arange(start, min(start + IMAGES_A_BLOCK, len(index)))
            for start in range(0, len(index), IMAGES_A_BLOCK)
        )
        for block in prefetch(parts, crop, workers):
            yield block
            on_rows(len(block))

    return cached_array(folder, decoded_layout(index, side, resizing), blocks)


def decoded_layout(index: PairIndex, side: int, resizing: Resizing = CLIP_RESIZING) -> Layout:
    """Return the form of the cache, its bytes on disk among it.

    Its key changes with whatever decides a pixel: images, size, and the code that decodes.
    """
    parts = [
        index.digest(),
        str(side),
        str(tuple(resizing)),
        *(f"{name} {version(name)}" for name in DECODING_PACKAGES),
        *(file_digest(Path(str(module.__file__))) for module in (images, crops)),
    ]
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return Layout("decoded-images", key, (len(index), 3, side, side), np.uint8)
