"""Rank@K of towers on a split: what training asks after every epoch."""

from collections.abc import Callable

from model.batches.loading import PairInput
from model.embeddings.embed import embed_pairs
from model.evaluation.retrieval import RetrievalResult, evaluate_retrieval, relate
from model.towers.towers import Towers


def judge(
    towers: Towers,
    pairs: PairInput,
    batch_size: int,
    block_rows: int,
    workers: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> RetrievalResult:
    """Return Rank@K of the towers on a split, exact over all its distinct captions and images."""
    text_ND, image_ND = embed_pairs(towers, pairs, batch_size, workers, on_rows)
    related = relate(pairs.index.caption_hash.tolist(), pairs.index.image_hash.tolist())
    return evaluate_retrieval(
        text_ND[related.caption_row], image_ND[related.image_row], related, block_rows
    )
