"""Pairs to embeddings, a batch at a time: what evaluation, validation, export and the served model
share.

Shapes: N pairs, D embedding width.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from model.batches.crops import centre_crop, decode_image
from model.batches.loading import Crop, PairInput, load_batch
from model.batches.prefetch import prefetch
from model.config.sections import DataConfig
from model.errors import FaultReason
from model.pairs.images import inspect_image
from model.pairs.tsv import LineColumns, RawLine, parse_line, read_lines
from model.towers.towers import Towers, encode_images, encode_texts, encode_tokens


@torch.inference_mode()
def embed_pairs(
    towers: Towers,
    pairs: PairInput,
    batch_size: int,
    workers: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the text and the image embeddings of a split, float32 L2-normalised on the CPU, [N, D]
    each.

    Captions of equal tokens are embedded once: beside other captions their last bits would differ,
    and no tie be one.

    Raises:
        DataError: a line cannot be decoded any more.
    """
    towers.clip.eval()
    distinct, text_row = np.unique(pairs.tokens, axis=0, return_inverse=True)
    parts = torch.split(torch.from_numpy(distinct.astype(np.int64)), batch_size)
    texts = torch.cat([encode_tokens(towers, part).cpu() for part in parts])
    crop, images = Crop(towers.image_size, resizing=towers.resizing), []
    batches = [
        np.arange(start, min(start + batch_size, len(pairs)))
        for start in range(0, len(pairs), batch_size)
    ]
    for batch in prefetch(batches, lambda rows: load_batch(pairs, rows, crop), workers):
        images.append(encode_images(towers, batch.images).cpu())
        on_rows(len(batch.rows))
    return texts[torch.from_numpy(text_row.reshape(-1))], torch.cat(images)


@torch.inference_mode()
def embed_captions(towers: Towers, captions: list[str], batch_size: int = 256) -> torch.Tensor:
    """Return the embeddings of captions, float32 L2-normalised on the CPU, [N, D]."""
    towers.clip.eval()
    starts = range(0, len(captions), batch_size)
    embedded = [
        encode_texts(towers, captions[start : start + batch_size]).cpu() for start in starts
    ]
    return torch.cat([torch.empty(0, towers.embed_dim), *embedded])


@torch.inference_mode()
def embed_encoded_images(
    towers: Towers, images: list[bytes], batch_size: int = 256
) -> torch.Tensor:
    """Return the embeddings of encoded images (JPEG, PNG, …), float32 L2-normalised on the CPU, [N,
    D].

    Raises:
        ValueError: an image cannot be decoded; names its row and fault.
    """
    towers.clip.eval()
    embedded = [torch.empty(0, towers.embed_dim)]
    for start in range(0, len(images), batch_size):
        decoded = [decode_image(image) for image in images[start : start + batch_size]]
        for row, image in enumerate(decoded, start):
            if isinstance(image, FaultReason):
                raise ValueError(f"image in row {row}: {image}")
        side, resizing = towers.image_size, towers.resizing
        cropped = [
            centre_crop(image, side, resizing)
            for image in decoded
            if not isinstance(image, FaultReason)
        ]
        embedded.append(encode_images(towers, torch.stack(cropped)).cpu())
    return torch.cat(embedded)


class Products(NamedTuple):
    """Lines of a TSV (1-based) and their embeddings [N, D], None for a column that the TSV does not have."""

    lines: list[int]
    texts: torch.Tensor | None
    images: torch.Tensor | None


class _Decoded(NamedTuple):
    lines: list[int]
    captions: list[str]
    images: list[torch.Tensor]


def embed_products(
    towers: Towers,
    tsv: Path,
    columns: LineColumns,
    limits: DataConfig,
    batch_size: int,
    workers: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Iterator[Products]:
    """Yield the embeddings of a TSV's lines in order, passing over faulty lines; ``on_rows`` counts lines read."""

    def decode(lines: list[RawLine]) -> tuple[int, _Decoded]:
        return len(lines), _decode_lines(lines, columns, towers, limits)

    for read, decoded in prefetch(
        _in_batches(read_lines(tsv, limits.max_line_bytes), batch_size), decode, workers
    ):
        on_rows(read)
        if not decoded.lines:
            continue
        texts = embed_captions(towers, decoded.captions) if columns != "image" else None
        images = _embed_images(towers, decoded.images) if columns != "text" else None
        yield Products(decoded.lines, texts, images)


def _in_batches(lines: Iterator[RawLine], size: int) -> Iterator[list[RawLine]]:
    while batch := list(islice(lines, size)):
        yield batch


def _decode_lines(
    lines: list[RawLine], columns: LineColumns, towers: Towers, limits: DataConfig
) -> _Decoded:
    decoded = _Decoded([], [], [])
    for line in lines:
        pair = FaultReason.LINE_TOO_LONG if line.data is None else parse_line(line.data, columns)
        if isinstance(pair, FaultReason):
            continue
        if pair.image is not None:
            facts = inspect_image(pair.image, limits.max_pixels, limits.min_image_side)
            image = (
                facts
                if isinstance(facts, FaultReason)
                else decode_image(pair.image, limits.max_pixels)
            )
            if isinstance(image, FaultReason):
                continue
            decoded.images.append(centre_crop(image, towers.image_size, towers.resizing))
        decoded.lines.append(line.line)
        decoded.captions.append(pair.caption or "")
    return decoded


@torch.inference_mode()
def _embed_images(towers: Towers, images: list[torch.Tensor]) -> torch.Tensor:
    towers.clip.eval()
    return encode_images(towers, torch.stack(images)).cpu()
