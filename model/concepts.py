"""Concepts of the trade: phrases mined from captions, and their prototypes held in a feature queue.

A concept is a word or a merged phrase (``navy_blue``, ``casual_shoe``) that enough captions name. Its prototype is the
normalised mean of the queued image and text embeddings of the pairs that name it, each less the mean of its modality.
The queue keeps running sums, so a step costs O(batch · concepts a caption · D) whatever the queue's length.

Shapes: B pairs, C concepts, D embedding width, Q queue rows, M most concepts a caption (padded with -1).
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
from torch.nn.functional import normalize

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


class FeatureQueue(torch.nn.Module):
    """The latest Q pairs' embeddings as a ring buffer, with the running sums that prototypes are made of.

    Everything lives in buffers, so ``state_dict`` is the whole state.
    """

    def __init__(self, size: int, concepts: int, width: int) -> None:
        """Make an empty queue of ``size`` rows for C concepts and embeddings of width D."""
        super().__init__()
        self.register_buffer("features", torch.zeros(2, size, width))
        self.register_buffer("concepts", torch.full((size, MAX_CONCEPTS_A_CAPTION), -1))
        self.register_buffer("sums", torch.zeros(2, concepts, width))
        self.register_buffer("members", torch.zeros(concepts))
        self.register_buffer("total", torch.zeros(2, width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))

    features: torch.Tensor
    concepts: torch.Tensor
    sums: torch.Tensor
    members: torch.Tensor
    total: torch.Tensor
    filled: torch.Tensor
    cursor: torch.Tensor

    @torch.no_grad()
    def push(self, image_BD: torch.Tensor, text_BD: torch.Tensor, concepts_BM: torch.Tensor) -> None:
        """Put a batch in the place of the oldest rows."""
        size = self.features.shape[1]
        new = torch.stack([image_BD.detach().float(), text_BD.detach().float()])[:, -size:]
        concepts_BM = concepts_BM[-size:]
        rows = (self.cursor + torch.arange(new.shape[1], device=new.device)) % size
        self._account(self.features[:, rows], self.concepts[rows], sign=-1)
        self.features[:, rows], self.concepts[rows] = new, concepts_BM
        self._account(new, concepts_BM, sign=1)
        self.cursor.copy_((self.cursor + len(rows)) % size)
        self.filled.copy_((self.filled + len(rows)).clamp(max=size))

    def _account(self, features: torch.Tensor, concepts_BM: torch.Tensor, sign: int) -> None:
        row, slot = torch.nonzero(concepts_BM >= 0, as_tuple=True)
        named = concepts_BM[row, slot]
        self.members.index_add_(0, named, torch.full_like(named, sign, dtype=torch.float32))
        for side in (0, 1):
            self.sums[side].index_add_(0, named, sign * features[side, row])
        self.total += sign * features.sum(dim=1)

    @torch.no_grad()
    def rebuild(self) -> None:
        """Recompute the running sums from the rows, which takes off what rounding has added."""
        for buffer in (self.sums, self.members, self.total):
            buffer.zero_()
        self._account(self.features, self.concepts, sign=1)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean image and text embedding of the queue, [D] each."""
        image, text = self.total / self.filled.clamp(min=1)
        return image, text

    def prototypes(self) -> torch.Tensor:
        """Return each concept's prototype, L2-normalised [C, D]; zeros where it is not known."""
        means = self.total / self.filled.clamp(min=1)
        sides = self.sums / self.members.clamp(min=1)[None, :, None] - means[:, None, :]
        prototypes = normalize(normalize(sides[0], dim=1) + normalize(sides[1], dim=1), dim=1)
        return prototypes * self.is_known()[:, None]

    def is_known(self) -> torch.Tensor:
        """Return which concepts have a prototype, bool [C]: at least two queued pairs name them, and not all do.

        What all name lies at the mean itself, so only rounding would give it a direction.
        """
        return (self.members > 1.5) & (self.members < self.filled)


def concept_targets(concepts_BM: torch.Tensor, idf_C: torch.Tensor, is_known_C: torch.Tensor) -> torch.Tensor:
    """Return the weights of each pair's known concepts, proportional to idf and summing to 1, float32 [B, C]."""
    weights = torch.zeros(len(concepts_BM), len(idf_C), device=idf_C.device)
    row, slot = torch.nonzero(concepts_BM >= 0, as_tuple=True)
    named = concepts_BM[row, slot]
    weights[row, named] = (idf_C * is_known_C)[named]
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
