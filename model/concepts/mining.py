"""Concepts of the trade: phrases mined from captions, and which caption names which.

A concept is a word or a phrase of two or three (``navy blue``, ``casual shoes``) that enough
captions name, under the spelling that they use most. Each word of a caption belongs to one concept
at most, the longest; spellings together and apart (``t-shirt``, ``tshirt``), in English singular
and plural too, are one. Mining 2,000,000 captions of seven words takes about five minutes of one
core beside reading them, with at most `MAX_TALLIED` words and as many phrases in memory.

Shapes: N captions, C concepts, M most concepts a caption (padded with -1).
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from model.pairs.words import Language, join_words, language_of, word_key, words_of

MAX_PHRASE_WORDS = 3
MAX_CONCEPTS_A_CAPTION = 16
MAX_TALLIED = 1_000_000
MIN_TOGETHER = 5
# Of 13 phrases that the side table of 7,583 real pairs has as a colour or an article type, the
# first pass finds 6 that hardly stand apart, and 9 with this beside it (casual shoe, sport shoe,
# laptop bag); with 0.55 7, with 0.4 no more. Log-likelihood finds 9 of them among as many phrases,
# but joins colours to things, which shoppers combine freely (brown belt, blue jean; DECISIONS 23).
MIN_NPMI = 0.5
EXAMPLES = 3
STOP_WORDS = frozenset(
    " ".join(
        (
            "a an and are as at be been but by can for from had has have he i in into is it its",
            "made more not of on or our out over pack per s set she so than that the their them",
            "these they this those to under up was we were which while who with without you your",
            "的 了 和 与 及 或 在 是 为 有 也 都 就 不 把 被 对 从 到 等",
            "之 其 这 那 个 件 款 条 双 只 套 新款 正品 包邮",
            "の と に で は を が も や から まで な た",
            "และ ที่ ของ สำหรับ แบบ กับ ใน มี จาก",
            "និង សម្រាប់ របស់ ដែល ໄປ ແລະ ສຳລັບ ຂອງ နှင့် အတွက် သော တွင်",
            "का के की को में से और है वाला वाली वाले साथ एवं এবং ও এর জন্য সাথে থেকে மற்றும் உடன் ஒரு",
            "في من على مع و أو عن إلى של עם את ב ל ו על או",
            "и с в для на из без от",
        )
    ).split()
)
# In English captions some of these are words of their own (die-cut, Las Vegas).
LATIN_STOP_WORDS = frozenset(
    " ".join(
        (
            "mit und für aus ohne der die das den dem des ein eine einen einer im in am an auf von",
            "vom zu zum zur bei oder als ist auch nach bis sich wie",
            "de du des d l un une le la les et en à au aux avec pour sans sur par dans ou qui est",
            "el los las una unos unas y o con para por sin del al que es se lo su",
            "il lo gli i di da della con per senza e ed nel com sem do dos das ao em os",
            "met voor van het een zonder med och til för og z dla ze ve ile için untuk dengan",
        )
    ).split()
)

# The concepts that each caption names, int32 [N, M], padded with -1.
ConceptLabels = npt.NDArray[np.int32]

_T = TypeVar("_T", bound=Hashable)


class _Finder:
    """Finds phrases by their keys: what is left of a phrase without spaces, plural and case."""

    def __init__(
        self, keys: Iterable[str], language: Language, most_words: int = MAX_PHRASE_WORDS
    ) -> None:
        self._number = {key: number for number, key in enumerate(keys)}
        self._language, self._most_words = language, most_words

    def __len__(self) -> int:
        return len(self._number)

    def __call__(self, words: Sequence[str]) -> Iterator[tuple[int, int, int]]:
        """Yield a caption's phrases in its order, at each word the longest that starts there.

        Each is its number and the words [start, stop) that name it.
        """
        parts = [word_key(word, self._language) for word in words]
        start = 0
        while start < len(parts):
            # The longest first; without any the next word is looked at.
            for stop in range(min(start + self._most_words, len(parts)), start, -1):
                number = self._number.get("".join(parts[start:stop]))
                if number is not None:
                    yield number, start, stop
                    start = stop
                    break
            else:
                start += 1


@dataclass(frozen=True)
class Phrases:
    """C different phrases that captions of a language are searched for."""

    phrases: tuple[str, ...]
    language: Language = field(default="en", kw_only=True)

    def __len__(self) -> int:
        return len(self.phrases)

    def find(self, caption: str) -> list[int]:
        """Number the phrases that a caption names, each once, in the caption's order."""
        words = words_of(caption, self.language)
        return list(dict.fromkeys(number for number, *_ in self.finder(words)))

    @cached_property
    def finder(self) -> _Finder:
        """Make what searches for them, once."""
        language = self.language
        most_words = max((len(words_of(phrase, language)) for phrase in self.phrases), default=0)
        keys = [phrase_key(phrase, language) for phrase in self.phrases]
        return _Finder(keys, language, max(MAX_PHRASE_WORDS, most_words))


@dataclass(frozen=True)
class Vocabulary(Phrases):
    """The concepts of captions: how many captions name each, of how many, and the first of them."""

    counts: tuple[int, ...]
    captions: int
    examples: tuple[tuple[str, ...], ...] = field(default=(), compare=False)

    def idf(self) -> torch.Tensor:
        """Compute log(captions / count) of each concept, float32 [C]; a count of 0 counts as 1."""
        weights = (math.log(self.captions / max(count, 1)) for count in self.counts)
        return torch.tensor([*weights], dtype=torch.float32)

    def label(self, captions: Iterable[str]) -> ConceptLabels:
        """Number the concepts that each caption names, int32 [N, M], ascending, padded with -1.

        Of more than M the rarest are kept.
        """

        def rows() -> Iterator[list[int]]:
            for caption in captions:
                rarest = sorted(
                    self.find(caption), key=lambda number: (self.counts[number], number)
                )
                named = sorted(rarest[:MAX_CONCEPTS_A_CAPTION])
                yield named + [-1] * (MAX_CONCEPTS_A_CAPTION - len(named))

        return np.fromiter(rows(), np.dtype((np.int32, MAX_CONCEPTS_A_CAPTION)))


def phrase_key(phrase: str, language: Language = "en") -> str:
    """Reduce a phrase to what its spellings share; empty where it has no letter or digit."""
    return "".join(word_key(word, language) for word in words_of(phrase, language))


def mine_concepts(
    captions: Iterable[str],
    min_count: int,
    max_concepts: int | None = None,
    language: Language | None = None,
) -> Vocabulary:
    """Mine the concepts that at least ``min_count`` captions name; digits and stop words are none.

    Without a language it is that of the captions (`model.pairs.words.language_of`).

    Neighbouring words become a phrase, in up to four passes, when they hardly stand apart or occur
    together far more often than chance; a part that nearly always stands in a longer phrase is then
    too rare to be a concept by itself. The captions are iterated over a few times, so that millions
    of them need not be held. Of more than ``max_concepts`` the most frequent are kept.
    """
    language = language_of(captions) if language is None else language
    merges: list[frozenset[tuple[str, str]]] = []
    while len(merges) < 4 and (
        found := _pairs_to_merge(_units(captions, merges, language), language)
    ):
        merges.append(found)

    # The keys of the words and phrases that may be concepts, whatever their spelling.
    often = Counter[str]()
    for words in _units(captions, merges, language):
        often.update({word.replace(" ", "") for word in words if _is_eligible(word, language)})
        _trim(often)
    keys = sorted(key for key, count in often.items() if count >= min_count)

    while True:
        counts, spelled, examples, total = _tally(captions, _Finder(keys, language), language)
        kept = [number for number, count in enumerate(counts) if min_count <= count < total]
        kept = sorted(kept, key=lambda number: (-counts[number], keys[number]))[:max_concepts]
        if len(kept) == len(keys):
            break
        # What goes leaves its words to others, so those are counted anew.
        keys = sorted(keys[number] for number in kept)

    # Each concept bears its most frequent spelling; they are sorted by name.
    names = [min(each, key=lambda name: (-each[name], name)) for each in spelled]
    order = sorted(range(len(names)), key=names.__getitem__)
    return Vocabulary(
        tuple(names[number] for number in order),
        tuple(counts[number] for number in order),
        total,
        tuple(tuple(examples[number]) for number in order),
        language=language,
    )


def count_concepts(captions: Iterable[str], phrases: Phrases) -> Vocabulary:
    """Count how many captions name each of the given phrases; order and spelling stay."""
    counts, _, examples, total = _tally(captions, phrases.finder, phrases.language)
    return Vocabulary(
        phrases.phrases,
        tuple(counts),
        total,
        tuple(map(tuple, examples)),
        language=phrases.language,
    )


def _tally(
    captions: Iterable[str], finder: _Finder, language: Language
) -> tuple[list[int], list[Counter[str]], list[list[str]], int]:
    """Count the captions that name each phrase, in which spellings, the first; and all captions."""
    size, total = len(finder), 0
    counts = [0] * size
    spelled: list[Counter[str]] = [Counter() for _ in range(size)]
    examples: list[list[str]] = [[] for _ in range(size)]

    for caption in captions:
        total += 1
        words = words_of(caption, language)
        # A caption that names a phrase twice counts once, by the last spelling.
        for number, start, stop in {found[0]: found for found in finder(words)}.values():
            counts[number] += 1
            spelled[number][join_words(words[start:stop])] += 1
            if len(examples[number]) < EXAMPLES and caption not in examples[number]:
                examples[number].append(caption)
    return counts, spelled, examples, total


def _is_eligible(word: str, language: Language) -> bool:
    is_small = word in STOP_WORDS or (
        language == "other" and (word in LATIN_STOP_WORDS or (len(word) == 1 and word.isascii()))
    )
    return not is_small and not any(map(str.isdigit, word))


def _units(
    captions: Iterable[str], merges: Sequence[frozenset[tuple[str, str]]], language: Language
) -> Iterator[list[str]]:
    for caption in captions:
        words = [word_key(word, language) for word in words_of(caption, language)]
        for pairs in merges:
            words = _merge(words, pairs)
        yield words


def _merge(words: list[str], pairs: frozenset[tuple[str, str]]) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(words):
        if tuple(words[position : position + 2]) in pairs:
            merged.append(f"{words[position]} {words[position + 1]}")
            position += 2
        else:
            merged.append(words[position])
            position += 1
    return merged


def _pairs_to_merge(units: Iterable[list[str]], language: Language) -> frozenset[tuple[str, str]]:
    """Find the neighbours x y that make a phrase of at most three words."""
    singles, together, total = Counter[str](), Counter[tuple[str, str]](), 0
    for words in units:
        singles.update(set(words))
        together.update(set(pairwise(words)))
        total += 1
        _trim(singles)
        _trim(together)

    return frozenset(
        (x, y)
        for (x, y), n in together.items()
        if n >= MIN_TOGETHER
        and x.count(" ") + y.count(" ") + 2 <= MAX_PHRASE_WORDS
        and _is_eligible(x, language)
        and _is_eligible(y, language)
        and _is_phrase(n, singles[x], singles[y], total)
    )


def _is_phrase(together: int, x: int, y: int, total: int) -> bool:
    """Decide by the numbers of captions with both in turn, with each, and of all."""
    is_hardly_apart = together >= 0.5 * max(x, y) or (together >= 8 and together >= 0.8 * min(x, y))
    # Common words make no phrase.
    is_common = max(x, y) > 0.25 * total
    return not is_common and (is_hardly_apart or npmi(together, x, y, total) >= MIN_NPMI)


def npmi(together: int, x: int, y: int, total: int) -> float:
    """Compute the normalised pointwise mutual information of two events.

    It is 1 where they always come together, 0 by chance, -1 never.

    Source: G. Bouma, Normalized (Pointwise) Mutual Information in Collocation Extraction (2009).
    """
    return math.log(together * total / (x * y)) / math.log(total / together)


def _trim(counts: Counter[_T]) -> None:
    """Keep memory flat: of more than `MAX_TALLIED` drop the rarest so far until half are left."""
    level = 0
    if len(counts) > MAX_TALLIED:
        while len(counts) > MAX_TALLIED // 2:
            level += 1
            for each in [each for each, count in counts.items() if count <= level]:
                del counts[each]
