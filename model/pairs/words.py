"""The words of a caption.

Chinese is split character by character for profiles, and by a segmenter for concepts. Splitting a
caption of seven words takes about 6 µs, a Chinese one 10 µs. The segmenter, a dictionary of
jieba's, is loaded by the first caption that needs it (0.3 s, 57 MB), so other scripts cost and need
nothing.
"""

import re
import unicodedata
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rjieba import Jieba

# Scripts written without spaces.
_UNSPACED = r"\u2e80-\u9fff\uf900-\ufaff"
# A word is a run of letters and digits; scripts written without spaces give one word a character.
WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_RUN = re.compile(r"[^\W_]+")
_APOSTROPHE = re.compile(r"['’](?:s\b)?")
_INITIALS = re.compile(r"(?<=\b\w)\.(?=\w\b)")
# What no rule for a plural gets right, as shops write it.
_IRREGULAR = {
    "woman": "women",
    "man": "men",
    "child": "children",
    "scarves": "scarf",
    "scarve": "scarf",
}


def words_of(caption: str) -> list[str]:
    """Return the words of a caption, case-folded; a Chinese character is a word."""
    return WORD.findall(unicodedata.normalize("NFKC", caption).casefold())


def spellings(caption: str) -> list[str]:
    """Return the words of a caption as written but for case, Chinese cut into words.

    Initials are put together and 's goes: ``U.S. Women's T-shirt`` gives us, women, t, shirt.
    """
    folded = caption if caption.isascii() else unicodedata.normalize("NFKC", caption)
    text = _INITIALS.sub("", _APOSTROPHE.sub("", folded.casefold()))
    runs: list[str] = _RUN.findall(text)
    if text.isascii() or not _HAS_UNSPACED.search(text):
        return runs

    # Without its guesses at unknown words the segmenter cuts a word alone as it cuts it in a
    # sentence; what the dictionary lacks is found by association. Its mixed words (T恤) are in
    # capitals.
    cut = (
        _segmenter().cut(run.upper(), False) if _HAS_UNSPACED.search(run) else [run] for run in runs
    )
    return [word.casefold() for words in cut for word in words]


@cache
def _segmenter() -> "Jieba":
    from rjieba import Jieba

    return Jieba()


@lru_cache(maxsize=1 << 16)
def singular(word: str) -> str:
    """Return the common form of spellings: no plural s or es, ``y`` for ``ie`` and ``ies``.

    For comparing only: ``hoodie``, ``hoodies`` and ``hoody`` become hoody, ``canvas`` becomes
    canva.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or word.endswith("ss"):
        return word
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    word = word.removesuffix("s")
    return word[:-2] + "y" if len(word) > 3 and word.endswith("ie") else word
