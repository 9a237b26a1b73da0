r"""Pictures for people: one grid of images with captions, the look of all charts, and their PNG.

Lengths are pixels, a point is a pixel. Captions and images come from outside: no markup in a
caption is obeyed, control characters are spelled out as \x1b, an image that cannot be decoded
becomes a grey tile.

Letters are drawn with DejaVu Sans, which comes with matplotlib, and what it lacks, Chinese above
all, with the first of `CHINESE_FONTS` that is installed, or with the file that the environment
variable ``COMMERCE_CLIP_FONT`` names. Without either, boxes stand in the place of Chinese and a
warning says so once (DECISIONS 33).
"""

import logging
import os
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findSystemFonts, fontManager
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageOps

from tasks.pages.text import visible
from tasks.pages.thumbnails import thumbnail

DPI = 72
TILE, GAP, MARGIN, BLOCK_GAP, HEAD, MIN_WIDTH = 144, 12, 48, 40, 150, 900
CAPTION_LINE, NOTE_LINE, BADGE = 27, 19, 36

PAPER, INK, MUTED, LINE = "#ffffff", "#15181d", "#5b6370", "#dfe2e7"
GREEN, GREEN_SOFT, AMBER, AMBER_SOFT = "#12813f", "#d9f2e2", "#8a5a00", "#fdeec8"
FAR_SOFT = "#e9ebef"
# Of bars.
COLOURS = {
    "green": "#1d6b52",
    "blue": "#6f9fd8",
    "sage": "#9db3aa",
    "sand": "#d8d2c4",
}

FONT_VARIABLE = "COMMERCE_CLIP_FONT"
# What the fonts of Chinese have besides, by the first words of Unicode's names.
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "HALFWIDTH")
# Families with Simplified Chinese, the better first; matplotlib 3.10 knows a collection by its
# first member alone, which is the Japanese one.
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Noto Sans CJK JP",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tile:
    """An image of a grid; a marked one is framed and bears a mark, and a note stands below it."""

    image: bytes
    is_marked: bool = False
    mark: str = ""
    note: str = ""
    note_colour: str = MUTED


@dataclass(frozen=True)
class Block:
    """Images that belong together, and a badge above them: its letters' colour, and its own."""

    tiles: tuple[Tile, ...]
    badge: str = ""
    colours: tuple[str, str] = (INK, FAR_SOFT)


@dataclass(frozen=True)
class GridRow:
    """A caption over a row of blocks, which come in the same order in every row."""

    caption: str
    blocks: tuple[Block, ...]
    about: str = ""


def grid_png(
    title: str,
    subtitle: str,
    heads: Sequence[str],
    rows: Sequence[GridRow],
    caption_lines: int = 1,
    note_lines: int = 0,
) -> bytes:
    """Draw rows of images as a PNG, a head over each column of blocks.

    A caption has room for ``caption_lines`` lines and a tile's note for ``note_lines``.
    """
    # Columns are as wide as their widest block, rows all of one height.
    spans = [
        max([1, *(len(row.blocks[at].tiles) for row in rows)]) * (TILE + GAP) - GAP
        for at in range(len(heads))
    ]
    lefts = [MARGIN + sum(spans[:at]) + BLOCK_GAP * at for at in range(len(heads))]
    width = max(sum(spans) + BLOCK_GAP * (len(heads) - 1) + 2 * MARGIN, MIN_WIDTH)

    has_badges = any(block.badge for row in rows for block in row.blocks)
    tiles_at = 22 + CAPTION_LINE * caption_lines + (BADGE if has_badges else 0)
    row_height = tiles_at + TILE + 22 + NOTE_LINE * note_lines
    height = HEAD + row_height * len(rows) + MARGIN // 2

    with legible():
        # One pair of axes in pixels from the upper left corner.
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        FigureCanvasAgg(figure)
        sheet = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        sheet.set_axis_off()

        inner = width - 2 * MARGIN
        _write(sheet, (MARGIN, 36), title, 32, inner, weight="bold")
        _write(sheet, (MARGIN, 80), subtitle, 19, inner, color=MUTED)
        for left, span, head in zip(lefts, spans, heads, strict=True):
            _write(sheet, (left, HEAD - 34), head, 20, span, weight="bold")

        for number, row in enumerate(rows):
            top = HEAD + row_height * number
            sheet.plot((MARGIN, width - MARGIN), (top, top), color=LINE, linewidth=1)
            middle = top + 10 + CAPTION_LINE * caption_lines / 2
            written = _write(
                sheet, (MARGIN, middle), row.caption, 21, inner, caption_lines, va="center"
            )
            if row.about:
                after = (MARGIN + written + 14, middle + 1)
                _write(sheet, after, row.about, 17, inner - written, va="center", color=MUTED)
            for left, block in zip(lefts, row.blocks, strict=True):
                _draw_block(figure, sheet, (left, top + tiles_at), block, note_lines)
        return figure_png(figure)


def _draw_block(
    figure: Figure, sheet: Axes, corner: tuple[int, int], block: Block, note_lines: int
) -> None:
    """Draw the tiles of a block from its upper left corner, and the badge above them."""
    left, top = corner
    if block.badge:
        _draw_badge(sheet, (left + 6, top - BADGE // 2 - 3), block.badge, block.colours, "left")

    for place, tile in enumerate(block.tiles):
        x = left + place * (TILE + GAP)
        # Pixel for pixel beneath the axes: no image is resampled twice.
        pixels = np.asarray(ImageOps.pad(thumbnail(tile.image), (TILE, TILE), color=PAPER))
        figure.figimage(pixels, xo=x, yo=round(figure.bbox.height) - top - TILE, zorder=-1)

        frame, out = (4, 2) if tile.is_marked else (1, 0.5)
        sheet.add_patch(
            FancyBboxPatch(
                (x - out, top - out),
                TILE + 2 * out,
                TILE + 2 * out,
                boxstyle="round,pad=0,rounding_size=4",
                fill=False,
                edgecolor=GREEN if tile.is_marked else LINE,
                linewidth=frame,
            )
        )
        if tile.mark:
            middle = (x + TILE // 2, top + TILE - 18)
            _draw_badge(sheet, middle, tile.mark, (PAPER, GREEN), "center")
        _write(sheet, (x, top + TILE + 8), tile.note, 14, TILE, note_lines, color=tile.note_colour)


def _draw_badge(
    sheet: Axes, place: tuple[float, float], text: str, colours: tuple[str, str], ha: Any
) -> None:
    """Draw a word or two on a pill."""
    ink, fill = colours
    pill = {"boxstyle": "round,pad=0.36,rounding_size=0.8", "fc": fill, "ec": "none"}
    sheet.text(*place, text, color=ink, fontsize=15, weight="bold", ha=ha, va="center", bbox=pill)


def _write(
    sheet: Axes,
    corner: tuple[float, float],
    text: str,
    size: int,
    width: float,
    lines: int = 1,
    **style: Any,
) -> float:
    """Write a text at a corner, wrapped to a width and cut after some lines; return its width."""
    text = visible(text)[:1000]
    style = {"color": INK, "va": "top"} | style
    artist = sheet.text(*corner, text, fontsize=size, **style)
    needed = artist.get_window_extent().width
    if needed > width:
        # As many letters a line as are as wide on average, less what a line exceeds it by.
        columns = max(int(0.93 * len(text) * width / needed), 1)
        parts = textwrap.wrap(text, columns)
        if len(parts) > lines:
            parts[lines - 1 :] = [parts[lines - 1][: columns - 1].rstrip() + "…"]
        artist.set_text("\n".join(parts))
    return artist.get_window_extent().width


def figure_png(figure: Figure) -> bytes:
    """Encode a figure as an RGB PNG."""
    raw, file = BytesIO(), BytesIO()
    figure.savefig(raw, format="raw")
    drawn = Image.frombytes("RGBA", figure.canvas.get_width_height(), raw.getvalue())
    drawn.convert("RGB").save(file, "PNG", optimize=True)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------
# Letters


@contextmanager
def legible() -> Iterator[None]:
    """Draw foreign text without markup, in fonts that have its letters; warn once if none has."""
    settings: dict[Any, Any] = {"font.family": font_families(), "text.parse_math": False}
    with matplotlib.rc_context(settings), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph")
        yield

    for warning in caught:
        if missing := re.match(r"Glyph (\d+)", str(warning.message)):
            _warn_of_boxes(_script_of(chr(int(missing[1]))))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


@cache
def font_families() -> list[str]:
    """List the families that letters are looked for in: DejaVu Sans, then what has Chinese."""
    named = os.environ.get(FONT_VARIABLE)
    families = _add_fonts([named]) if named else []
    if named and not families:
        log.warning("%s: not a font that can be read; trying others", named)
    if not families and not _installed():
        # matplotlib keeps a list of what it once found; a font may have been installed since.
        listed = {entry.fname for entry in fontManager.ttflist}
        _add_fonts(path for path in findSystemFonts() if path not in listed)
    return ["DejaVu Sans", *families, *_installed()]


def _installed() -> list[str]:
    names = set(fontManager.get_font_names())
    return [name for name in CHINESE_FONTS if name in names]


def _add_fonts(paths: Iterable[str]) -> list[str]:
    """Make matplotlib know the fonts of files, but unreadable ones; return their families."""
    families = []
    for path in paths:
        try:
            fontManager.addfont(path)
        except (OSError, RuntimeError):
            continue
        families.append(fontManager.ttflist[-1].name)
    return families


def _script_of(letter: str) -> str:
    """Name the script of a letter as fonts do: CJK for what Chinese fonts have, Arabic, Hebrew."""
    if unicodedata.category(letter)[0] not in "LM":
        return "Symbols"
    script = unicodedata.name(letter, "unnamed").split()[0]
    return "CJK" if script in EAST_ASIAN else script.title()


@cache
def _warn_of_boxes(script: str) -> None:
    advice = "install the system's Noto Sans CJK or " if script == "CJK" else ""
    log.warning(
        "no font has all letters of the captions (%s): pictures have boxes in their place; "
        "%sname the file of a font that has them, such as Noto Sans %s, in %s",
        *(script, advice, script, FONT_VARIABLE),
    )
