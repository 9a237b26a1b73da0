"""Keyword queries, as shops get them: two to four concepts of a caption instead of its sentence.

They are made for training, in the place of some captions, and for evaluation, from the captions of
a split. Both are pure functions of their seeds. A caption that is reworded costs its line's caption
(12 µs), its concepts (20 µs) and its tokens (150 µs) at every step; one that stays as it is costs a
draw (45 µs).

Shapes: B pairs, L tokens; Q queries, P pairs of a query with a right candidate.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.batches.loading import Batch
from model.batches.tokens import Tokenizer
from model.concepts.mining import Phrases
from model.config.sections import StageConfig
from model.pairs.index import PairIndex
from model.pairs.line_facts import caption_hash

FEWEST, MOST = 2, 4
# Part of the seed, so that a pair's words and its crop are drawn apart.
WORDS_STREAM = 1


def keyword_query(
    concepts: Sequence[int], phrases: Phrases, generator: np.random.Generator
) -> str | None:
    """Return two to four of a caption's concepts in its order, as a shopper would type them; None of fewer than two."""
    chosen = choose_concepts(concepts, generator)
    return " ".join(phrases.phrases[number] for number in chosen) if chosen else None


def choose_concepts(concepts: Sequence[int], generator: np.random.Generator) -> list[int]:
    """Return two to four of the concepts in their order, each number of them as likely; none of fewer than two."""
    if len(concepts) < FEWEST:
        return []
    wanted = int(generator.integers(FEWEST, min(MOST, len(concepts)), endpoint=True))
    return [
        concepts[place]
        for place in sorted(generator.choice(len(concepts), wanted, replace=False).tolist())
    ]


def drop_words(caption: str, share: float, generator: np.random.Generator) -> str:
    """Return a caption without a random share of its words (as spaces divide it), in its order, but
    never without any.

    Each word goes by itself; where all would go, one stays.
    """
    words = caption.split()
    if len(words) < 2:
        return caption
    draws = generator.random(len(words))
    stays = draws >= share
    stays[draws.argmax()] = True
    return " ".join(itertools.compress(words, stays))


@dataclass(frozen=True)
class Rewording:
    """Other words for a share of the captions of an index at every epoch, a pure function of (seed, epoch, row)."""

    index: PairIndex
    tokenizer: Tokenizer
    phrases: Phrases | None
    keyword_share: float
    word_drop: float
    seed: int

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch with the tokens of its reworded captions; the caption's id is that of
        the new words.

        Raises:
            DataError: a caption is not the one that was profiled.
        """
        reworded = {place: self.caption(int(row), epoch) for place, row in enumerate(batch.rows)}
        texts = {place: text for place, text in reworded.items() if text is not None}
        if not texts:
            return batch
        places, tokens, ids = list(texts), batch.tokens.clone(), batch.ids.clone()
        tokens[places] = self.tokenizer(list(texts.values()))
        hashes = np.array([caption_hash(text) for text in texts.values()], dtype=np.uint64)
        ids[places, 0] = torch.from_numpy(hashes.view(np.int64))
        return batch._replace(tokens=tokens, ids=ids)

    def caption(self, row: int, epoch: int) -> str | None:
        """Return the new words of a row's caption; None where it stays as it is."""
        generator = np.random.default_rng((self.seed, epoch, row, WORDS_STREAM))
        if self.phrases is not None and generator.random() < self.keyword_share:
            query = keyword_query(
                self.phrases.find(self.index.caption(row)), self.phrases, generator
            )
            if query is not None:
                return query
        return (
            drop_words(self.index.caption(row), self.word_drop, generator)
            if self.word_drop
            else None
        )


def rewording(
    stage: StageConfig, index: PairIndex, tokenizer: Tokenizer, phrases: Phrases | None, seed: int
) -> Rewording | None:
    """Return how a stage rewords its captions, None where it does not."""
    if stage.keyword_share == 0 and stage.word_drop == 0:
        return None
    return Rewording(index, tokenizer, phrases, stage.keyword_share, stage.word_drop, seed)
