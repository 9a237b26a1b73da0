"""The towers' tokeniser as one ``tokenizer.json`` of the library tokenizers, with the same ids.

open_clip's byte pairs are converted; WordPiece and Hugging Face's fast tokenisers are that form
already. Converting takes 0.3 s of a core.
"""

from functools import cache
from itertools import count
from typing import Any, NamedTuple

import regex
from open_clip.tokenizer import (
    HFTokenizer,
    SimpleTokenizer,
    _clean_canonicalize,
    _clean_lower,
    _clean_whitespace,
)
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing

from model.errors import NoPortableForm
from model.towers.bert import WordPieces
from model.towers.folder import verbatim
from model.towers.towers import Towers

# How open_clip repairs a caption first, and by which name `model.embeddings.served` knows it.
CLEANING = {
    _clean_canonicalize: "canonicalize",
    _clean_lower: "lower",
    _clean_whitespace: "whitespace",
    verbatim: "verbatim",
}
END_OF_WORD = "</w>"
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
SURROGATES = range(0xD800, 0xE000)


class PortableTokenizer(NamedTuple):
    """A tokenizer.json that cuts to the context and adds no padding, and what stands beside it.

    ``clean`` names what is done to a caption first, ``padding`` is the id that fills up, and
    ``replaced`` an id that becomes 0.
    """

    content: str
    clean: str
    padding: int
    replaced: int | None = None


def port_tokenizer(towers: Towers) -> PortableTokenizer:
    """Return the tokeniser of towers in portable form.

    Raises:
        NoPortableForm: it is of a kind that has none.
    """
    tokenizer: Any = towers.tokenizer
    if isinstance(tokenizer, WordPieces):
        alone = Tokenizer.from_str(tokenizer.tokenizer.to_str())
        alone.no_padding()
        return PortableTokenizer(alone.to_str(), "verbatim", padding=0)

    clean = CLEANING.get(getattr(tokenizer, "clean_fn", None))
    if clean is None:
        raise NoPortableForm(f"the tokeniser, a {type(tokenizer).__name__}, has no portable form")
    if isinstance(tokenizer, SimpleTokenizer) and tokenizer.reduction_fn is None:
        return PortableTokenizer(_byte_pairs(tokenizer).to_str(), clean, padding=0)
    if isinstance(tokenizer, HFTokenizer) and not tokenizer.tokenizer_mode:
        return _hugging_face(tokenizer, clean)
    raise NoPortableForm("the tokeniser shortens captions by a rule that has no portable form")


def _hugging_face(tokenizer: HFTokenizer, clean: str) -> PortableTokenizer:
    inner: Any = tokenizer.tokenizer
    if getattr(inner, "backend_tokenizer", None) is None or inner.padding_side != "right":
        raise NoPortableForm(f"the tokeniser, a {type(inner).__name__}, has no portable form")

    alone = Tokenizer.from_str(inner.backend_tokenizer.to_str())
    alone.no_padding()
    alone.enable_truncation(tokenizer.context_length, direction=inner.truncation_side)
    replaced = inner.sep_token_id if tokenizer.strip_sep_token else None
    return PortableTokenizer(alone.to_str(), clean, inner.pad_token_id, replaced)


def _byte_pairs(tokenizer: SimpleTokenizer) -> Tokenizer:
    """Convert CLIP's byte pairs.

    A caption that spells a special token gets its id, as from open_clip: merges of the lowest rank,
    which no other word reaches, put it together.
    """
    vocabulary = dict(tokenizer.encoder)
    merges = sorted(tokenizer.bpe_ranks, key=lambda pair: tokenizer.bpe_ranks[pair])
    special = [tokenizer.decoder[number] for number in tokenizer.all_special_ids]
    unused = count(len(vocabulary))
    for word in special:
        number = vocabulary.pop(word)
        left, *more = _pieces(tokenizer, word)
        for right in more:
            merges.append((left, right))
            left += right
            if left not in vocabulary:
                vocabulary[left] = next(unused)
        vocabulary[left] = number

    # open_clip's pattern, its classes spelt out: libraries know other versions of Unicode.
    letters, digits, others = _classes()
    fixed = "|".join([*special, *CONTRACTIONS])
    pattern = f"(?i:{fixed})|[{letters}]+|[{digits}]|[{others}]+"
    made = Tokenizer(BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD))
    made.pre_tokenizer = Sequence(
        [
            Split(Regex(pattern), "removed", invert=True),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )

    start, end = special[:2]
    made.post_processor = TemplateProcessing(
        f"{start} $A {end}",
        special_tokens=list(zip(special[:2], tokenizer.all_special_ids, strict=False)),
    )
    made.enable_truncation(tokenizer.context_length)
    return made


def _pieces(tokenizer: SimpleTokenizer, word: str) -> list[str]:
    """Return the pieces of a word that open_clip would keep whole."""
    kept = tokenizer.cache.pop(word)
    pieces: list[str] = tokenizer.bpe(word).split(" ")
    tokenizer.cache[word] = kept
    return pieces


@cache
def _classes() -> tuple[str, ...]:
    """Return letters, digits and the rest as ranges, as the library regex has them without case."""
    characters = "".join(map(chr, (*range(SURROGATES.start), *range(SURROGATES.stop, 0x110000))))
    classes = []
    for name in (r"[\p{L}]+", r"[\p{N}]+", r"[^\s\p{L}\p{N}]+"):
        ranges = []
        for match in regex.finditer(name, characters, regex.IGNORECASE):
            first, last = ord(match[0][0]), ord(match[0][-1])
            # A run over the gap of surrogates is two.
            is_split = first < SURROGATES.start < last
            parts = [(first, 0xD7FF), (0xE000, last)] if is_split else [(first, last)]
            ranges += [f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in parts]
        classes.append("".join(ranges))
    return tuple(classes)
