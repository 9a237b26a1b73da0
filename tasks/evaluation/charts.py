"""Pictures of an evaluation: Rank@K by model, and what labels are taken for."""

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.evaluation.tables import BASE, CHAMPION, NEW, RANKS
from tasks.pages.pictures import COLOURS, INK, PAPER, figure_png, legible
from tasks.pages.text import ARROWS, visible

CHART_DPI = 130
BAR_ROOM = 0.84
CHANCE = "chance"
BAR_COLOURS = {
    NEW: COLOURS["green"],
    CHAMPION: COLOURS["blue"],
    BASE: COLOURS["sage"],
    CHANCE: COLOURS["sand"],
}
DRAWN_LABELS, COUNTED_LABELS = 20, 12
CONFUSIONS_A_ROW = 2


def rank_chart(title: str, metrics: dict[str, dict[str, float]]) -> bytes:
    """Draw a PNG of Rank@K by direction: a bar a model, and one for chance."""
    with legible():
        figure = Figure(figsize=(9, 3.6), dpi=CHART_DPI, layout="constrained")
        figure.suptitle(title, fontsize=11)
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (direction, arrow) in zip(panels, ARROWS.items(), strict=True):
            _draw_ranks(panel, direction, metrics)
            panel.set_title(arrow)
        panels[0].set_ylabel("% of queries")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
        return figure_png(figure)


def _draw_ranks(panel: Axes, direction: str, metrics: dict[str, dict[str, float]]) -> None:
    series = {
        name: [100 * values[f"{direction}_rank_at_{k}"] for k in RANKS]
        for name, values in metrics.items()
    }
    first = next(iter(metrics.values()))  # chance is the same for all models
    series[CHANCE] = [100 * first[f"{direction}_chance_at_{k}"] for k in RANKS]

    # Bars of one K stand side by side, centred on its tick.
    width = BAR_ROOM / len(series)
    for number, (name, percents) in enumerate(series.items()):
        places = np.arange(len(RANKS)) + width * (number - (len(series) - 1) / 2)
        bars = panel.bar(places, percents, width, label=name, color=BAR_COLOURS[name])
        panel.bar_label(bars, fmt="%.1f", fontsize=8 if len(series) < 4 else 6.5)
    panel.set_xticks(range(len(RANKS)), [f"Rank@{k}" for k in RANKS])
    panel.spines[["top", "right"]].set_visible(False)


def confusion_chart(
    title: str, confusions: dict[str, tuple[list[str], npt.NDArray[np.int64]]]
) -> bytes:
    """Draw a PNG, a panel a column: rows the most frequent labels, columns what they are taken for.

    A cell's shade is the share of its row. Labels are given with their confusion, the most frequent
    first.
    """
    rows = -(-len(confusions) // CONFUSIONS_A_ROW)
    with legible():
        figure = Figure(
            figsize=(6.4 * CONFUSIONS_A_ROW, 6.2 * rows), dpi=CHART_DPI, layout="constrained"
        )
        figure.suptitle(title, fontsize=11)
        panels = figure.subplots(rows, CONFUSIONS_A_ROW, squeeze=False).ravel()
        for panel in panels[len(confusions) :]:
            panel.set_visible(False)
        for panel, (column, (labels, counts)) in zip(panels, confusions.items(), strict=False):
            _draw_confusion(panel, column, labels, counts)
        return figure_png(figure)


def _draw_confusion(
    panel: Axes, column: str, labels: list[str], counts: npt.NDArray[np.int64]
) -> None:
    drawn = min(len(labels), DRAWN_LABELS)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panel.imshow(shares[:drawn, :drawn], cmap="Greens", vmin=0, vmax=1)
    names = [visible(label)[:22] for label in labels[:drawn]]
    panel.set_xticks(range(drawn), names, rotation=60, ha="right", fontsize=8)
    panel.set_yticks(range(drawn), names, fontsize=8)
    panel.set_xlabel("taken for")
    rest = f", the {drawn} most frequent of {len(labels)}" if drawn < len(labels) else ""
    panel.set_title(f"{column}{rest}", fontsize=10)

    # With more labels the counts would not be legible; they are in figures.json.
    if drawn <= COUNTED_LABELS:
        for row, place in np.ndindex(drawn, drawn):
            ink = PAPER if shares[row, place] > 0.5 else INK
            count = f"{counts[row, place]:,}"
            panel.text(place, row, count, ha="center", va="center", fontsize=7, color=ink)
