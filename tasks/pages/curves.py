"""Curves as drawings in a page: a panel a quantity, with every value under the pointer.

A panel is inline SVG of `curves.html.jinja`; this file turns values into its coordinates. Nothing
runs in the page: a strip for each step shows its values while the pointer is over it, and a table
below the panels holds the same values for the keyboard, a screen reader and the clipboard. A panel
of three curves weighs about 30 KB. Imports matplotlib for its ticks, no torch.

Lengths are the units of a panel's own coordinates.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator


class Frame(NamedTuple):
    """The outer size of a panel, and the margins around what is drawn in it."""

    width: int = 440
    height: int = 250
    left: int = 52
    right: int = 10
    top: int = 58
    bottom: int = 26


FRAME = Frame()
TICKS = 5


class Curve(NamedTuple):
    """A named quantity over the steps at which it was measured."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]


class Tick(NamedTuple):
    """A mark of an axis: where it is, and what it says."""

    place: float
    label: str


class Strip(NamedTuple):
    """The part of a panel that is nearest to one step, and what was measured there."""

    left: float
    width: float
    place: float
    says: str


class Panel(NamedTuple):
    """A drawn panel: a path a curve, ticks, and a strip a step."""

    title: str
    paths: list[tuple[str, str]]  # name, path
    across: list[Tick]
    upward: list[Tick]
    strips: list[Strip]
    head: list[str]
    rows: list[list[str]]


def draw_panel(title: str, curves: Iterable[Curve]) -> Panel | None:
    """Draw curves into one panel; None where no finite value was measured.

    Curves are measured at steps of their own; the strips and the table have the steps of them all.
    """
    measured = {
        curve.name: {
            step: value
            for step, value in zip(curve.steps, curve.values, strict=True)
            if math.isfinite(value)
        }
        for curve in curves
    }
    values = [value for points in measured.values() for value in points.values()]
    if not values:
        return None

    steps = sorted({step for points in measured.values() for step in points})
    across = _Scale(steps, FRAME.left, FRAME.width - FRAME.right)
    upward = _Scale(values, FRAME.height - FRAME.bottom, FRAME.top)
    paths = {
        name: [f"{across(step):.1f} {upward(value):.1f}" for step, value in points.items()]
        for name, points in measured.items()
    }

    rows = [
        [
            f"{step:,}",
            *(f"{points[step]:.4g}" if step in points else "" for points in measured.values()),
        ]
        for step in steps
    ]
    return Panel(
        title=title,
        paths=[(name, "M" + "L".join(places)) for name, places in paths.items()],
        across=across.ticks(is_whole=True),
        upward=upward.ticks(),
        strips=_strips([across(step) for step in steps], list(measured), rows),
        head=["step", *measured],
        rows=rows,
    )


def _strips(places: list[float], names: list[str], rows: list[list[str]]) -> list[Strip]:
    """Part a panel half-way between steps, so that the pointer is always over the nearest."""
    middles = [sum(pair) / 2 for pair in pairwise(places)]
    edges = pairwise([FRAME.left, *middles, FRAME.width - FRAME.right])

    strips = []
    for (left, right), place, row in zip(edges, places, rows, strict=True):
        found = [f"{name} {cell}" for name, cell in zip(names, row[1:], strict=True) if cell]
        strips.append(Strip(left, right - left, place, f"step {row[0]}: {', '.join(found)}"))
    return strips


class _Scale:
    """Values between their least and greatest → a stretch of the panel."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = min(values), max(values), start, end
        # One value alone stands in the middle.
        if self.low == self.high:
            margin = abs(self.low) / 2 or 1.0
            self.low, self.high = self.low - margin, self.high + margin

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, is_whole: bool = False) -> list[Tick]:
        """Choose round values within the scale."""
        locator = MaxNLocator(TICKS, integer=is_whole)
        values = [float(value) for value in locator.tick_values(self.low, self.high)]
        return [
            Tick(self(value), f"{value:,.10g}")
            for value in values
            if self.low <= value <= self.high
        ]
