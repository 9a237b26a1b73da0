"""What a stage measured, read back from its spool and drawn: one panel a quantity, over the steps."""

import io
import json
from pathlib import Path
from typing import NamedTuple

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
COLUMNS = 3
COLOURS = ("#15181d", "#1d6b52", "#c26a1b", "#5a55b8", "#b23a5b")
# As many points a curve as a panel has room for; each is the mean of its steps.
POINTS = 200


class Series(NamedTuple):
    """A metric over the steps at which it was measured."""

    steps: list[int]
    values: list[float]


def read_series(folder: Path) -> dict[str, Series]:
    """Return what the spool in a stage's folder holds, by metric; the name of the stage comes off.

    Where training went back, what followed takes the place of what was before.
    """
    series: dict[str, Series] = {}
    with (folder / SPOOL).open("rb") as spool:
        for line in spool:
            entry = json.loads(line)
            for name, value in entry["values"].items():
                steps, values = series.setdefault(name.split("/", 1)[1], Series([], []))
                while steps and steps[-1] >= entry["step"]:
                    steps.pop()
                    values.pop()
                steps.append(entry["step"])
                values.append(value)
    return series


def curves_png(title: str, series: dict[str, Series]) -> bytes:
    """Return a PNG of the panels that there are values for."""
    from matplotlib.figure import Figure

    panels = [(name, [key for key in keys if key in series]) for name, keys in PANELS]
    panels = [(name, keys) for name, keys in panels if keys]
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, 2.9 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axis, (name, keys) in zip(axes, panels, strict=False):
        percent = 100 if name.startswith("valid") else 1
        for key, colour in zip(keys, COLOURS, strict=False):
            steps, values = _thinned(series[key])
            label = key.removeprefix("valid_").replace("_", " ")
            axis.plot(
                steps,
                [percent * value for value in values],
                color=colour,
                label=label,
                linewidth=1.4,
            )
        axis.set_title(name, fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
        if len(keys) > 1:
            axis.legend(frameon=False, fontsize=8)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title, fontsize=13)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _thinned(series: Series) -> Series:
    """Replace neighbouring steps by their mean where there are more than a panel shows."""
    width = -(-len(series.steps) // POINTS)
    starts = range(0, len(series.steps), width)
    return Series(
        [series.steps[min(start + width, len(series.steps)) - 1] for start in starts],
        [
            sum(part) / len(part)
            for start in starts
            if (part := series.values[start : start + width])
        ],
    )
