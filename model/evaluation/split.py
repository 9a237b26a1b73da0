"""Rank@K of towers on a split, from pairs to ranks: what training asks for after every epoch.

Embedding takes nearly all of the time; ranking 1,000 pairs both ways takes less than 0.1 s.
"""

from collections.abc import Callable

from model.batches.loading import PairInput
from model.embeddings.embed import embed_pairs
from model.evaluation.retrieval import RetrievalResult, evaluate_retrieval, relate
from model.towers.towers import Towers


def evaluate_split(
    towers: Towers,
    pairs: PairInput,
    batch_size: int,
    block_rows: int,
    workers: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> RetrievalResult:
    """Evaluate the towers on a split, exactly, over all its distinct captions and images."""
    text_ND, image_ND = embed_pairs(towers, pairs, batch_size, workers, on_rows)
    related = relate(pairs.index.caption_hash.tolist(), pairs.index.image_hash.tolist())
    return evaluate_retrieval(
        text_ND[related.caption_row], image_ND[related.image_row], related, block_rows
    )
