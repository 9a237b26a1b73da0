"""In every language words stay whole: no false leak, no false concept."""

import unicodedata
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from icu4py.breakers import CharacterBreaker, WordBreaker

from model.concepts.mining import mine_concepts
from model.pairs.words import language_of, same_words, singular, word_key, words_of
from tests.gears import rounds
from tests.languages import UNSPACED, WORDS, words_in

SPACED = [language for language in WORDS if language not in UNSPACED]


@pytest.mark.faults(kind="F2", trials=50)
@pytest.mark.parametrize("language", WORDS)
def test_a_word_alone_and_among_others_is_whole(language: str) -> None:
    words = [unicodedata.normalize("NFC", word).lower() for word in words_in(language)]
    assert len(words) >= 50
    between = "の" if language == "Japanese" else ", "
    for word, after in zip(words, [*words[1:], words[0]], strict=True):
        found = [each for each in words_of(f"{word}{between}{after}") if each != "の"]
        assert found == [word, after]


@pytest.mark.faults(kind="F2", trials=50)
@pytest.mark.parametrize("language", WORDS)
def test_other_words_are_other_captions_and_one_spelling_is_one(language: str) -> None:
    words = words_in(language)
    keys = [same_words(words_of(f"{word} 1")) for word in words]
    assert len(set(keys)) == len(words)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        spelled = [unicodedata.normalize(form, f"{word.upper()}!  1") for word in words]
        assert [same_words(words_of(caption)) for caption in spelled] == keys


@pytest.mark.faults(kind="F2", trials=50)
@pytest.mark.parametrize("language", WORDS)
def test_what_is_mined_is_words_of_the_captions(language: str) -> None:
    words = words_in(language)
    if language == "Japanese":
        words = [f"{word}の" for word in words]
    captions = [
        " ".join(words[(place + step * step) % len(words)] for step in range(3))
        for place in range(len(words))
    ] * 2
    vocabulary = mine_concepts(captions, 4)
    known = {word.lower().removesuffix("の") for word in words}
    singles = {phrase for phrase in vocabulary.phrases if " " not in phrase}
    assert singles <= known and len(singles) >= len(known) * 0.8
    for number in vocabulary.label(captions)[:, 0].tolist():
        assert number >= 0, "every caption names some"


@pytest.mark.parametrize("language", UNSPACED)
def test_without_spaces_words_are_cut_as_a_reader_would_and_never_within_a_character(
    language: str,
) -> None:
    words, right = words_in(language), 0
    for one, other in pairwise(words):
        found = words_of(one + other)
        right += found == [one, other]
        assert "".join(found) == one + other
        clusters = {end for _, end in CharacterBreaker(one + other, "en").segments()}
        ends = [len("".join(found[:place])) for place in range(1, len(found) + 1)]
        assert set(ends) <= clusters
    assert right >= 0.8 * (len(words) - 1)


def test_another_vowel_sign_is_another_word_and_no_leak() -> None:
    assert same_words(words_of("पुरुषों का कुर्ता")) != same_words(words_of("महिलाओं की कुर्ती"))
    assert words_of("कुर्ता कुर्ती") == ["कुर्ता", "कुर्ती"]


def test_where_spaces_say_nothing_a_space_is_no_difference_between_captions() -> None:
    for apart, together in (
        ("纯棉 连衣裙 Nike", "纯棉连衣裙nike"),
        ("เสื้อ ยืด สีแดง", "เสื้อยืดสีแดง"),
        ("レディース ワンピース", "レディースワンピース"),
    ):
        assert same_words(words_of(apart)) == same_words(words_of(together))
    assert same_words(words_of("red dress")) != same_words(words_of("reddress"))


def test_a_phrase_of_a_script_without_spaces_has_none() -> None:
    captions = ["เสื้อยืด สีแดง", "เสื้อยืด สีดำ"] * 5 + ["กางเกง"] * 30
    assert "เสื้อยืด" in mine_concepts(captions, 5).phrases


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Baum\u00adwoll\u00adkleid", ["baumwollkleid"]),
        ("\u202bفستـــان\u202c", ["فستان"]),
        ("ג'ינס צה״ל ג׳ינס", ["ג'ינס", 'צה"ל', "ג'ינס"]),
        ("об'єм", ["об'єм"]),
        ("robe d’été", ["robe", "d", "été"]),
        ("น้ํา", ["น้ำ"]),
        ("ผ้า\u200bห่ม", ["ผ้า", "ห่ม"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("र\u094d\u200dय", ["र\u094d\u200dय"]),
        ("ﾌﾞﾗｳｽ", ["ブラウス"]),
        ("財布", ["財布"]),
        ("\u0301 \u093e", []),
    ],
)
def test_signs_within_words_are_known(caption: str, words: list[str]) -> None:
    assert words_of(caption) == words


@pytest.mark.parametrize(
    ("captions", "language"),
    [
        (["Puma Men Red Shoes", "Women's Dress with Bow", "bag"], "en"),
        (["red", "bag 3"], "en"),
        ([], "en"),
        (["Van Heusen Men Shirt", "La Martina Polo", "Dress for Women"], "en"),
        (["Kleid mit Schleife", "Schuhe für Herren", "Cap for Men"], "other"),
        (["robe d'été", "sac pour femme", "robe avec nœud"], "other"),
        (["vestido de fiesta", "zapatos para mujer"], "other"),
        (["연필 치마", "新款连衣裙"], "en"),
    ],
)
def test_the_language_of_captions_is_told_by_their_small_words(
    captions: list[str], language: str
) -> None:
    assert language_of(captions) == language


def test_plurals_are_cut_in_english_alone() -> None:
    for words in (("Kleid", "Kleider"), ("robe", "robes"), ("vestido", "vestidos"), ("bus", "bu")):
        assert len({word_key(word, "other") for word in words}) == 2
    assert word_key("dresses", "en") == singular("dresses") == "dress"
    assert word_key("weiß", "other") == word_key("WEISS", "other")


def test_in_german_french_and_spanish_small_words_are_no_concepts() -> None:
    captions = ["robe d'été à fleurs pour femme", "sac de femme", "robes de soirée"] * 5
    concepts = set(mine_concepts(captions, 4).phrases)
    assert not concepts & {"d", "de", "à", "pour"} and {"sac", "été"} & concepts
    assert {"robe", "robes"} & {word for phrase in concepts for word in phrase.split()}


def test_the_fast_path_of_latin_letters_cuts_as_the_rule_for_all_scripts() -> None:
    for code in range(0x300):
        text = (
            unicodedata.normalize("NFKC", f"a{chr(code)}b {chr(code)}").lower().replace("\xad", "")
        )
        # A word of another script takes the whole caption off the fast path.
        assert words_of(f"{text} के") == [*words_of(text), "के"]


# Without full stops and the like, which Unicode lets stand between letters and shops do not.
@settings(max_examples=rounds(60, 1000))
@given(st.text(st.sampled_from("aéßñ ö-/!(3٣अकिुाংিकুம்குفُتُאבִдё\u0301\u093e"), max_size=20))
def test_spaced_scripts_are_cut_where_unicode_cuts(text: str) -> None:
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).lower())
    words = [word for word in WordBreaker(text, "en") if regex.match(r"[\p{L}\p{N}]", word)]
    assert words_of(text) == words
