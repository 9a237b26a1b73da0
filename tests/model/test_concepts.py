"""Concepts are the words of the trade."""

import numpy as np
import pytest

from model.concepts import MAX_CONCEPTS_A_CAPTION, Vocabulary, mine_concepts


def captions() -> list[str]:
    """Return 40 captions: ten navy blue shoes, ten red shirts, ten red shoes, ten of words that come once or twice."""
    return [
        *["Navy-Blue Shoes for the Men"] * 10,
        *["Red shirts, with 2024 on it!"] * 10,
        *["red SHOE dress"] * 10,
        *[f"odd{number} glass rare" if number < 3 else f"other word{number}" for number in range(10)],
    ]


def named(vocabulary: Vocabulary, caption: str) -> set[str]:
    row = vocabulary.label([caption])[0]
    return {vocabulary.phrases[number] for number in row if number >= 0}


def test_frequent_words_are_concepts_and_stop_words_digits_and_rare_words_are_none() -> None:
    vocabulary = mine_concepts(captions(), min_count=5)
    counts = dict(zip(vocabulary.phrases, vocabulary.counts, strict=True))
    assert counts == {"red": 20, "shoe": 20, "navy_blue": 10, "men": 10, "shirt": 10, "dress": 10, "other": 7}
    assert vocabulary.captions == 40 and len(vocabulary) == 7


@pytest.mark.parametrize(
    ("min_count", "has_rare", "has_dress"), [(2, True, True), (3, True, True), (4, False, True), (11, False, False)]
)
def test_the_least_count_is_honoured_to_the_caption(min_count: int, has_rare: bool, has_dress: bool) -> None:
    vocabulary = mine_concepts([caption.replace("glass ", "") for caption in captions()], min_count)
    assert ("rare" in vocabulary.phrases, "dress" in vocabulary.phrases) == (has_rare, has_dress)


def test_a_word_counts_once_a_caption_and_one_of_every_caption_is_no_concept() -> None:
    texts = [f"sale sale sale red {colour}" if colour else "sale" for colour in ["x"] * 5 + [""] * 15]
    vocabulary = mine_concepts(texts, min_count=5)
    assert "sale" not in vocabulary.phrases and not np.isinf(vocabulary.idf().numpy()).any()


def test_neighbours_merge_only_when_they_mostly_occur_together() -> None:
    together = ["running shoe"] * 10 + ["vase"] * 40
    assert mine_concepts(together, 5).phrases == ("running_shoe", "vase")
    apart = ["running shoe"] * 4 + ["shoe"] * 6 + ["running"] * 6 + ["vase"] * 40
    assert mine_concepts(apart, 5).phrases == ("running", "shoe", "vase")
    everywhere = ["running shoe"] * 20 + ["vase"] * 40
    assert mine_concepts(everywhere, 5).phrases == ("running", "shoe", "vase"), "of every fourth caption"


def test_phrases_grow_over_passes_and_a_new_caption_is_labelled_with_them() -> None:
    vocabulary = mine_concepts(["deep navy blue jean"] * 10 + ["vase"] * 40, 5)
    assert vocabulary.phrases == ("deep_navy_blue_jean", "vase")
    assert named(vocabulary, "VASE beside Deep Navy-Blue Jeans") == {"deep_navy_blue_jean", "vase"}
    assert named(vocabulary, "navy jean") == set()


def test_a_plural_s_comes_off_and_the_ss_of_dress_and_short_words_stays() -> None:
    texts = ["shoes dress gas"] * 3 + ["shoe dress gas"] * 3 + ["vase"] * 6
    words = set("_".join(mine_concepts(texts, 5).phrases).split("_"))
    assert words == {"shoe", "dress", "gas", "vase"}


def test_mining_the_same_captions_twice_gives_the_same_concepts_in_the_same_order() -> None:
    first = mine_concepts(captions(), 2)
    assert first == mine_concepts(captions(), 2)
    backwards = mine_concepts(captions()[::-1], 2)
    assert (backwards.phrases, backwards.counts) == (first.phrases, first.counts)


def test_labels_are_padded_sorted_and_cut_at_the_most() -> None:
    words = [f"{a}{b}ly" for a in "abcde" for b in "vwxyz"]
    vocabulary = Vocabulary(tuple(sorted(words)), (1,) * len(words), 9, ())
    labels = vocabulary.label([" ".join(reversed(words)), "avly bzly avly", "nothing", ""])
    assert labels.shape == (4, MAX_CONCEPTS_A_CAPTION) and labels.dtype == np.int32
    assert labels[0].tolist() == list(range(MAX_CONCEPTS_A_CAPTION))
    assert labels[1].tolist() == [0, 9] + [-1] * (MAX_CONCEPTS_A_CAPTION - 2)
    assert (labels[2:] == -1).all()
    assert vocabulary.label([]).shape == (0, MAX_CONCEPTS_A_CAPTION)


def test_a_rarer_concept_has_the_greater_idf() -> None:
    vocabulary = mine_concepts(captions(), 5)
    weights = dict(zip(vocabulary.phrases, vocabulary.idf().tolist(), strict=True))
    assert weights["red"] == pytest.approx(np.log(2)) and weights["dress"] == pytest.approx(np.log(4))
