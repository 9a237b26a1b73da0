"""Words are the same however a shop spells them."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.pairs.words import singular, words_of
from tests.gears import rounds


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("U.S. Polo Assn. Women's T-Shirt", ["us", "polo", "assn", "women", "t", "shirt"]),
        ("s.Oliver Levi’s Ladies' D'Orsay", ["s", "oliver", "levi", "ladies", "dorsay"]),
        ("pullover in 'burnt' red_hot", ["pullover", "in", "burnt", "red", "hot"]),
        ("Ｃａｆé ﬁt", ["café", "fit"]),
        ("新款纯棉T恤女短袖", ["新款", "纯棉", "t恤", "女", "短袖"]),
        (
            "纯棉t恤, Nike 男士真皮休闲鞋 2024",
            ["纯棉", "t恤", "nike", "男士", "真皮", "休闲鞋", "2024"],
        ),
        ("한국 원피스", ["한국", "원피스"]),
        ("!?", []),
        ("", []),
    ],
)
def test_a_caption_is_cut_into_words_in_any_script(caption: str, words: list[str]) -> None:
    assert words_of(caption, "en") == words


@pytest.mark.parametrize(
    "spelled",
    [
        ("dress", "dresses"),
        ("watch", "watches"),
        ("box", "boxes"),
        ("brush", "brushes"),
        ("shoe", "shoes"),
        ("kurta", "kurtas"),
        ("accessory", "accessories"),
        ("hoody", "hoodie", "hoodies"),
        ("tie", "ties"),
        ("scarf", "scarves"),
        ("women", "woman"),
        ("glove", "gloves"),
    ],
)
def test_singular_and_plural_are_one(spelled: tuple[str, ...]) -> None:
    assert len({singular(word) for word in spelled}) == 1


def test_words_that_only_look_like_plurals_of_each_other_stay_apart() -> None:
    words = ["gas", "dress", "red", "glass", "gla", "dre", "bra", "bras"]
    assert len({singular(word) for word in words}) == len(words) - 1


@settings(max_examples=rounds(40, 100))
@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_what_is_left_of_a_word_is_left_of_itself(text: str) -> None:
    for word in words_of(text):
        assert singular(singular(word)) == singular(word)


@settings(max_examples=rounds(40, 100))
@given(st.text(st.sampled_from("纯棉连衣裙女士收腰雪纺休闲鞋高领T恤v红色 -a"), max_size=20))
def test_words_put_side_by_side_are_cut_as_they_were(text: str) -> None:
    words = words_of(text)
    assert words_of(" ".join(words)) == words
    assert "".join(words) == "".join(words_of(text.replace("-", " ")))


def test_captions_without_chinese_need_no_segmenter() -> None:
    code = (
        "import sys; from model.pairs.words import words_of; "
        "words_of('Café Robe'); assert 'rjieba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
