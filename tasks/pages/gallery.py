r"""What a person looks at: captions with the first pictures that each model finds, side by side,
the right one framed.

`gallery_html` is one page without scripts that loads nothing: its style is inline and its pictures
are data URIs. `gallery_png` is the same as a picture. Captions and pictures come from outside: text
is escaped, with control characters shown as \\x1b, and every picture is decoded and encoded anew as
a small JPEG, so that no foreign byte gets in; one that cannot be shown becomes a grey tile. A query
of two models with five answers each weighs about 90 KB.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw

from tasks.pages.drawing import (
    AMBER,
    AMBER_SOFT,
    GAP,
    GREEN,
    GREEN_SOFT,
    INK,
    LINE,
    MARGIN,
    MUTED,
    PAPER,
    TILE,
    draw_badge,
    frame_tile,
    label_tile,
    paste_tile,
    png,
    thumbnail,
    wrapped,
    write_line,
)
from tasks.pages.text import escaped

JPEG_QUALITY = 82


@dataclass(frozen=True)
class Answer:
    """One picture that a model found: its encoded bytes as in the TSV, and the caption it has
    there.

    ``misses`` are the concepts of the query that its captions do not name, none of them if they
    name all; None where nothing can be said.
    """

    image: bytes
    is_right: bool
    similarity: float
    caption: str
    misses: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ModelResult:
    """What one model answers to a caption: its first pictures, best first, and the right one's rank (1 is first)."""

    model_name: str
    rank: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class GalleryQuery:
    """A caption, the picture it belongs to, and every model's answer to it, models in the same
    order throughout.

    ``concepts`` are those that the caption names.
    """

    caption: str
    right_image: bytes
    results: tuple[ModelResult, ...]
    concepts: tuple[str, ...] = ()


def gallery_html(
    title: str, subtitle: str, queries: Sequence[GalleryQuery], worst: Sequence[GalleryQuery] = ()
) -> str:
    """Return a self-contained HTML page: one card a query, one column a model; the worst queries after the others."""
    header = f"""<p>{escaped(subtitle)}</p>
<p class="legend"><span class="tag">✓ right</span> marks a picture that belongs to the caption.
The number under each picture is its similarity to the caption; <span class="misses">not …</span> are concepts of the
caption that the picture's own caption does not name, <span class="says">names all</span> a picture that counts as wrong
though its caption names them all. Tab goes from caption to caption, ↑ and ↓ beside it to its neighbours.</p>"""
    main = cards_html(queries, 1, len(queries) + len(worst))
    if worst:
        more = cards_html(worst, 1 + len(queries), len(queries) + len(worst))
        main += f"\n<h2>Worst queries of the new model</h2>\n{more}"
    return page_html(title, header, main)


def page_html(title: str, header: str, main: str) -> str:
    """Return a page that loads nothing and runs nothing; ``header`` and ``main`` are HTML, foreign text escaped."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escaped(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escaped(title)}</h1>
{header}
</header>
<main>
{main}
</main>
</body>
</html>
"""


def cards_html(queries: Sequence[GalleryQuery], first: int = 1, last: int | None = None) -> str:
    """Return the cards of queries, numbered from ``first``, for a page whose last card has the number ``last``."""
    last = first + len(queries) - 1 if last is None else last
    return "\n".join(
        _card(number, last, query) for number, query in enumerate(queries, start=first)
    )


def gallery_png(title: str, queries: Sequence[GalleryQuery], max_queries: int = 6) -> bytes:
    """Return the first queries as a PNG picture: a row a query, the wanted picture at the left, a block a model."""
    shown = queries[:max_queries]
    names = [result.model_name for result in shown[0].results] if shown else []
    answers = max((len(result.answers) for query in shown for result in query.results), default=1)
    block = answers * (TILE + GAP) - GAP
    width = max(MARGIN + TILE + len(names) * (BLOCK_GAP + block) + MARGIN, 900)
    picture = Image.new("RGB", (width, HEAD + len(shown) * ROW + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    write_line(draw, (MARGIN, 40), title, 34, INK, width - 2 * MARGIN, bold=True)
    write_line(draw, (MARGIN, HEAD - 34), "wanted", 20, MUTED, TILE)
    for column, name in enumerate(names):
        left = MARGIN + TILE + BLOCK_GAP + column * (block + BLOCK_GAP)
        write_line(draw, (left, HEAD - 36), name, 22, INK, block, bold=True)
    for row, query in enumerate(shown):
        _draw_query(picture, HEAD + row * ROW, query, block)
    return png(picture)


# ---------------------------------------------------------------------------------------------------------------------
# Foreign text and pictures


def _data_uri(image: bytes) -> str:
    file = BytesIO()
    thumbnail(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


# ---------------------------------------------------------------------------------------------------------------------
# The page


def _card(number: int, last: int, query: GalleryQuery) -> str:
    columns = "\n".join(_column(result, query.concepts) for result in query.results)
    return f"""<article id="query-{number}" tabindex="0" aria-labelledby="caption-{number}">
<div class="wanted">
<img src="{_data_uri(query.right_image)}" alt="the picture that belongs to the caption">
<h2 id="caption-{number}"><a href="#query-{number}">{number}</a> <bdi>{escaped(query.caption)}</bdi></h2>
<nav aria-label="neighbours">{_neighbour(number - 1, last, "↑", "previous")}
{_neighbour(number + 1, last, "↓", "next")}</nav>
</div>
<div class="models">
{columns}
</div>
</article>"""


def _neighbour(number: int, last: int, arrow: str, name: str) -> str:
    return (
        f'<a href="#query-{number}" aria-label="{name} caption">{arrow}</a>'
        if 1 <= number <= last
        else ""
    )


def _column(result: ModelResult, concepts: tuple[str, ...]) -> str:
    answers = "\n".join(
        _figure(place, answer, concepts) for place, answer in enumerate(result.answers, start=1)
    )
    rank = f'<span class="rank {_rank_class(result.rank)}">rank {result.rank:,}</span>'
    return f"""<section>
<h3><bdi>{escaped(result.model_name)}</bdi> {rank}</h3>
<ol>
{answers}
</ol>
</section>"""


def _figure(place: int, answer: Answer, concepts: tuple[str, ...]) -> str:
    caption = escaped(answer.caption)
    mark = '<span class="tag">✓ right</span>' if answer.is_right else ""
    opening = '<li class="right">' if answer.is_right else "<li>"
    return f"""{opening}<figure><span class="frame"><img src="{_data_uri(answer.image)}" alt="{caption}">
<span class="place">{place}</span>{mark}</span>
{_why(answer, concepts)}<figcaption title="{caption}"><b>{answer.similarity:.3f}</b>
<bdi>{caption}</bdi></figcaption></figure></li>"""


def _why(answer: Answer, concepts: tuple[str, ...]) -> str:
    if answer.misses is None:
        return ""
    said = escaped(explanation(answer, concepts))
    return (
        f'<p class="{"misses" if answer.misses else "says"}" title="{said}"><bdi>{said}</bdi></p>'
    )


def explanation(answer: Answer, concepts: tuple[str, ...]) -> str:
    """Say what a wrong answer lacks of the concepts that its query names."""
    if not answer.misses:
        return "names all"
    return (
        "names none" if len(answer.misses) == len(concepts) else f"not {', '.join(answer.misses)}"
    )


def _rank_class(rank: int) -> str:
    return "first" if rank == 1 else "near" if rank <= 10 else "far"


STYLE = """
:root { color-scheme: light dark; --paper: #f5f6f8; --card: #fff; --ink: #15181d; --muted: #5b6370; --line: #e0e3e8;
  --tile: #fff; --green: #12813f; --green-soft: #d9f2e2; --amber: #8a5a00; --amber-soft: #fdeec8; --far: #e9ebef; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #111317; --card: #1a1d23; --ink: #eceef2; --muted: #a2aab6; --line: #2d323b; --tile: #fff;
    --green: #4cc47c; --green-soft: #143a24; --amber: #f0c05a; --amber-soft: #40310f; --far: #2b3038; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem clamp(1rem, 3vw, 3rem); max-width: 110rem; background: var(--paper);
  color: var(--ink); font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "PingFang SC", "Microsoft YaHei", "Noto Sans SC", "Noto Sans CJK SC", "Source Han Sans SC", sans-serif; }
header { margin-bottom: 2rem; }
h1 { margin: 0 0 .3rem; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.02em; overflow-wrap: anywhere; }
header p { margin: 0; color: var(--muted); overflow-wrap: anywhere; }
.legend { margin-top: .9rem; font-size: .875rem; }
article { margin-bottom: 1.25rem; padding: 1.25rem 1.4rem 1.1rem; border: 1px solid var(--line); border-radius: 14px;
  background: var(--card); }
article:focus-visible, a:focus-visible { outline: 3px solid #3b82f6; outline-offset: 2px; }
.wanted { display: flex; gap: 1rem; align-items: center; }
.wanted img { width: 5rem; height: 5rem; }
.wanted nav { margin-left: auto; white-space: nowrap; }
.wanted nav a { padding: .3rem .6rem; border-radius: 8px; color: var(--muted); text-decoration: none; }
.misses, .says { color: var(--amber); font-weight: 600; }
.says { color: var(--green); }
figure p { display: -webkit-box; overflow: hidden; margin: .45rem 0 0; font-size: .75rem; line-height: 1.35;
  -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
h2 { margin: 0; font-size: 1.2rem; font-weight: 600; line-height: 1.3; overflow-wrap: anywhere; }
h2 a { margin-right: .35rem; color: var(--muted); font-weight: 400; text-decoration: none; }
.models { display: grid; gap: 1.25rem 2.5rem; margin-top: 1.1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
h3 { display: flex; gap: .6rem; align-items: center; margin: 0 0 .6rem; font-size: .95rem; font-weight: 600;
  overflow-wrap: anywhere; }
.rank { padding: .1rem .6rem; border-radius: 99px; background: var(--far); font-size: .8rem; white-space: nowrap; }
.rank.first { background: var(--green-soft); color: var(--green); }
.rank.near { background: var(--amber-soft); color: var(--amber); }
ol { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: .7rem; margin: 0; padding: 0;
  list-style: none; }
figure { margin: 0; }
img { display: block; width: 100%; aspect-ratio: 1; border-radius: 8px; background: var(--tile); object-fit: contain; }
.frame { position: relative; display: block; border-radius: 8px; outline: 1px solid var(--line); }
.right .frame { outline: 4px solid var(--green); }
.place { position: absolute; top: .3rem; left: .3rem; min-width: 1.35rem; padding: 0 .35rem; border-radius: 99px;
  background: #15181dcc; color: #fff; font-size: .75rem; line-height: 1.35rem; text-align: center; }
.tag { padding: .1rem .5rem; border-radius: 99px; background: #12813f; color: #fff; font-size: .75rem;
  font-weight: 600; white-space: nowrap; }
.frame .tag { position: absolute; bottom: .35rem; left: 50%; transform: translateX(-50%); }
figcaption { display: -webkit-box; overflow: hidden; margin-top: .3rem; color: var(--muted); font-size: .75rem;
  line-height: 1.35; overflow-wrap: anywhere; -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; }
@media (max-width: 34rem) { ol { grid-template-columns: repeat(3, minmax(0, 1fr)); } article { padding: 1rem; } }
.wide { aspect-ratio: auto; margin: 0 0 1.5rem; background: #fff; }
main > h2 { margin: 2rem 0 .8rem; }
table { margin-bottom: 1rem; border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
.word { text-align: left; }
.scroll { overflow-x: auto; }
.facts td { overflow-wrap: anywhere; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--muted); }
summary:focus-visible { outline: 3px solid #3b82f6; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
main > img { max-width: 60rem; }
tr.best { background: var(--green-soft); font-weight: 600; }
@media print { article { break-inside: avoid; } }
"""

# ---------------------------------------------------------------------------------------------------------------------
# The picture; lengths in pixels

BLOCK_GAP, HEAD, ROW = 48, 150, 290
FAR_SOFT = "#e9ebef"


def _draw_query(picture: Image.Image, top: int, query: GalleryQuery, block: int) -> None:
    draw = ImageDraw.Draw(picture)
    draw.line((MARGIN, top, picture.width - MARGIN, top), LINE)
    write_line(draw, (MARGIN, top + 14), query.caption, 21, INK, picture.width - 2 * MARGIN)
    tiles = top + 88
    paste_tile(picture, (MARGIN, tiles), query.right_image)
    for column, result in enumerate(query.results):
        left = MARGIN + TILE + BLOCK_GAP + column * (block + BLOCK_GAP)
        _draw_rank(draw, (left, top + 50), result.rank)
        for place, answer in enumerate(result.answers):
            corner = (left + place * (TILE + GAP), tiles)
            paste_tile(picture, corner, answer.image)
            if answer.is_right:
                frame_tile(draw, corner)
                label_tile(draw, corner, "✓ right")
            elif answer.misses is not None:
                lines = wrapped(explanation(answer, query.concepts), 15, TILE, 2)
                for number, line in enumerate(lines):
                    under = (corner[0], tiles + TILE + 8 + 19 * number)
                    write_line(draw, under, line, 15, AMBER if answer.misses else GREEN, TILE)


def _draw_rank(draw: ImageDraw.ImageDraw, corner: tuple[int, int], rank: int) -> None:
    ink, fill = {"first": (GREEN, GREEN_SOFT), "near": (AMBER, AMBER_SOFT), "far": (INK, FAR_SOFT)}[
        _rank_class(rank)
    ]
    draw_badge(draw, corner, f"rank {rank:,}", ink, fill)
