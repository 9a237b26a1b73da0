"""What a person looks at: captions with the first images that each model finds, side by side.

The right images are marked, and a wrong one says which concepts of the caption it lacks. The page
comes from `gallery.html.jinja`, the picture from the grid; a query of two models with five images
each weighs about 90 KB in the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.pages.html import render
from tasks.pages.pictures import (
    AMBER,
    AMBER_SOFT,
    FAR_SOFT,
    GREEN,
    GREEN_SOFT,
    INK,
    Block,
    GridRow,
    Tile,
    grid_png,
)


@dataclass(frozen=True)
class FoundImage:
    """An image that a model found: its encoded bytes as in the TSV, and the caption it has there.

    ``misses`` are the concepts of the query that its captions do not name, none of them if they
    name all; None where nothing can be said.
    """

    image: bytes
    is_right: bool
    similarity: float
    caption: str
    misses: tuple[str, ...] | None = None

    def explanation(self, concepts: tuple[str, ...]) -> str:
        """Name what the image lacks of the concepts of its query; empty where nothing is known."""
        if not self.misses:
            return "" if self.misses is None else "names all"
        if len(self.misses) == len(concepts):
            return "names none"
        return f"not {', '.join(self.misses)}"


@dataclass(frozen=True)
class ModelResult:
    """What a model answers to a caption: its first images, and the right one's rank from 1."""

    model_name: str
    rank: int
    images: tuple[FoundImage, ...]

    @property
    def nearness(self) -> str:
        """How good the rank is: first, near (within ten) or far."""
        return "first" if self.rank == 1 else "near" if self.rank <= 10 else "far"


@dataclass(frozen=True)
class GalleryQuery:
    """A caption, the image it belongs to, and every model's answer to it.

    Models come in the same order throughout. ``concepts`` are those that the caption names.
    """

    caption: str
    right_image: bytes
    results: tuple[ModelResult, ...]
    concepts: tuple[str, ...] = ()


def gallery_html(
    title: str, subtitle: str, queries: Sequence[GalleryQuery], worst: Sequence[GalleryQuery] = ()
) -> str:
    """Render a card a query, a column a model; the worst queries after the others."""
    return render(
        "gallery.html.jinja", title=title, subtitle=subtitle, queries=queries, worst=worst
    )


def gallery_png(title: str, queries: Sequence[GalleryQuery], max_queries: int = 6) -> bytes:
    """Draw the first queries: a row a query, the wanted image at the left, a block a model."""
    drawn = queries[:max_queries]
    heads = ["wanted", *(result.model_name for result in drawn[0].results)] if drawn else []

    # The wanted image is a block of its own, without a head's model or rank.
    rows = [
        GridRow(
            query.caption,
            (
                Block((Tile(query.right_image),)),
                *(_block(result, query.concepts) for result in query.results),
            ),
        )
        for query in drawn
    ]
    return grid_png(title, "", heads, rows, caption_lines=2, note_lines=2)


def _block(result: ModelResult, concepts: tuple[str, ...]) -> Block:
    """Lay out what a model found; the page and the picture colour ranks and notes alike."""
    colours = {"first": (GREEN, GREEN_SOFT), "near": (AMBER, AMBER_SOFT), "far": (INK, FAR_SOFT)}
    tiles = tuple(
        Tile(
            found.image,
            is_marked=found.is_right,
            mark="✓ right" if found.is_right else "",
            note="" if found.is_right else found.explanation(concepts),
            note_colour=AMBER if found.misses else GREEN,
        )
        for found in result.images
    )
    return Block(tiles, f"rank {result.rank:,}", colours[result.nearness])
