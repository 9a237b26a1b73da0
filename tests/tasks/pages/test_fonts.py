"""Chinese in pictures is drawn by a font that has it, wherever that lies, and never silently by boxes."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from tasks.pages import fonts
from tasks.pages.drawing import write_line

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
def _nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(fonts, "FOLDERS", (str(tmp_path / "system"),))
    monkeypatch.setattr(fonts, "PACKAGE", "no_such_package_of_fonts")
    monkeypatch.delenv(fonts.VARIABLE, raising=False)
    fonts._chinese_font.cache_clear()
    yield
    fonts._chinese_font.cache_clear()


def drawn(text: str) -> float:
    """Return the share of ink in a line of 20-pixel letters."""
    picture = Image.new("L", (20 * len(text), 40), 255)
    write_line(ImageDraw.Draw(picture), (0, 10), text, 20, "#000000", 1000)
    return sum(255 - value for value in picture.get_flattened_data()) / 255 / (20 * 20 * len(text))


def test_a_line_with_chinese_is_drawn_by_the_font_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latin = fonts.font("red dress", 20, True).getname()
    path = write_font(tmp_path / "own.ttf", "Own")
    monkeypatch.setenv(fonts.VARIABLE, str(path))
    assert fonts.font(CHINESE, 20, True).getname()[0] == "Own"
    assert drawn(CHINESE) > 0.7, "squares are full"
    assert fonts.font("red dress", 20, True).getname() == latin == ("DejaVu Sans", "Bold")


def test_a_systems_own_fonts_are_found_the_better_first(tmp_path: Path) -> None:
    write_font(tmp_path / "system" / "truetype" / "DejaVuSans.ttf", "Not this one")
    write_font(tmp_path / "system" / "wqy" / "wqy-zenhei.ttf", "Zen Hei")
    assert fonts.font(CHINESE, 20, False).getname()[0] == "Zen Hei"
    write_font(tmp_path / "system" / "opentype" / "noto" / "NotoSansCJK-Bold.ttf", "Noto bold")
    write_font(tmp_path / "system" / "opentype" / "noto" / "NotoSansCJK-Regular.ttf", "Noto")
    (tmp_path / "system" / "NotoSansCJK-Broken-Regular.ttf").write_bytes(b"no font")
    fonts._chinese_font.cache_clear()
    assert fonts.font(CHINESE, 20, False).getname()[0] == "Noto"


def test_the_simplified_chinese_font_of_a_collection_is_taken(tmp_path: Path) -> None:
    from fontTools.ttLib import TTCollection, TTFont

    members = [
        write_font(tmp_path / f"{place}.ttf", f"Noto Sans CJK {place}")
        for place in ("JP", "SC", "TC")
    ]
    collection = TTCollection()
    collection.fonts = [TTFont(path) for path in members]
    (tmp_path / "system").mkdir()
    collection.save(tmp_path / "system" / "NotoSansCJK-Regular.ttc")
    assert fonts.font(CHINESE, 20, False).getname()[0] == "Noto Sans CJK SC"


def test_without_a_chinese_font_one_warning_says_what_to_install(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert [drawn(CHINESE) > 0 for _ in range(3)] == [True] * 3
    assert len(caplog.messages) == 1 and "install" in caplog.text


@pytest.mark.parametrize(
    ("text", "wide"), [("naïve → …", False), ("", False), ("T恤", True), ("ワンピース", True)]
)
def test_wide_letters_are_told_from_others(text: str, wide: bool) -> None:
    assert fonts.has_wide(text) is wide
