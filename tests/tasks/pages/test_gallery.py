"""The gallery shows what it is given, and nothing foreign gets into it."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from model.pairs.images import FORMATS
from tasks.pages.gallery import FoundImage, GalleryQuery, ModelResult, gallery_html, gallery_png
from tasks.pages.text import visible
from tasks.pages.thumbnails import thumbnail

EVIL = '<script>alert(1)</script> \x1b[31m "onload=x \u202e& https://evil.example/x.js'


def encoded(
    color: str = "#204080",
    file_format: str = "JPEG",
    mode: str = "RGB",
    size: tuple[int, int] = (60, 80),
) -> bytes:
    file = BytesIO()
    picture = Image.new("RGB", size, color).convert(mode)
    if mode == "I;16":  # Pillow leaves 0 to 255 in it, which is almost black
        picture = Image.fromarray(np.asarray(picture) * np.uint16(257))
    picture.save(file, file_format)
    return file.getvalue()


def query(
    caption: str = "pine green skirt",
    right_at: tuple[int, ...] = (2, 0),
    image: bytes | None = None,
) -> GalleryQuery:
    """Two models with five answers each; ``right_at`` is the right one's place, 0 for none."""
    picture = encoded() if image is None else image
    results = tuple(
        ModelResult(
            model_name=f"model {name} {caption}",
            rank=place or 1340,
            images=tuple(
                FoundImage(picture, p == place, 0.5 - 0.05 * p, f"{caption} {p}")
                for p in range(1, 6)
            ),
        )
        for name, place in zip("ab", right_at, strict=True)
    )
    return GalleryQuery(caption, picture, results)


class Page(HTMLParser):
    """The tags, their attributes and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_every_caption_is_escaped():
    page = gallery_html(EVIL, EVIL, [query(EVIL)])
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert r"\x1b[31m" in page
    assert r"\u202e" in page
    tags = Page(page).tags
    allowed = {"href", "src", "id", "class", "alt", "title", "tabindex", "aria-labelledby"} | {
        "charset",
        "name",
        "content",
        "http-equiv",
        "lang",
        "aria-label",
    }
    assert {name for _, attributes in tags for name in attributes} == allowed
    assert {attributes["alt"] for tag, attributes in tags if tag == "img"} >= {f"{visible(EVIL)} 1"}


def test_the_page_loads_nothing():
    page = gallery_html("Gallery", "1 caption", [query()])
    assert not re.search(r"https?://|url\(|@import", page)
    for _, attributes in Page(page).tags:
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith(
            "data:image/jpeg;base64,"
        )
    assert "default-src 'none'" in page


@pytest.mark.parametrize("right_at", [(1, 5), (3, 3), (2, 0), (0, 0)])
def test_the_right_picture_is_framed_and_labelled_and_no_other(right_at):
    page = gallery_html("Gallery", "", [query(right_at=right_at)])
    answers = re.findall(r"<li.*?</li>", page, re.DOTALL)
    is_right = [place == right for right in right_at for place in range(1, 6)]
    assert ['<li class="right">' in answer for answer in answers] == is_right
    assert ["✓ right" in answer for answer in answers] == is_right


def test_each_model_shows_its_rank():
    page = Page(gallery_html("Gallery", "", [query(right_at=(2, 0))]))
    assert "rank 2" in page.text
    assert "rank 1,340" in page.text


def test_a_query_can_be_reached_by_keyboard():
    tags = Page(gallery_html("Gallery", "", [query(), query()])).tags
    assert [attributes["id"] for tag, attributes in tags if tag == "article"] == [
        "query-1",
        "query-2",
    ]
    assert all(attributes["tabindex"] == "0" for tag, attributes in tags if tag == "article")
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [
        "#query-1",
        "#query-2",
        "#query-2",
        "#query-1",
    ]  # each card's own, and its neighbours
    assert all(attributes["alt"] for tag, attributes in tags if tag == "img")


def test_worst_queries_stand_under_a_head_of_their_own_and_are_numbered_on() -> None:
    page = gallery_html("Gallery", "", [query()], [query(), query()])
    tags = Page(page).tags
    assert [attributes["id"] for tag, attributes in tags if tag == "article"] == [
        "query-1",
        "query-2",
        "query-3",
    ]
    assert (
        page.index('id="query-1"')
        < page.index("Worst queries of the new model")
        < page.index('id="query-2"')
    )
    assert "Worst queries" not in gallery_html("Gallery", "", [query()])


@pytest.mark.parametrize(
    ("misses", "said"),
    [
        (("navy blue", EVIL), f"not navy blue, {visible(EVIL)}"),
        (("navy blue", EVIL, "casual"), "names none"),
        ((), "names all"),
    ],
)
def test_a_wrong_answer_says_which_concepts_it_misses(misses, said):
    answer = FoundImage(encoded(), False, 0.5, "caption", misses)
    asked = GalleryQuery(
        "caption", encoded(), (ModelResult("new", 2, (answer,)),), ("navy blue", EVIL, "casual")
    )
    page = gallery_html("Gallery", "", [asked])
    assert re.search(r"<li.*</li>", page, re.DOTALL) and said in Page(page).text
    assert "<script" not in page and "\x1b" not in page
    Image.open(BytesIO(gallery_png("Gallery", [asked]))).verify()
    assert "names all" not in Page(gallery_html("Gallery", "", [query()])).text.split("Tab goes")[1]


def test_no_foreign_bytes_get_into_the_page():
    smuggled = encoded() + b"<svg onload=alert(1)>"
    page = gallery_html("Gallery", "", [query(image=smuggled)])
    for data in re.findall(r"base64,([^\"]+)", page):
        picture = base64.b64decode(data, validate=True)
        assert b"svg" not in picture
        assert max(Image.open(BytesIO(picture), formats=["JPEG"]).size) <= 224


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"no picture",
        encoded()[:200],
        encoded(file_format="TIFF"),
        encoded(size=(6000, 5000), file_format="PNG"),
    ],
)
def test_a_picture_that_cannot_be_shown_becomes_a_grey_tile(broken):
    assert thumbnail(broken).getpixel((5, 5)) == (0xC9, 0xCC, 0xD1)
    gallery_html("Gallery", "", [query(image=broken)])
    gallery_png("Gallery", [query(image=broken)])


MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "P", "1", "RGBA", "LA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1", "RGBA"),
    "GIF": ("RGB", "L", "P", "1"),
    "AVIF": ("RGB", "RGBA"),
}


@pytest.mark.parametrize(
    ("file_format", "mode"), [(name, mode) for name in FORMATS for mode in MODES[name]]
)
def test_every_mode_is_shown_in_rgb(file_format, mode):
    image = encoded("#ffffff", file_format, mode)
    small = thumbnail(image)
    assert (small.mode, small.size) == ("RGB", (60, 80))
    assert min(small.getpixel((30, 40))) > 250


def test_transparency_lies_on_white():
    file = BytesIO()
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(file, "PNG")
    assert thumbnail(file.getvalue()).getpixel((10, 10)) == (255, 255, 255)


def green_pixels(png: bytes) -> int:
    return dict(map(reversed, Image.open(BytesIO(png)).getcolors(1 << 24))).get(
        (0x12, 0x81, 0x3F), 0
    )


def test_the_png_opens_and_frames_the_right_picture():
    png = gallery_png("Gallery", [query(right_at=(2, 4))])
    picture = Image.open(BytesIO(png), formats=["PNG"])
    assert picture.mode == "RGB"
    assert 1200 < picture.width < 2400
    assert 300 < picture.height < 600
    one, none = (
        green_pixels(gallery_png("Gallery", [query(right_at=places)]))
        for places in ((12, 4), (12, 14))
    )
    assert green_pixels(png) > one > none == 0


def test_the_png_shows_at_most_max_queries():
    heights = [
        Image.open(BytesIO(gallery_png("Gallery", [query()] * number, max_queries=3))).height
        for number in (2, 3, 9)
    ]
    assert heights[0] < heights[1] == heights[2]


@pytest.mark.parametrize("caption", ["", EVIL, "裙子 " * 400, "x" * 100_000, "\ud800"])
def test_the_png_takes_any_caption(caption):
    long, short = (
        Image.open(BytesIO(gallery_png(text, [query(text)]))).size for text in (caption, "short")
    )
    assert long == short


def test_an_empty_gallery_is_a_page_and_a_picture():
    assert "Nothing yet" in gallery_html("Nothing yet", "", [])
    assert Image.open(BytesIO(gallery_png("Nothing yet", []))).width == 900


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1bb\x00", r"a\x1bb\x00"),
        ("\u200f\u2066", r"\u200f\u2066"),
        ("naïve 裙子", "naïve 裙子"),
        ("a\u200db", "a\u200db"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text, shown):
    assert visible(text) == shown
