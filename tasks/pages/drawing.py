r"""How pictures for people are drawn: tiles, badges and lines of text. Lengths are pixels.

Captions and pictures come from outside: control characters are shown as \\x1b, a picture that
cannot be decoded becomes a grey tile.
"""

from io import BytesIO

from PIL import Image, ImageDraw

from model.errors import FaultReason
from tasks.pages.fonts import font
from tasks.pages.text import visible

THUMBNAIL_SIDE = 224  # twice what a page shows, for dense screens
TILE, GAP, MARGIN = 132, 12, 48
PAPER, INK, MUTED, LINE, GREEN, AMBER = (
    "#ffffff",
    "#15181d",
    "#5b6370",
    "#dfe2e7",
    "#12813f",
    "#8a5a00",
)
GREEN_SOFT, AMBER_SOFT = "#d9f2e2", "#fdeec8"


def thumbnail(image: bytes) -> Image.Image:
    """Decode a picture to RGB, at most 224 pixels a side, transparency on white; a grey tile where that fails."""
    from model.batches.crops import decode_image  # imports torch

    decoded = decode_image(image)
    if isinstance(decoded, FaultReason):
        return _grey_tile()
    picture = Image.fromarray(decoded.permute(1, 2, 0).numpy())
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return picture


def _grey_tile() -> Image.Image:
    tile = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), "#c9ccd1")
    draw = ImageDraw.Draw(tile)
    draw.text((112, 112), "no picture", "#50555c", font("", 24, False), anchor="mm")
    return tile


def frame_tile(draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    """Frame a tile in green as a right one."""
    left, top = corner
    draw.rounded_rectangle(
        (left - 5, top - 5, left + TILE + 4, top + TILE + 4), 9, outline=GREEN, width=5
    )


def label_tile(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str) -> None:
    """Put a green badge at the foot of a tile."""
    left, top = corner
    draw_badge(
        draw, (left + (TILE - badge_width(text)) // 2, top + TILE - 32), text, "#ffffff", GREEN
    )


def draw_badge(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, ink: str, fill: str
) -> None:
    """Draw a word or two on a pill."""
    left, top = corner
    width = badge_width(text)
    draw.rounded_rectangle((left, top, left + width, top + 26), 13, fill=fill)
    draw.text((left + width / 2, top + 13), text, ink, font(text, 17, True), anchor="mm")


def badge_width(text: str) -> int:
    """Return the width of a badge with a text."""
    return int(font(text, 17, True).getlength(text)) + 20


def paste_tile(picture: Image.Image, corner: tuple[int, int], image: bytes) -> None:
    """Fit a picture into its square tile, centred on white, within a hairline."""
    small = thumbnail(image)
    small.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    left, top = corner
    picture.paste(small, (left + (TILE - small.width) // 2, top + (TILE - small.height) // 2))
    ImageDraw.Draw(picture).rectangle((left - 1, top - 1, left + TILE, top + TILE), outline=LINE)


def write_line(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    size: int,
    ink: str,
    width: int,
    bold: bool = False,
) -> None:
    """Write one line, cut with an ellipsis where it would be wider than ``width``."""
    line = visible(text)[:1000]
    letters = font(line, size, bold)
    if letters.getlength(line) > width:
        while line and letters.getlength(line + "…") > width:
            line = line[:-1]
        line = line.rstrip() + "…"
    # On the baseline of DejaVu Sans, whatever the font: letters of others hang lower below their
    # top.
    baseline = corner[1] + font("", size, bold).getmetrics()[0]
    draw.text((corner[0], baseline), line, ink, letters, anchor="ls")


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """Cut a text at its spaces into lines that fit, at most so many; the last one holds the rest."""
    lines, letters = [""], font(text, size, False)
    for word in visible(text)[:1000].split():
        longer = f"{lines[-1]} {word}".strip()
        if len(lines) < most and lines[-1] and letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def png(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG."""
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
