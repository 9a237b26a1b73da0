"""Keyword queries, as shops get them: two to four concepts of a caption instead of its sentence.

Training puts them in the place of some captions; evaluation (`model.evaluation.queries`) chooses
the concepts of its queries here. Both are pure functions of their seeds. A reworded caption costs
reading its line (12 µs), finding its concepts (20 µs) and tokenising the query (150 µs) at every
step; a caption that stays as it is costs a draw (45 µs).

Shapes: B pairs, L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.batches.loading import Batch
from model.batches.tokens import Tokenizer
from model.concepts.mining import Phrases
from model.pairs.index import PairIndex
from model.pairs.line_facts import caption_hash

FEWEST, MOST = 2, 4
# Part of the seed, so that a pair's words and its crop are drawn apart.
WORDS_STREAM = 1


def keyword_query(
    concepts: Sequence[int], phrases: Phrases, generator: np.random.Generator
) -> str | None:
    """Join two to four of a caption's concepts, as a shopper would type them; None of fewer."""
    chosen = choose_concepts(concepts, generator)
    return " ".join(phrases.phrases[number] for number in chosen) if chosen else None


def choose_concepts(concepts: Sequence[int], generator: np.random.Generator) -> list[int]:
    """Draw two to four of the concepts and keep their order; none where there are fewer than two.

    Two, three and four are as likely.
    """
    if len(concepts) < FEWEST:
        return []
    wanted = int(generator.integers(FEWEST, min(MOST, len(concepts)), endpoint=True))
    places = generator.choice(len(concepts), wanted, replace=False).tolist()
    return [concepts[place] for place in sorted(places)]


@dataclass(frozen=True)
class Rewording:
    """Other words for a share of an index's captions, a pure function of (seed, epoch, row)."""

    index: PairIndex
    tokenizer: Tokenizer
    phrases: Phrases
    keyword_share: float
    seed: int

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch with the tokens of its reworded captions, and the ids of the new words.

        Raises:
            DataError: a caption is not the one that was profiled.
        """
        reworded = {place: self.caption(int(row), epoch) for place, row in enumerate(batch.rows)}
        texts = {place: text for place, text in reworded.items() if text is not None}
        if not texts:
            return batch

        places, tokens, ids = list(texts), batch.tokens.clone(), batch.ids.clone()
        tokens[places] = self.tokenizer(list(texts.values()))

        # Equal queries count as one caption, so that they are no negatives of each other.
        hashes = np.array([caption_hash(text) for text in texts.values()], dtype=np.uint64)
        ids[places, 0] = torch.from_numpy(hashes.view(np.int64))
        return batch._replace(tokens=tokens, ids=ids)

    def caption(self, row: int, epoch: int) -> str | None:
        """Draw the new words of a row's caption; None where it stays as it is."""
        generator = np.random.default_rng((self.seed, epoch, row, WORDS_STREAM))
        if generator.random() >= self.keyword_share:
            return None
        return keyword_query(self.phrases.find(self.index.caption(row)), self.phrases, generator)
