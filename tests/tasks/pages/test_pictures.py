"""Text in pictures has a font with its letters, keeps to its room, and is never silently boxes."""

import logging
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image

from tasks.pages import pictures
from tasks.pages.pictures import Block, GridRow, Tile, figure_png, grid_png, legible
from tests.tasks.pages.test_gallery import encoded

CHINESE = "红色连衣裙"


def write_font(path: Path, family: str) -> Path:
    """Write a font of a few Chinese letters, each a full square."""
    pen = TTGlyphPen(None)
    for number, point in enumerate([(50, 0), (50, 900), (950, 900), (950, 0)]):
        (pen.lineTo if number else pen.moveTo)(point)
    pen.closePath()
    square, empty = pen.glyph(), TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square" for letter in CHINESE})
    builder.setupGlyf({".notdef": empty, "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 50)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-100)
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


@pytest.fixture(autouse=True)
def _only_what_matplotlib_brings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    own = [entry for entry in fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(pictures, "findSystemFonts", lambda: [])
    monkeypatch.delenv(pictures.FONT_VARIABLE, raising=False)
    for cached in (pictures.font_families, pictures._warn_of_boxes, fontManager._findfont_cached):
        cached.cache_clear()
    yield
    for cached in (pictures.font_families, pictures._warn_of_boxes, fontManager._findfont_cached):
        cached.cache_clear()


def ink(text: str) -> float:
    """Return the share of ink in a line of 20-pixel letters."""
    with legible():
        figure = Figure(figsize=(20 * len(text) / 72, 40 / 72), dpi=72)
        figure.text(0, 0.5, text, fontsize=20, va="center")
        drawn = np.asarray(Image.open(BytesIO(figure_png(figure))).convert("L"))
    return float((255 - drawn.astype(float)).sum() / 255 / (20 * 20 * len(text)))


def test_chinese_is_drawn_by_the_font_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latin = ink("red dress")
    path = write_font(tmp_path / "own.ttf", "Own")
    monkeypatch.setenv(pictures.FONT_VARIABLE, str(path))
    pictures.font_families.cache_clear()
    assert pictures.font_families()[:2] == ["DejaVu Sans", "Own"]
    assert ink(CHINESE) > 0.7, "squares are full"
    assert ink("red dress") == latin


def test_a_font_installed_after_matplotlib_looked_for_fonts_is_found_the_better_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"DejaVu Lookalike": "a.ttf", "WenQuanYi Zen Hei": "b.ttf", "Noto Sans SC": "c.ttf"}
    paths = [str(write_font(tmp_path / file, family)) for family, file in names.items()]
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(pictures, "findSystemFonts", lambda: [*paths, str(tmp_path / "broken.ttf")])
    assert pictures.font_families() == ["DejaVu Sans", "Noto Sans SC", "WenQuanYi Zen Hei"]
    assert ink(CHINESE) > 0.7


def test_without_a_chinese_font_one_warning_says_what_to_install(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert [ink(CHINESE) > 0 for _ in range(3)] == [True] * 3
    assert len(caplog.messages) == 1 and "install the system's Noto Sans CJK" in caplog.text


def test_other_scripts_do_not_get_the_advice_on_chinese_fonts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        ink("नीला कुर्ता")
        ink("\u05d0\u05b0 \uab20")
    assert "Noto Sans Devanagari" in caplog.text and "Noto Sans Ethiopic" in caplog.text
    assert "CJK" not in caplog.text


def test_a_file_that_is_no_font_is_named_in_a_warning_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setenv(pictures.FONT_VARIABLE, str(tmp_path / "broken.ttf"))
    with caplog.at_level(logging.WARNING):
        assert pictures.font_families() == ["DejaVu Sans"]
    assert "broken.ttf: not a font" in caplog.text


def test_other_warnings_than_of_letters_are_passed_on() -> None:
    import warnings

    with (
        pytest.warns(RuntimeWarning, match="other"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        with legible():
            warnings.warn("other", RuntimeWarning, stacklevel=1)


@pytest.mark.parametrize("text", ["wide words " * 50, "WWWW" * 100, "$x$ " * 50, "\x1b\ud800" * 50])
def test_a_long_caption_is_wrapped_and_cut_within_the_margins(text: str) -> None:
    row = GridRow(text, (Block((Tile(encoded(), note=text),)),), about=text)
    picture = Image.open(BytesIO(grid_png(text, text, [text], [row], 2, 2))).convert("L")
    right = np.asarray(picture)[:, -pictures.MARGIN // 2 :]
    assert picture.width == pictures.MIN_WIDTH and right.min() > 250
