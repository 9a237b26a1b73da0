"""Figures that others published on product search, each with its paper and table, beside ours.

They stand in `published.json`; what could not be traced to a table is not there. A comparison says
something only where data set, split and protocol are the same: the rows name them.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.evaluation.tables import MEASURES, NEW, Figures, Row, number

FILE = Path(__file__).with_name("published.json")
# Whose rows stand beside ours; docs/published.md has them all.
COMPARED = ("Fashion-Gen", "KAGL")
# Which of our figures answers to a published task and measure.
OURS = {
    ("text → image", "full"): "text_to_image",
    ("image → text", "full"): "image_to_text",
    ("text → image", "101"): "text_to_image",
    ("image → text", "101"): "image_to_text",
}
SCORES = {
    "Recall@1": "recall_at_1",
    "Recall@10": "recall_at_10",
    "P@1": "precision_at_1",
    "P@10": "precision_at_10",
    "MRR": "mrr_at_10",
}
MEANS = {"AvgRecall": ("Recall@1", "Recall@10"), "AvgP": ("P@1", "P@10")}


class Published(BaseModel):
    """The figures of one model in one table, in percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    data_set: str
    protocol: str
    task: str
    figures: dict[str, float]
    source: str
    table: str
    url: str


@cache
def published() -> tuple[Published, ...]:
    """Return all published figures, in the order of the file."""
    return tuple(
        Published.model_validate(each) for each in json.loads(FILE.read_text(encoding="utf-8"))
    )


def published_tables(figures: Figures) -> dict[str, list[Row]]:
    """Return, by title, a table a task that we have figures of: ours first, then a row a published model."""
    tables: dict[str, list[Row]] = {}
    for each in (each for each in published() if each.data_set in COMPARED):
        ours = _ours(figures, each.protocol, each.task)
        if ours:
            first = _row("ours", str(figures["config"]), ours, each)
            rows = tables.setdefault(f"{each.task}, protocol {each.protocol}, %", [first])
            rows.append(_row(each.model, each.data_set, each.figures, each))
    return tables


def _row(model: str, data_set: str, figures: dict[str, float], like: Published) -> Row:
    """Return a row with the measures of a published one as columns; one that is not there is empty."""
    return {"model": model, "data set": data_set} | {
        name: number(figures.get(name), 1) for name in like.figures
    }


def _ours(figures: Figures, protocol: str, task: str) -> dict[str, float]:
    """Return our figures of a task in percent; none where it was not measured."""
    model: dict[str, Any] = figures["models"][NEW]
    if (task, protocol) in OURS and protocol in model["protocols"]:
        found = model["protocols"][protocol]
        return {
            name: 100 * found[f"{OURS[task, protocol]}_{key}"]["value"]
            for key, name in MEASURES.items()
        }
    name = "caption" if task == "text → image" else task.removesuffix(" → product")
    scores = model["queries"].get(name, {}) if protocol == "Marqo" else {}
    found = {shown: 100 * scores[key]["value"] for shown, key in SCORES.items() if key in scores}
    for mean, parts in MEANS.items():
        if found.keys() >= set(parts):
            found[mean] = sum(found[part] for part in parts) / len(parts)
    return found
