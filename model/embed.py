"""Pairs to embeddings, a batch at a time: what evaluation, validation and export share.

Shapes: N pairs, D embedding width.
"""

from collections.abc import Callable

import numpy as np
import torch

from model.dataset import Crop, PairIndex, load_batch, prefetch
from model.retrieval import RetrievalResult, evaluate_retrieval, relate
from model.towers import Towers, encode_images, encode_texts


@torch.inference_mode()
def embed_pairs(
    towers: Towers,
    index: PairIndex,
    batch_size: int,
    workers: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the text and the image embeddings of a split, float32 L2-normalised on the CPU, [N, D] each.

    Raises:
        DataError: a line cannot be decoded any more.
    """
    towers.clip.eval()
    crop = Crop(towers.image_size)
    batches = [np.arange(start, min(start + batch_size, len(index))) for start in range(0, len(index), batch_size)]
    texts, images = [], []
    for batch in prefetch(batches, lambda rows: load_batch(index, rows, crop), workers):
        texts.append(encode_texts(towers, batch.captions).cpu())
        images.append(encode_images(towers, batch.images).cpu())
        on_rows(len(batch.rows))
    return torch.cat(texts), torch.cat(images)


def judge(towers: Towers, index: PairIndex, batch_size: int, block_rows: int, workers: int) -> RetrievalResult:
    """Return Rank@K of the towers on a split, exact over all its distinct captions and images."""
    text_ND, image_ND = embed_pairs(towers, index, batch_size, workers)
    related = relate(index.caption_hash.tolist(), index.image_hash.tolist())
    return evaluate_retrieval(text_ND, image_ND, related, block_rows)
