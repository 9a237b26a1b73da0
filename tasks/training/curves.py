"""What a stage measured, read back from its spool and drawn over the steps, a panel a quantity.

Imports no torch.
"""

import json
from pathlib import Path
from typing import NamedTuple

from tasks.pages.curves import Curve, Panel, draw_panel
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
# As many points a curve as a panel has room for; each is the mean of its steps.
POINTS = 100


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


def stage_panels(series: dict[str, Series]) -> list[Panel]:
    """Draw the panels that there are values for; shares of queries in percent."""
    panels = []
    for title, keys in PANELS:
        factor = 100 if title.startswith("valid") else 1
        thinned = {key: _thinned(series[key]) for key in keys if key in series}
        curves = [
            Curve(
                key.removeprefix("valid_").replace("_", " "),
                steps,
                [factor * value for value in values],
            )
            for key, (steps, values) in thinned.items()
        ]
        panels.append(draw_panel(title, curves))
    return [panel for panel in panels if panel is not None]


def _thinned(series: Series) -> Series:
    """Replace neighbouring steps by their mean where there are more than a panel has room for."""
    width = -(-len(series.steps) // POINTS)
    starts = range(0, len(series.steps), width)
    parts = [series.values[start : start + width] for start in starts]
    return Series(
        [series.steps[min(start + width, len(series.steps)) - 1] for start in starts],
        [sum(part) / len(part) for part in parts],
    )
