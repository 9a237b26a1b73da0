"""Figures that others published on product search, each with its paper and table, beside ours.

They stand in `published.json`; what could not be traced to a table is not there. A comparison says something only where
data set, split and protocol are the same: the rows name them.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.figures import NEW, Figures, Row, number

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
MEASURES = {"Rank@1": "rank_at_1", "Rank@5": "rank_at_5", "Rank@10": "rank_at_10"}
SCORES = {
    "Recall@1": "recall_at_1",
    "Recall@10": "recall_at_10",
    "P@1": "precision_at_1",
    "P@10": "precision_at_10",
    "MRR": "mrr_at_10",
}


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
    return tuple(Published.model_validate(each) for each in json.loads(FILE.read_text(encoding="utf-8")))


def published_rows(figures: Figures) -> list[Row]:
    """Return a row a published model and task that we have a figure for, and ours before those of each task."""
    rows = list[Row]()
    compared = [each for each in published() if each.data_set in COMPARED]
    for protocol, task in dict.fromkeys((each.protocol, each.task) for each in compared):
        alike = [each for each in compared if (each.protocol, each.task) == (protocol, task)]
        ours = _ours(figures, protocol, task)
        if not ours:
            continue
        about = {"model": "ours", "data set": figures["config"], "source": "this evaluation"}
        rows.append(_row(protocol, task, about, ours))
        for each in alike:
            about = {"model": each.model, "data set": each.data_set, "source": f"{each.source}, {each.table}"}
            rows.append(_row(protocol, task, about, each.figures))
    return rows


def _row(protocol: str, task: str, about: Row, figures: dict[str, float]) -> Row:
    shown = ", ".join(f"{name} {number(value, 1)}" for name, value in figures.items())
    return {"protocol": protocol, "direction": task, **about, "figures": shown}


def _ours(figures: Figures, protocol: str, task: str) -> dict[str, float]:
    """Return our figures of a task in percent; none where it was not measured."""
    model: dict[str, Any] = figures["models"][NEW]
    if (task, protocol) in OURS and protocol in model["protocols"]:
        found = model["protocols"][protocol]
        return {name: 100 * found[f"{OURS[task, protocol]}_{key}"]["value"] for name, key in MEASURES.items()}
    name = "caption" if task == "text → image" else task.removesuffix(" → product")
    found = model["queries"].get(name, {}) if protocol == "Marqo" else {}
    return {shown: 100 * found[key]["value"] for shown, key in SCORES.items() if key in found}
