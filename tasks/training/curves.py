"""What a stage measured, read back from its spool and drawn over the steps, a panel a quantity."""

import json
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from tasks.pages.pictures import COLOURS, figure_png, legible
from tasks.registry.metric_log import SPOOL

# Title of a panel, and the metrics drawn in it; what a stage did not measure is left out.
PANELS = (
    ("loss by term", ("loss", "info_nce", "sigmoid", "concept", "nearest", "distill")),
    (
        "valid, % of queries",
        ("valid_mean_recall", "valid_text_to_image_rank_at_1", "valid_image_to_text_rank_at_1"),
    ),
    ("gradient norm", ("grad_norm",)),
    ("logit scale", ("logit_scale",)),
    ("learning rate", ("lr",)),
    ("pairs a second", ("pairs_per_s",)),
    ("share of time waiting for data", ("data_wait_share",)),
    ("TFLOP/s", ("tflops_per_s",)),
    ("share of peak FLOP/s (MFU)", ("mfu",)),
    ("peak memory, GB", ("peak_memory_gb",)),
)
PANELS_A_ROW = 3
# As many points a curve as a panel has room for; each is the mean of its steps.
POINTS = 200


class Series(NamedTuple):
    """A metric over the steps at which it was measured."""

    steps: list[int]
    values: list[float]


def read_series(folder: Path) -> dict[str, Series]:
    """Read the spool in a stage's folder, by metric; the name of the stage comes off.

    Where training went back, what followed takes the place of what was before.
    """
    series: dict[str, Series] = {}
    with (folder / SPOOL).open("rb") as spool:
        for line in spool:
            entry = json.loads(line)
            for name, value in entry["values"].items():
                steps, values = series.setdefault(name.split("/", 1)[1], Series([], []))
                # Steps that were repeated replace themselves and all that followed.
                while steps and steps[-1] >= entry["step"]:
                    steps.pop()
                    values.pop()
                steps.append(entry["step"])
                values.append(value)
    return series


def curves_png(title: str, series: dict[str, Series]) -> bytes:
    """Draw a PNG of the panels that there are values for."""
    measured = [(name, [key for key in keys if key in series]) for name, keys in PANELS]
    panels = [(name, keys) for name, keys in measured if keys]
    rows = -(-len(panels) // PANELS_A_ROW)

    with legible():
        figure = Figure(figsize=(4.6 * PANELS_A_ROW, 2.9 * rows + 0.5), dpi=110)
        figure.set_layout_engine("constrained", h_pad=0.12)
        figure.suptitle(title, fontsize=13)
        axes = figure.subplots(rows, PANELS_A_ROW, squeeze=False).ravel()
        for axis in axes[len(panels) :]:
            axis.set_visible(False)

        for axis, (name, keys) in zip(axes, panels, strict=False):
            percent = 100 if name.startswith("valid") else 1
            for key, colour in zip(keys, COLOURS.values(), strict=False):
                steps, values = _thinned(series[key])
                axis.plot(
                    steps,
                    [percent * value for value in values],
                    color=colour,
                    label=key.removeprefix("valid_").replace("_", " "),
                    linewidth=1.4,
                )
            axis.set_title(name, fontsize=11)
            axis.spines[["top", "right"]].set_visible(False)
            if len(keys) > 1:
                axis.legend(frameon=False, fontsize=8)
        return figure_png(figure)


def _thinned(series: Series) -> Series:
    """Replace neighbouring steps by their mean where there are more than a panel has room for."""
    width = -(-len(series.steps) // POINTS)
    starts = range(0, len(series.steps), width)
    parts = [series.values[start : start + width] for start in starts]
    return Series(
        [series.steps[min(start + width, len(series.steps)) - 1] for start in starts],
        [sum(part) / len(part) for part in parts],
    )
