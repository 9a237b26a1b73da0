"""Markup that captions keep is no word, and no concept is mined of it."""

from model.concepts.mining import mine_concepts
from model.pairs.words import words_of


def test_markup_is_no_word_and_no_concept() -> None:
    captions = [f"red dress<br>cotton&nbsp;{size}<li>soft</li>" for size in ("small", "large")] * 5
    vocabulary = mine_concepts([*captions, *["vase"] * 30], 5)
    assert not {"br", "nbsp", "li"} & {word for each in vocabulary.phrases for word in each.split()}
    assert words_of("red<br>dress") == words_of("red dress")
