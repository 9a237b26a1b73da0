"""Concepts of the trade: phrases mined from captions, and which pair names which.

A concept is a word or a merged phrase (``navy_blue``, ``casual_shoe``) that enough captions name.

Shapes: N captions, C concepts, M most concepts a caption (padded with -1).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

MERGE_PASSES = 4
MAX_CONCEPTS_A_CAPTION = 16
COMMON_SHARE = 0.25
STOP_WORDS = frozenset(
    "a an and as at by for from in into is it its of on or per s set the to up with without pack".split()  # noqa: SIM905
)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Vocabulary:
    """The concepts of a set of captions: C phrases with the number of captions that name each."""

    phrases: tuple[str, ...]
    counts: tuple[int, ...]
    captions: int
    merges: tuple[frozenset[tuple[str, str]], ...]

    def __len__(self) -> int:
        return len(self.phrases)

    def idf(self) -> torch.Tensor:
        """Return log(captions / count) of each concept, float32 [C]."""
        return torch.tensor([math.log(self.captions / count) for count in self.counts], dtype=torch.float32)

    def label(self, captions: Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the concepts that each caption names, int32 [N, M], padded with -1."""
        number = {phrase: index for index, phrase in enumerate(self.phrases)}

        def rows() -> Iterator[list[int]]:
            for words in _texts(captions, self.merges):
                named = sorted({number[word] for word in words if word in number})[:MAX_CONCEPTS_A_CAPTION]
                yield named + [-1] * (MAX_CONCEPTS_A_CAPTION - len(named))

        return np.fromiter(rows(), np.dtype((np.int32, MAX_CONCEPTS_A_CAPTION)))


def mine_concepts(captions: Iterable[str], min_count: int) -> Vocabulary:
    """Mine the concepts that at least ``min_count`` captions name; digits and stop words are none.

    Neighbouring words merge into a phrase, in up to four passes, when they mostly occur together. The captions are
    iterated over once a pass and once more, so that millions of them need not be held.
    """
    merges: list[frozenset[tuple[str, str]]] = []
    while len(merges) < MERGE_PASSES and (found := _pairs_to_merge(_texts(captions, merges))):
        merges.append(found)
    counts, total = _count(_texts(captions, merges))
    kept = sorted(
        (word, count)
        for word, count in counts.items()
        if min_count <= count < total and word not in STOP_WORDS and not any(map(str.isdigit, word))
    )
    return Vocabulary(tuple(word for word, _ in kept), tuple(count for _, count in kept), total, tuple(merges))


def _texts(captions: Iterable[str], merges: Sequence[frozenset[tuple[str, str]]]) -> Iterator[list[str]]:
    return (_merge_all(_words(caption), merges) for caption in captions)


def _count(texts: Iterable[list[str]]) -> tuple[Counter[str], int]:
    """Return in how many texts each word occurs, and how many texts there are."""
    counts, total = Counter[str](), 0
    for words in texts:
        counts.update(set(words))
        total += 1
    return counts, total


def _words(caption: str) -> list[str]:
    """Return lower-case words without punctuation, hyphens and a plural s."""
    words = _WORD.findall(caption.lower())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words]


def _pairs_to_merge(texts: Iterable[list[str]]) -> frozenset[tuple[str, str]]:
    """Return the neighbours x y that mostly occur together; a word of every fourth caption merges with none."""
    singles, together, total = Counter[str](), Counter[tuple[str, str]](), 0
    for words in texts:
        singles.update(set(words))
        together.update(set(pairwise(words)))
        total += 1
    common = COMMON_SHARE * total
    return frozenset(
        (x, y)
        for (x, y), n in together.items()
        if max(singles[x], singles[y]) <= common
        and not {x, y} & STOP_WORDS
        and ((n >= 5 and n / max(singles[x], singles[y]) >= 0.5) or (n >= 8 and n / min(singles[x], singles[y]) >= 0.8))
    )


def _merge(words: list[str], pairs: frozenset[tuple[str, str]]) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(words):
        if tuple(words[position : position + 2]) in pairs:
            merged.append(f"{words[position]}_{words[position + 1]}")
            position += 2
        else:
            merged.append(words[position])
            position += 1
    return merged


def _merge_all(words: list[str], merges: Iterable[frozenset[tuple[str, str]]]) -> list[str]:
    for pairs in merges:
        words = _merge(words, pairs)
    return words
