"""Pictures of an evaluation: Rank@K by model, and what labels are taken for."""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tasks.pages.text import ARROWS, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANKS = (1, 5, 10)
BAR_ROOM = 0.84
COLOURS = {
    "new model": "#1d6b52",
    "champion": "#6f9fd8",
    "base weights": "#9db3aa",
    "chance": "#d8d2c4",
}
SHOWN_LABELS = 20
COUNTED_LABELS = 12
CONFUSIONS_A_ROW = 2


def rank_chart(title: str, metrics: dict[str, dict[str, float]]) -> bytes:
    """Return a PNG of Rank@K by direction: a bar a model, and one for chance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (direction, arrow) in zip(panels, ARROWS.items(), strict=True):
        series = {
            name: [values[f"{direction}_rank_at_{k}"] for k in RANKS]
            for name, values in metrics.items()
        }
        series["chance"] = [
            next(iter(metrics.values()))[f"{direction}_chance_at_{k}"] for k in RANKS
        ]
        width = BAR_ROOM / len(series)
        for number, (name, shares) in enumerate(series.items()):
            places = [
                place + width * (number - (len(series) - 1) / 2) for place in range(len(RANKS))
            ]
            bars = panel.bar(
                places, [100 * share for share in shares], width, label=name, color=COLOURS[name]
            )
            panel.bar_label(bars, fmt="%.1f", fontsize=8 if len(series) < 4 else 6.5)
        panel.set_xticks(range(len(RANKS)), [f"Rank@{k}" for k in RANKS])
        panel.set_title(arrow)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("% of queries")
    panels[0].legend(frameon=False, loc="upper left")
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def confusion_chart(
    title: str, confusions: dict[str, tuple[list[str], npt.NDArray[np.int64]]]
) -> bytes:
    """Return a PNG: a panel a column, rows the labels (the most frequent ones), columns what they
    are taken for.

    A cell's shade is the share of its row. Labels are given with their confusion, the most frequent
    first.
    """
    from matplotlib.figure import Figure

    rows = -(-len(confusions) // CONFUSIONS_A_ROW)
    figure = Figure(figsize=(6.4 * CONFUSIONS_A_ROW, 6.2 * rows), layout="constrained")
    panels = figure.subplots(rows, CONFUSIONS_A_ROW, squeeze=False).ravel()
    for panel, (column, (labels, counts)) in zip(panels, confusions.items(), strict=False):
        _draw_confusion(panel, column, labels, counts)
    for panel in panels[len(confusions) :]:
        panel.set_visible(False)
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def _draw_confusion(
    panel: "Axes", column: str, labels: list[str], counts: npt.NDArray[np.int64]
) -> None:
    shown = min(len(labels), SHOWN_LABELS)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    panel.imshow(shares[:shown, :shown], cmap="Greens", vmin=0, vmax=1)
    # No caption's markup is obeyed: a dollar sign would begin a formula.
    names = [visible(label)[:22].replace("$", r"\$") for label in labels[:shown]]
    panel.set_xticks(range(shown), names, rotation=60, ha="right", fontsize=8)
    panel.set_yticks(range(shown), names, fontsize=8)
    panel.set_xlabel("taken for")
    rest = f", the {shown} most frequent of {len(labels)}" if shown < len(labels) else ""
    panel.set_title(f"{column}{rest}", fontsize=10)
    if shown <= COUNTED_LABELS:
        for row in range(shown):
            for place in range(shown):
                ink = "white" if shares[row, place] > 0.5 else "#15181d"
                panel.text(
                    place,
                    row,
                    f"{counts[row, place]:,}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=ink,
                )


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A label in letters that the font lacks is drawn as boxes; its counts stand in
        # figures.json.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
