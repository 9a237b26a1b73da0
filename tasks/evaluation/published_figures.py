"""Figures that others published on product search, each with its paper and table, beside ours.

They stand in `published.json`; what could not be traced to a table is not there. A comparison says
something only where data set, split and protocol are the same: the rows name them.
"""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from tasks.evaluation.tables import MEASURES, NEW, SCORES, Figures, Row, number

FILE = Path(__file__).with_name("published.json")
# Whose rows stand beside ours; docs/published.md has them all.
COMPARED_SETS = ("Fashion-Gen", "KAGL")
# Which of our figures answers to a published task and measure.
OURS = {
    ("text → image", "full"): "text_to_image",
    ("image → text", "full"): "image_to_text",
    ("text → image", "101"): "text_to_image",
    ("image → text", "101"): "image_to_text",
}
# Their MRR is within ten places.
THEIR_SCORES = SCORES | {"mrr_at_10": "MRR"}
MEANS = {"AvgRecall": ("Recall@1", "Recall@10"), "AvgP": ("P@1", "P@10")}


class PublishedFigures(BaseModel):
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
def published() -> tuple[PublishedFigures, ...]:
    """Read all published figures, in the order of the file."""
    return TypeAdapter(tuple[PublishedFigures, ...]).validate_json(FILE.read_bytes())


def published_tables(figures: Figures) -> dict[str, list[Row]]:
    """List, by title, ours and a row a published model for every task that we have figures of."""
    tables: dict[str, list[Row]] = {}
    for each in (each for each in published() if each.data_set in COMPARED_SETS):
        if ours := _ours(figures, each.protocol, each.task):
            rows = tables.setdefault(
                f"{each.task}, protocol {each.protocol}, %",
                [_row("ours", str(figures["config"]), ours, each)],
            )
            rows.append(_row(each.model, each.data_set, each.figures, each))
    return tables


def _row(model: str, data_set: str, figures: dict[str, float], like: PublishedFigures) -> Row:
    """Lay out figures with the measures of a published row as columns; a missing one is empty."""
    return {"model": model, "data set": data_set} | {
        name: number(figures.get(name), 1) for name in like.figures
    }


def _ours(figures: Figures, protocol: str, task: str) -> dict[str, float]:
    """Look up our figures of a task, in percent; none where it was not measured."""
    model: dict[str, Any] = figures["models"][NEW]
    if (task, protocol) in OURS and protocol in model["protocols"]:
        found, way = model["protocols"][protocol], OURS[task, protocol]
        # Queries with fewer candidates than the published ones had are easier, so they are not
        # compared.
        values = {
            key: model["of_101"][f"{way}_{key}"]
            if protocol == "101"
            else found[f"{way}_{key}"]["value"]
            for key in MEASURES
        }
        return {
            name: 100 * values[key] for key, name in MEASURES.items() if values[key] is not None
        }

    # Marqo's leaderboard asks captions and labels, each of which many products answer.
    name = "caption" if task == "text → image" else task.removesuffix(" → product")
    scores = model["queries"].get(name, {}) if protocol == "Marqo" else {}
    found = {THEIR_SCORES[key]: 100 * figure["value"] for key, figure in scores.items()}
    return found | {
        mean: sum(found[part] for part in parts) / len(parts)
        for mean, parts in MEANS.items()
        if found.keys() >= set(parts)
    }
