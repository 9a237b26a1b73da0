"""The portable tokeniser gives the ids of the towers' own, id by id."""

import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ftfy import fix_text
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from tokenizers import Tokenizer

from benchmarks.support.pictures import real_split
from model.embeddings.served import ServedTowers
from model.errors import NoPortableForm
from model.pairs.tsv import read_lines
from model.towers.bert import WordPieces
from model.towers.portable_tokenizer import port_tokenizer
from tests.chinese import HARD_CAPTIONS, vocabulary
from tests.gears import rounds
from tests.published import CAPTIONS, write_tokenizer

CONTEXT = 77
SPELT = ["<end_of_text>", "a <start_of_text>b", "!<end_of_text>", "<END_OF_TEXT><end_of_text>x"]
# What byte pairs, cleaning and Unicode stumble over.
PARTS = [
    *SPELT, "'s", "'LL", "&amp;lt;br&gt;", "é", "ﬁ", "“", "’", "Ｆ", "â€™", "\u0345", "\u200b",
    "👗", "ſ", "K", "İ", "红裙", "हिन्", "ภาษา", "فستان", "½²", "  ", "\n", "\x1c", "\x85", "_", "-",
    "aaa", "dress", 'XL 7.5"',
]  # fmt: skip
SCALARS = [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]


def ported(tokenizer: Any) -> ServedTowers:
    """A served tokeniser without its towers."""
    made = port_tokenizer(SimpleNamespace(tokenizer=tokenizer))  # type: ignore[arg-type]
    served = object.__new__(ServedTowers)
    served._tokenizer, served._clean = Tokenizer.from_str(made.content), made.clean
    served._fix_text = fix_text
    served.settings = {"replaced": made.replaced, "padding": made.padding, "reads_padding": False}
    return served


def first_difference(tokenizer: Any, served: ServedTowers, captions: list[str]) -> str | None:
    """The first caption whose ids differ; what follows them is padding alone."""
    padding = served.settings["padding"]
    for caption, ids, row in zip(
        captions, served.token_ids(captions), tokenizer(captions).tolist(), strict=True
    ):
        if row[: len(ids)] != ids or set(row[len(ids) :]) - {padding}:
            return caption
    return None


@pytest.fixture(scope="module")
def pairs() -> tuple[SimpleTokenizer, ServedTowers]:
    tokenizer = SimpleTokenizer()
    return tokenizer, ported(tokenizer)


def test_byte_pairs_of_captions_that_are_hard_are_equal(
    pairs: tuple[SimpleTokenizer, ServedTowers],
) -> None:
    assert first_difference(*pairs, [*CAPTIONS, *HARD_CAPTIONS, *SPELT]) is None


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_byte_pairs_of_fuzzed_captions_are_equal(clean: str) -> None:
    tokenizer, rng = SimpleTokenizer(clean=clean), random.Random(7)
    captions = [
        "".join(
            rng.choice(PARTS) if rng.random() < 0.8 else chr(rng.choice(SCALARS))
            for _ in range(rng.randint(0, 12))
        )
        for _ in range(rounds(500, 20_000))
    ]
    assert first_difference(tokenizer, ported(tokenizer), captions) is None


def test_every_character_is_the_same_kind(pairs: tuple[SimpleTokenizer, ServedTowers]) -> None:
    step = rounds(401, 7)
    captions = [
        "a" + "b ".join(map(chr, SCALARS[start : start + 7])) + "1"
        for start in range(0, len(SCALARS), step)
    ]
    assert first_difference(*pairs, captions) is None


@pytest.mark.real
def test_byte_pairs_of_real_captions_are_equal(
    pairs: tuple[SimpleTokenizer, ServedTowers],
) -> None:
    tsv = real_split("test")
    assert tsv is not None
    lines = (line.data or b"" for line in read_lines(tsv, 16_000_000))
    captions = [line.partition(b"\t")[0].decode() for line in lines]
    assert first_difference(*pairs, captions[: rounds(500, len(captions))]) is None


def test_word_pieces_are_equal() -> None:
    tokenizer = WordPieces(vocabulary(), 16)
    assert first_difference(tokenizer, ported(tokenizer), HARD_CAPTIONS) is None


@pytest.mark.parametrize("clean", ["canonicalize", "whitespace"])
def test_pieces_of_hugging_face_are_equal(tmp_path: Path, clean: str) -> None:
    write_tokenizer(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), context_length=16, clean=clean, local_files_only=True)
    assert first_difference(tokenizer, ported(tokenizer), [*CAPTIONS, *HARD_CAPTIONS]) is None


def test_a_tokeniser_without_portable_form_is_named() -> None:
    with pytest.raises(NoPortableForm, match="by a rule that has no portable form"):
        ported(SimpleTokenizer(reduction_mask="simple"))
