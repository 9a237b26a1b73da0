"""Concepts are the words of the trade."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.concepts.mining import (
    MAX_CONCEPTS_A_CAPTION,
    MIN_NPMI,
    Phrases,
    Vocabulary,
    count_concepts,
    mine_concepts,
    npmi,
    phrase_key,
)


def captions() -> list[str]:
    """Return ten navy blue shoes, ten red shirts, ten red shoes, and ten captions of rare words."""
    return [
        *["Navy-Blue Shoes for the Men"] * 10,
        *["Red shirts, with 2024 on it!"] * 10,
        *["red SHOE dress"] * 10,
        *[
            f"odd{number} glass rare" if number < 3 else f"other word{number}"
            for number in range(10)
        ],
    ]


def named(vocabulary: Vocabulary, caption: str) -> set[str]:
    row = vocabulary.label([caption])[0]
    return {vocabulary.phrases[number] for number in row if number >= 0}


def test_frequent_words_are_concepts_and_stop_words_digits_and_rare_words_are_none() -> None:
    vocabulary = mine_concepts(captions(), min_count=5)
    counts = dict(zip(vocabulary.phrases, vocabulary.counts, strict=True))
    assert counts == {
        "red": 20,
        "shoe": 20,
        "navy blue": 10,
        "men": 10,
        "shirts": 10,
        "dress": 10,
        "other": 7,
    }
    assert vocabulary.captions == 40 and len(vocabulary) == 7


@pytest.mark.parametrize(
    ("min_count", "has_rare", "has_dress"),
    [(2, True, True), (3, True, True), (4, False, True), (11, False, False)],
)
def test_the_least_count_is_honoured_to_the_caption(
    min_count: int, has_rare: bool, has_dress: bool
) -> None:
    vocabulary = mine_concepts([caption.replace("glass ", "") for caption in captions()], min_count)
    assert ("rare" in vocabulary.phrases, "dress" in vocabulary.phrases) == (has_rare, has_dress)


def test_a_word_counts_once_a_caption_and_one_of_every_caption_is_no_concept() -> None:
    texts = [
        f"sale sale sale red {colour}" if colour else "sale" for colour in ["x"] * 5 + [""] * 15
    ]
    vocabulary = mine_concepts(texts, min_count=5)
    assert "sale" not in vocabulary.phrases and not np.isinf(vocabulary.idf().numpy()).any()


def test_neighbours_make_a_phrase_only_when_they_mostly_occur_together() -> None:
    together = ["running shoe"] * 10 + ["vase"] * 40
    assert mine_concepts(together, 5).phrases == ("running shoe", "vase")
    apart = ["running shoe"] * 4 + ["shoe"] * 6 + ["running"] * 6 + ["vase"] * 40
    assert mine_concepts(apart, 5).phrases == ("running", "shoe", "vase")
    everywhere = ["running shoe"] * 20 + ["vase"] * 40
    assert mine_concepts(everywhere, 5).phrases == ("running", "shoe", "vase"), (
        "of every fourth caption"
    )


def test_a_word_that_nearly_always_stands_in_a_longer_phrase_is_no_concept_of_its_own() -> None:
    things = ("top", "bag", "cap", "tie", "belt", "skirt", "scarf", "shoe")
    texts = [
        f"{colour} {thing}"
        for colour in ("navy blue", "blue", "red", "green", "white")
        for thing in things
    ] * 3
    vocabulary = mine_concepts([*texts, "navy cap", "navy cap", *["vase"] * 150], 3)
    assert set(vocabulary.phrases) == {
        "navy blue",
        "blue",
        "red",
        "green",
        "white",
        "vase",
        *things,
    }
    assert dict(zip(vocabulary.phrases, vocabulary.counts, strict=True))["blue"] == 24


def test_words_of_many_phrases_join_when_that_is_far_above_chance() -> None:
    others = ["casual bag", "casual hat", "formal tie", "formal vest"] * 7
    texts = ["casual shoe"] * 10 + ["formal shoe"] * 10 + ["shoe"] * 10 + others
    assert npmi(10, 24, 30, 818) > MIN_NPMI
    assert {"casual shoe", "formal shoe"} < set(mine_concepts([*texts, *["vase"] * 760], 5).phrases)
    near_chance = ["red shoe"] * 6 + ["red"] * 54 + ["shoe"] * 54 + ["vase"] * 486
    assert "red shoe" not in mine_concepts(near_chance, 5).phrases


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50), st.integers(1, 500))
def test_association_is_1_always_together_0_by_chance_and_symmetric(
    n: int, a: int, b: int, rest: int
) -> None:
    x, y, total = n + a, n + b, n + a + b + rest
    value = npmi(n, x, y, total)
    assert -1 <= value <= 1 + 1e-12 and value == pytest.approx(npmi(n, y, x, total))
    assert (value > 1e-12) == (n * total > x * y)
    assert npmi(n, n, n, total) == pytest.approx(1)


def test_phrases_grow_over_passes_to_three_words_and_a_new_caption_is_labelled_with_them() -> None:
    vocabulary = mine_concepts(
        ["deep navy blue jean"] * 10 + ["us polo assn"] * 10 + ["vase"] * 40, 5
    )
    assert vocabulary.phrases == ("blue jean", "deep navy", "us polo assn", "vase")
    assert named(vocabulary, "VASE by U.S. Polo Assn.") == {"us polo assn", "vase"}
    assert named(vocabulary, "navy jean") == set()


def test_spellings_of_a_concept_are_one_and_it_has_the_name_that_captions_use_most() -> None:
    texts = (
        ["T-Shirt"] * 4
        + ["tshirts"] * 3
        + ["t shirt"] * 2
        + ["Flipflops"] * 2
        + ["flip flops"] * 6
        + ["vase"] * 20
    )
    vocabulary = mine_concepts(texts, 5)
    assert dict(zip(vocabulary.phrases, vocabulary.counts, strict=True)) == {
        "t shirt": 9,
        "flip flops": 8,
        "vase": 20,
    }
    for caption in ("TSHIRT", "T-shirts", "t shirt"):
        assert named(vocabulary, caption) == {"t shirt"}


def test_chinese_concepts_are_mined_beside_english_ones() -> None:
    kinds, things = ("雪纺", "纯棉", "碎花", "真皮"), ("连衣裙", "T恤", "休闲鞋", "长裙")
    texts = [
        f"新款{kind}{thing}的 {shop}"
        for kind in kinds
        for thing in things
        for shop in ("Zara", "NIKE")
    ] * 2
    vocabulary = mine_concepts([*texts, *["花瓶"] * 60], 5)
    expected = {
        "雪纺",
        "纯棉",
        "碎花",
        "真皮",
        "连衣裙",
        "t恤",
        "休闲鞋",
        "长裙",
        "zara",
        "nike",
        "花瓶",
    }
    assert set(vocabulary.phrases) == expected
    assert named(vocabulary, "ZARA 雪纺连衣裙, 纯棉t恤") == {
        "zara",
        "雪纺",
        "连衣裙",
        "纯棉",
        "t恤",
    }


GOLDEN = {
    "U.S. Polo Assn. Men Solid Navy Blue T-shirts": [
        "us polo assn",
        "men",
        "solid",
        "navy blue",
        "tshirts",
    ],
    "Puma Women's Future Cat Red Casual Shoes": ["puma", "women", "red", "casual shoes"],
    "Red casual dress with a navy-blue belt": ["red", "casual", "dress", "navy blue", "belt"],
    "Woman's casual-shoe, RED": ["women", "casual shoes", "red"],
    "Shoes for men": ["shoes", "men"],
}


@pytest.mark.parametrize("caption", GOLDEN)
def test_golden_captions_name_their_concepts_in_their_order(caption: str) -> None:
    phrases = (
        "us polo assn",
        "men",
        "solid",
        "navy blue",
        "tshirts",
        "puma",
        "women",
        "red",
        "casual shoes",
    )
    vocabulary = Phrases((*phrases, "casual", "shoes", "dress", "belt"))
    assert [vocabulary.phrases[number] for number in vocabulary.find(caption)] == GOLDEN[caption]


WORDS = (
    "red",
    "navy",
    "blue",
    "dresses",
    "dress",
    "t-shirt",
    "tshirts",
    "the",
    "2024",
    "shoe",
    "连衣裙",
    "红色",
)
CAPTIONS = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), max_size=60)


@given(CAPTIONS, st.integers(2, 6))
def test_a_concept_s_count_is_the_number_of_captions_labelled_with_it(
    captions: list[str], min_count: int
) -> None:
    vocabulary = mine_concepts(captions, min_count)
    labels = vocabulary.label(captions)
    counts = [int((labels == number).any(axis=1).sum()) for number in range(len(vocabulary))]
    assert tuple(counts) == vocabulary.counts
    assert all(min_count <= count < len(captions) for count in counts)
    assert len({phrase_key(phrase) for phrase in vocabulary.phrases}) == len(vocabulary)
    counted = count_concepts(captions, Phrases(vocabulary.phrases))
    assert counted == vocabulary and counted.examples == vocabulary.examples
    for phrase, examples in zip(vocabulary.phrases, vocabulary.examples, strict=True):
        assert 1 <= len(examples) <= 3 and all(
            phrase in named(vocabulary, example) for example in examples
        )


def test_no_captions_have_no_concepts() -> None:
    assert len(mine_concepts([], 2)) == 0 and len(mine_concepts(["", "!"], 2)) == 0


def test_of_more_concepts_than_wanted_the_most_frequent_stay() -> None:
    vocabulary = mine_concepts(captions(), 2, max_concepts=2)
    assert vocabulary.phrases == ("red", "shoe") and vocabulary.counts == (20, 20)


def test_memory_stays_flat_and_what_is_frequent_is_found_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.concepts.mining.MAX_TALLIED", 50)
    words = [f"{a}{b}{c}" for a in "abcdefgh" for b in "klmnopqr" for c in "tuvwxyz"]
    texts = [
        text
        for number in range(400)
        for text in (f"{words[number]} lone", "navy blue", "red dress", "vase")
    ]
    assert {"navy blue", "red dress"} <= set(mine_concepts(texts, 5).phrases)


def test_mining_the_same_captions_twice_gives_the_same_concepts_in_the_same_order() -> None:
    first = mine_concepts(captions(), 2)
    assert first == mine_concepts(captions(), 2)
    backwards = mine_concepts(captions()[::-1], 2)
    assert (backwards.phrases, backwards.counts) == (first.phrases, first.counts)


def test_labels_are_padded_sorted_and_cut_to_the_rarest() -> None:
    words = [f"{a}{b}ly" for a in "abcde" for b in "vwxyz"]
    vocabulary = Vocabulary(tuple(sorted(words)), (1,) * len(words), 9)
    labels = vocabulary.label([" ".join(reversed(words)), "avly bzly avly", "nothing", ""])
    assert labels.shape == (4, MAX_CONCEPTS_A_CAPTION) and labels.dtype == np.int32
    assert labels[0].tolist() == list(range(MAX_CONCEPTS_A_CAPTION))
    rarest = Vocabulary(vocabulary.phrases, tuple(range(25, 0, -1)), 30)
    assert rarest.label([" ".join(words)])[0].tolist() == list(
        range(25 - MAX_CONCEPTS_A_CAPTION, 25)
    )
    assert labels[1].tolist() == [0, 9] + [-1] * (MAX_CONCEPTS_A_CAPTION - 2)
    assert (labels[2:] == -1).all()
    assert vocabulary.label([]).shape == (0, MAX_CONCEPTS_A_CAPTION)


def test_a_rarer_concept_has_the_greater_idf() -> None:
    vocabulary = mine_concepts(captions(), 5)
    weights = dict(zip(vocabulary.phrases, vocabulary.idf().tolist(), strict=True))
    assert weights["red"] == pytest.approx(np.log(2)) and weights["dress"] == pytest.approx(
        np.log(4)
    )
