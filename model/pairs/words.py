"""The words of a caption: one function for leaks, concepts, keyword queries and drift.

Words follow Unicode's word boundaries (UAX #29): a letter keeps its combining marks, so Hindi,
Tamil and vowelled Arabic stay whole. Shops write `7.5`, `s.Oliver` and `red_hot`, so a full stop
and an underscore part words here. What is written without spaces is cut by a dictionary: Chinese
by jieba's, whose words are the trade's (连衣裙, 休闲鞋; ICU cuts both in two), Thai, Lao, Khmer,
Burmese, Japanese and traditional Chinese by ICU's. A caption of seven words takes about 3 µs in
ASCII, 10 µs in other spaced scripts, 17 µs in Chinese, 35 µs in Thai or Japanese. ICU's library
takes 35 ms and 7 MB; jieba's dictionary is loaded by the first caption that needs it (0.3 s, 57
MB).
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal

import regex
from icu4py.breakers import WordBreaker

from model.pairs.markup import clean_html, has_markup

if TYPE_CHECKING:
    from rjieba import Jieba

# English has plurals and 's to take off; in other languages words stay as they are written.
Language = Literal["en", "other"]

# Up to U+02FF, where no mark combines, the rules below come to this.
_LATIN_WORD = re.compile(r"[^\W_]+")
_BEYOND_LATIN = re.compile("[\u0300-\U0010ffff]")
# Letters and digits with their marks and joiners; in Hebrew and Cyrillic an apostrophe between
# letters is one of them (ג'ינס, צה"ל, м'яч), in Latin it stands for an elision.
_WORD = regex.compile(
    r"""[\p{L}\p{N}][\p{L}\p{N}\p{M}\u200c\u200d]*+
    (?:(?:(?<=\p{Hebrew}\p{M}*)['"](?=\p{Hebrew})|(?<=\p{Cyrillic}\p{M}*)'(?=\p{Cyrillic}))
    [\p{L}\p{N}\p{M}\u200c\u200d]++)*""",
    regex.VERBOSE,
)
# Scripts written without spaces: those of South-East Asia (line break class SA), and East Asia's.
_BY_ICU = r"\p{lb=SA}\p{Hiragana}\p{Katakana}ー"
_HAS_ICU = regex.compile(f"[{_BY_ICU}]")
_UNSPACED = regex.compile(rf"[{_BY_ICU}\p{{Han}}\p{{Bopomofo}}]")
_HAN = regex.compile(r"\p{Han}+")
_GAP_WITHIN = regex.compile(f"(?<={_UNSPACED.pattern}) (?={_UNSPACED.pattern})")
_GAP_BESIDE = regex.compile(f"(?<={_UNSPACED.pattern}) | (?={_UNSPACED.pattern})")
# Not seen and not heard: soft hyphens, marks of direction, Arabic's stretched lines. A space of no
# width parts words, as Thai and Khmer use it; joiners belong to theirs.
_SILENT = regex.compile(r"[^\P{Cf}\u200b-\u200d]|\u0640")
_QUOTES = str.maketrans({"’": "'", "\u05f3": "'", "\u05f4": '"'})

# Of English; Cyrillic and Hebrew keep theirs.
_APOSTROPHE = re.compile(r"['’](?:s\b)?(?![\u0400-\u05ff])")
_INITIALS = re.compile(r"(?<=\b\w)\.(?=\w\b)")
# What no rule for a plural gets right, as shops write it.
_IRREGULAR = {
    "woman": "women",
    "man": "men",
    "child": "children",
    "scarves": "scarf",
    "scarve": "scarf",
}

# Small words by which a set of captions is known for English, or for another language in Latin
# letters. None of either is a word of the other's shops.
_ENGLISH = {"and", "for", "from", "of", "the", "with", "women", "men", "girls", "boys", "kids"}
_OTHER_LATIN = frozenset(
    " ".join(
        (
            "mit für und aus ohne der das zum damen herren kinder",
            "de du des et avec pour sans les femme homme enfant",
            "con para sin los las del mujer hombre niña niño",
            "della senza donna uomo com sem feminino masculino",
            "met voor zonder van het heren dames med och til för uden",
            "dla ze damska męska ile için kadın erkek untuk dengan wanita pria",
        )
    ).split()
)
SAMPLED_CAPTIONS = 10_000


def words_of(caption: str, language: Language = "other") -> list[str]:
    """List the words of a caption in lower case; HTML is none.

    In English initials are put together and 's goes: ``U.S. Women's T-shirt`` gives us, women, t,
    shirt. Elsewhere an apostrophe parts Latin words (``robe d'été``: robe, d, été).
    """
    text = clean_html(caption) if has_markup(caption) else caption
    text = text.lower() if text.isascii() else _canonical(text)
    if language == "en":
        text = _INITIALS.sub("", _APOSTROPHE.sub("", text))
    if text.isascii() or not _BEYOND_LATIN.search(text):
        return _LATIN_WORD.findall(text)

    runs: list[str] = _WORD.findall(text)
    if not _UNSPACED.search(text):
        return runs

    # One dictionary a caption: characters that Japanese shares with Chinese are its own.
    cut = _cut_by_icu if _HAS_ICU.search(text) or not _is_simplified(text) else _cut_by_jieba
    return [word for run in runs for word in (cut(run) if _UNSPACED.search(run) else [run]) if word]


def same_words(words: Sequence[str]) -> str:
    """Join words into the text by which captions are compared.

    Where a script has no spaces, where they stand says nothing; ß is ss.
    """
    text = " ".join(words)
    return text if text.isascii() else _GAP_BESIDE.sub("", text).casefold()


def join_words(words: Sequence[str]) -> str:
    """Join neighbouring words as they are written: with spaces where their script has some."""
    text = " ".join(words)
    return text if text.isascii() else _GAP_WITHIN.sub("", text)


def language_of(captions: Iterable[str]) -> Language:
    """Tell English from other languages by the small words of the first 10,000 captions.

    Captions without any count as English, whose plurals are then one with their singulars.
    """
    english = other = 0
    for caption in islice(captions, SAMPLED_CAPTIONS):
        words = set(words_of(caption))
        english += not words.isdisjoint(_ENGLISH)
        other += not words.isdisjoint(_OTHER_LATIN)
    return "other" if other > english else "en"


@lru_cache(maxsize=1 << 16)
def word_key(word: str, language: Language) -> str:
    """Reduce a word to what its spellings share: case, and in English singular and plural."""
    return singular(word.casefold()) if language == "en" else word.casefold()


def singular(word: str) -> str:
    """Return the common form of spellings: no plural s or es, ``y`` for ``ie`` and ``ies``.

    For comparing English words only: ``hoodie``, ``hoodies`` and ``hoody`` become hoody, ``canvas``
    becomes canva.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 3 or word.endswith("ss"):
        return word
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    word = word.removesuffix("s")
    return word[:-2] + "y" if len(word) > 3 and word.endswith("ie") else word


def _canonical(text: str) -> str:
    """Return the text in lower case and canonical form (NFC), one character for each of its forms.

    Full-width letters, ligatures and the like become plain ones (NFKC), but the vowel am of Thai
    and Lao stays one letter, as dictionaries have it.
    """
    text = unicodedata.normalize("NFKC", text)
    text = text.replace("\u0e4d\u0e32", "\u0e33").replace("\u0ecd\u0eb2", "\u0eb3")
    return unicodedata.normalize("NFC", _SILENT.sub("", text).translate(_QUOTES).lower())


def _is_simplified(text: str) -> bool:
    """Decide whether jieba's dictionary knows all Chinese characters: those of GB 2312."""
    try:
        "".join(_HAN.findall(text)).encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def _cut_by_jieba(run: str) -> list[str]:
    # Without its guesses at unknown words the segmenter cuts a word alone as it cuts it in a
    # sentence; what the dictionary lacks is found by association. Its mixed words (T恤) are in
    # capitals.
    return [word.lower() for word in _jieba().cut(run.upper(), False)]


def _cut_by_icu(run: str) -> list[str]:
    return list(WordBreaker(run, "en"))


@cache
def _jieba() -> "Jieba":
    from rjieba import Jieba

    return Jieba()
