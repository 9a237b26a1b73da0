"""Pairs to embeddings, a batch at a time: for training, evaluation, export and the served model.

Shapes: N pairs, D embedding width.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from model.batches.crops import centre_crop, decode_image
from model.batches.loading import Batch, Crop, PairInput, load_batch
from model.batches.prefetch import prefetch
from model.errors import FaultReason
from model.towers.towers import Towers, encode_images, encode_texts, encode_tokens


class Products(NamedTuple):
    """Lines of a TSV (1-based) and their embeddings [N, D], None for a column that it lacks."""

    lines: list[int]
    texts: torch.Tensor | None
    images: torch.Tensor | None


@torch.inference_mode()
def embed_pairs(
    towers: Towers,
    pairs: PairInput,
    batch_size: int,
    workers: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the text and the image embeddings of a split.

    Both are [N, D], float32, L2-normalised, on the CPU. Captions of equal tokens are embedded once:
    beside other captions their last bits would differ, and ties would be lost.

    Raises:
        DataError: a line cannot be decoded any more.
    """
    towers.clip.eval()
    distinct, first, text_row = np.unique(
        pairs.tokens, axis=0, return_index=True, return_inverse=True
    )
    read = distinct.astype(np.int64) if pairs.text_features is None else pairs.text_features[first]
    parts = torch.split(torch.from_numpy(read), batch_size)
    texts = torch.cat([encode_tokens(towers, part).cpu() for part in parts])

    images = []
    for batch in _batches(towers, pairs, batch_size, workers):
        images.append(encode_images(towers, batch.images).cpu())
        on_rows(len(batch.rows))
    return texts[torch.from_numpy(text_row.reshape(-1))], torch.cat(images)


@torch.inference_mode()
def embed_products(
    towers: Towers,
    pairs: PairInput,
    batch_size: int,
    workers: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Iterator[Products]:
    """Yield the embeddings of the accepted lines of one TSV, a batch at a time, in their order.

    Raises:
        DataError: a line cannot be decoded any more.
    """
    towers.clip.eval()
    index = pairs.index
    has_texts, has_images = index.columns != "image", index.columns != "text"

    for batch in _batches(towers, pairs, batch_size, workers):
        yield Products(
            index.line[batch.rows].tolist(),
            encode_tokens(towers, batch.tokens).cpu() if has_texts else None,
            encode_images(towers, batch.images).cpu() if has_images else None,
        )
        on_rows(len(batch.rows))


def _batches(towers: Towers, pairs: PairInput, batch_size: int, workers: int) -> Iterator[Batch]:
    crop = Crop(towers.image_size, resizing=towers.resizing)
    rows = np.split(np.arange(len(pairs)), range(batch_size, len(pairs), batch_size))
    return prefetch(rows, lambda rows: load_batch(pairs, rows, crop), workers)


@torch.inference_mode()
def embed_captions(towers: Towers, captions: list[str], batch_size: int = 256) -> torch.Tensor:
    """Return the embeddings of captions, float32 L2-normalised on the CPU, [N, D]."""
    towers.clip.eval()
    embedded = (
        encode_texts(towers, captions[start : start + batch_size]).cpu()
        for start in range(0, len(captions), batch_size)
    )
    return torch.cat([torch.empty(0, towers.embed_dim), *embedded])


@torch.inference_mode()
def embed_encoded_images(
    towers: Towers, images: list[bytes], batch_size: int = 256
) -> torch.Tensor:
    """Return the embeddings of encoded images (JPEG, PNG, …).

    They are [N, D], float32, L2-normalised, on the CPU.

    Raises:
        ValueError: an image cannot be decoded; names its row and fault.
    """
    towers.clip.eval()
    embedded = [torch.empty(0, towers.embed_dim)]
    for start in range(0, len(images), batch_size):
        cropped = []
        for row, encoded in enumerate(images[start : start + batch_size], start):
            image = decode_image(encoded)
            if isinstance(image, FaultReason):
                raise ValueError(f"image in row {row}: {image}")
            cropped.append(centre_crop(image, towers.image_size, towers.resizing))

        embedded.append(encode_images(towers, torch.stack(cropped)).cpu())
    return torch.cat(embedded)
