"""HTML in captions becomes text, and what is no HTML stays as it is."""

import html

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.pairs.markup import clean_html, has_markup
from tests.gears import rounds


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("Red dress<br>cotton", "Red dress cotton"),
        ("Red&nbsp;dress &amp; belt", "Red dress & belt"),
        ("<ul><li>100% cotton</li><li>A-line</li></ul>", "100% cotton A-line"),
        ("<b>Re</b>d <span class='x>y'>dress</span>", "Red dress"),
        ("a &lt;br&gt; b &amp;nbsp; c", "a b c"),
        ("x<script>alert('<br>')</script>y<style>p{}</style>z", "x y z"),
        ("caf&eacute; &#8364;&#x20AC;", "café €€"),
        ("<!-- hidden -->shirt<br/>", "shirt"),
        ("size < 40 & > 30<br>i <3 u", "size < 40 & > 30 i <3 u"),
    ],
)
def test_markup_becomes_what_a_browser_shows(caption: str, text: str) -> None:
    assert has_markup(caption) and clean_html(caption) == text and not has_markup(text)


@pytest.mark.parametrize(
    "caption",
    [
        "size < 40",
        "Black & White",
        "AT&T;",
        "black &white; shirt",
        "<3 hearts  two  spaces",
        "a<bb and c>d",
        "R&B <tee>",
        "",
    ],
)
def test_what_is_no_html_stays_byte_for_byte(caption: str) -> None:
    assert not has_markup(caption) and clean_html(caption) == caption


PIECES = st.sampled_from(
    ["<br>", "</li>", "<b", "&nbsp;", "&amp;", "<!--", "-->", "<", ">", "red ", "é"]
)


@settings(max_examples=rounds(60, 1000))
@given(st.lists(PIECES, max_size=12).map("".join))
def test_clean_text_stays_as_it_is_and_escaping_is_undone(text: str) -> None:
    once = clean_html(text)
    assert clean_html(once) == once
    plain = " ".join(text.replace("&", "").replace("<", "").split())
    assert clean_html(html.escape(plain)) in (plain, html.escape(plain))
