"""Batches of pairs as the towers take them: uint8 images and token ids.

Captions come tokenised from a cache; images are decoded ahead in threads, because decoding and
resizing run outside the interpreter's lock (DECISIONS 2), or come from a cache, too. A random crop
is a pure function of (seed, epoch, row), so a batch is the same whoever loads it, and when. At
48 pixels a batch of 256 takes 145 ms of a core, out of both caches 10.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from model.batches.crops import CLIP_RESIZING, Resizing, centre_crop, random_crop
from model.batches.decoded import Decoded, decode_row, decoded_images
from model.batches.tokens import Tokenizer, Tokens, token_ids
from model.pairs.arrays import Rows
from model.pairs.index import PairIndex

# What a locked tower makes of images or captions: float32, or float16 where it runs in bf16.
Features = npt.NDArray[np.float32] | npt.NDArray[np.float16]


class InputSpec(NamedTuple):
    """What towers take: their captions' tokeniser, and how an image becomes a square.

    ``side`` is in pixels.
    """

    tokenizer: Tokenizer
    side: int
    resizing: Resizing = CLIP_RESIZING


@dataclass(frozen=True)
class PairInput:
    """The N pairs of an index with their token ids [N, L].

    ``decoded`` are their centre crops [N, 3, side, side], where a cache holds them;
    ``image_features`` and ``text_features`` [N, E] stand for images and captions where a tower is
    locked.
    """

    index: PairIndex
    tokens: Tokens
    decoded: Decoded | None = None
    image_features: Features | None = None
    text_features: Features | None = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Rows) -> "PairInput":
        """Return the pairs of the given rows."""
        arrays = (self.tokens, self.decoded, self.image_features, self.text_features)
        chosen = (None if array is None else array[rows] for array in arrays)
        return PairInput(self.index.take(rows), *chosen)  # type: ignore[arg-type]


def pair_input(
    spec: InputSpec,
    index: PairIndex,
    folder: Path | None = None,
    is_decoded: bool = False,
    workers: int = 0,
    on_rows: Callable[[str, int], None] = lambda what, rows: None,
) -> PairInput:
    """Return the pairs of an index as towers of that spec take them.

    Caches are in the folder; without one, tokens are in memory. ``on_rows`` gets what is made
    (``tokens``, ``decoded images``) and how many rows more; nothing, where the caches are found.

    Raises:
        DataError: a line is not the one that was profiled.
        CheckpointError: the disk lacks room or the folder cannot be written.
    """
    if index.columns == "image":
        return PairInput(index, np.empty((len(index), 0), np.uint16))
    tokens = token_ids(index, spec.tokenizer, folder, lambda rows: on_rows("tokens", rows))
    if folder is None or not is_decoded:
        return PairInput(index, tokens)
    decoded = decoded_images(
        index,
        spec.side,
        folder,
        workers,
        lambda rows: on_rows("decoded images", rows),
        spec.resizing,
    )
    return PairInput(index, tokens, decoded)


@dataclass(frozen=True)
class Crop:
    """How a training image is cut.

    ``min_scale`` 1 without flip is the plain centre crop of evaluation.
    """

    side: int
    min_scale: float = 1.0
    flip: bool = False
    seed: int = 0
    epoch: int = 0
    resizing: Resizing = CLIP_RESIZING


class Batch(NamedTuple):
    """Decoded pairs: their rows, uint8 images [B, 3, side, side] and token ids int64 [B, L].

    Of captions alone the images are [B, 0], of images alone the tokens. A locked tower's features,
    float [B, E], stand in place of its input.

    ``ids``, int64 [B, 2], stand for each pair's caption and its encoded image: equal where those
    are.
    """

    rows: Rows
    images: torch.Tensor
    tokens: torch.Tensor
    ids: torch.Tensor


def load_batch(pairs: PairInput, rows: Rows, crop: Crop) -> Batch:
    """Read, decode and crop the pairs of the given rows.

    Raises:
        DataError: a line is not the one that was profiled, or cannot be decoded any more.
    """
    if pairs.image_features is not None:
        images = torch.from_numpy(pairs.image_features[rows])
    elif pairs.index.columns == "text":
        images = torch.empty(len(rows), 0, dtype=torch.uint8)
    else:
        # Stacked by numpy, because torch would take the cores from the training for it.
        images = torch.from_numpy(
            np.stack([_input_image(pairs, int(row), crop).numpy() for row in rows])
        )
    tokens = torch.from_numpy(
        pairs.tokens[rows].astype(np.int64)
        if pairs.text_features is None
        else pairs.text_features[rows]
    )
    # The bits of the hashes will do: torch can gather signed integers only.
    hashes = np.stack([pairs.index.caption_hash[rows], pairs.index.image_hash[rows]], axis=1)
    return Batch(rows, images, tokens, torch.from_numpy(hashes.view(np.int64)))


def pinned(batch: Batch) -> Batch:
    """Return the batch in memory that a GPU copies from while it computes."""
    rows, *tensors = batch
    return Batch(rows, *(each.pin_memory() for each in tensors))


def _input_image(pairs: PairInput, row: int, crop: Crop) -> torch.Tensor:
    # A centre crop is its own centre crop.
    if pairs.decoded is not None and crop.min_scale >= 1:
        assert pairs.decoded.shape[-1] == crop.side, "the cache was made for these towers"
        image = torch.from_numpy(np.array(pairs.decoded[row]))
    else:
        image = decode_row(pairs.index, row)
    if crop.min_scale >= 1 and not crop.flip:
        return centre_crop(image, crop.side, crop.resizing)

    entropy = np.random.SeedSequence((crop.seed, crop.epoch, row)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
    return random_crop(image, crop.side, crop.min_scale, crop.flip, generator, crop.resizing)
