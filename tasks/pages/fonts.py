"""Which font a line of a picture is drawn with: DejaVu Sans, which comes with matplotlib, or one
that has Chinese.

Chinese fonts are large, so none comes with this project. One is taken from where systems keep
theirs, or from the pip package ``pylopdf-fonts-zh-cn`` (Noto Sans SC, 17 MB) where that is
installed; the environment variable ``COMMERCE_CLIP_FONT`` names another file. Without any, pictures
have boxes in the place of Chinese, a warning says so once, and the HTML pages, which leave fonts to
the browser, are not concerned.
"""

import logging
import os
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

VARIABLE = "COMMERCE_CLIP_FONT"
PACKAGE = "pylopdf_fonts_zh_cn"
FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
# Beginnings of the names of files with Simplified Chinese, without spaces and dashes, the better
# first.
KNOWN = (
    "notosanscjk",
    "notosanssc",
    "sourcehansans",
    "pingfang",
    "msyh",
    "wqyzenhei",
    "wqymicrohei",
    "droidsansfallback",
)
SUFFIXES = (".otf", ".ttf", ".ttc")

log = logging.getLogger(__name__)


def font(text: str, size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """Return the font for a line of text; Chinese is never bold."""
    if has_wide(text) and (chinese := _chinese_font()) is not None:
        return _open(*chinese, size)
    return _open(_dejavu(bold), 0, size)


def has_wide(text: str) -> bool:
    """Return whether a text has characters that DejaVu Sans lacks: Chinese, Japanese, Korean, full-width forms."""
    return any(unicodedata.east_asian_width(character) in "WF" for character in text)


@lru_cache
def _open(path: Path, index: int, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, index)


@lru_cache
def _dejavu(bold: bool) -> Path:
    # Found without importing matplotlib, which makes folders in HOME.
    package = find_spec("matplotlib")
    assert package is not None, "matplotlib, whose fonts the picture uses, is missing"
    assert package.origin is not None
    fonts = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
    return fonts / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


@lru_cache
def _chinese_font() -> tuple[Path, int] | None:
    """Return the file of a Chinese font and its number in the file, None where there is none."""
    for path in _candidates():
        try:
            return path, _number(path)
        except OSError:
            log.warning("%s: not a font that can be read; trying another", path)
    log.warning(
        "no font with Chinese letters: pictures have boxes in their place; install the system's Noto Sans CJK, "
        "pip install pylopdf-fonts-zh-cn, or name a file in %s",
        VARIABLE,
    )
    return None


def _candidates() -> Iterator[Path]:
    if named := os.environ.get(VARIABLE):
        yield Path(named)
    found = [path for folder in FOLDERS for path in _fonts_below(Path(folder).expanduser())]
    yield from sorted(
        found, key=lambda path: (_rank(path), "regular" not in path.stem.lower(), str(path))
    )
    package = find_spec(PACKAGE)
    if package is not None and package.origin is not None:
        yield from sorted(Path(package.origin).parent.glob("NotoSansSC-Regular.*"))


def _fonts_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and _rank(path) < len(KNOWN):
            yield path


def _rank(path: Path) -> int:
    stem = path.stem.lower().replace("-", "").replace(" ", "")
    return next((rank for rank, known in enumerate(KNOWN) if stem.startswith(known)), len(KNOWN))


def _number(path: Path) -> int:
    """Return which font of a collection is the one for Simplified Chinese; the first where none
    says so.

    Raises:
        OSError: the file is no font.
    """
    ImageFont.truetype(path, 12)
    for index in range(10 if path.suffix.lower() == ".ttc" else 1):
        try:
            family = ImageFont.truetype(path, 12, index).getname()[0] or ""
        except OSError:
            break
        if family.endswith(" SC"):
            return index
    return 0
