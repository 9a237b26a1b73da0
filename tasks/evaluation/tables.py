"""The figures of an evaluation as rows of tables, read from `figures.json`: one form for terminal,
Prefect and pages.

Shares are in percent. ``27.4 ± 2.8`` stands for a value and the wider half of its 95 % interval.
"""

import json
from pathlib import Path
from typing import Any

from tasks.pages.text import ARROWS

FIGURES_FILE = "figures.json"
NEW, CHAMPION, BASE = "new model", "champion", "base weights"
PROTOCOLS = {"full": "full", "product": "full, products", "101": "101 candidates"}
MEASURES = {"rank_at_1": "Rank@1", "rank_at_5": "Rank@5", "rank_at_10": "Rank@10"}
MORE_MEASURES = MEASURES | {"mrr": "MRR", "median_rank": "median rank"}
QUERIES = {"keyword": "concepts → image", "field": "fields → image", "caption": "captions → image"}
SCORES = {
    "precision_at_1": "P@1",
    "precision_at_10": "P@10",
    "recall_at_1": "Recall@1",
    "recall_at_10": "Recall@10",
    "ndcg_at_10": "nDCG@10",
    "mrr": "MRR",
    "mrr_at_10": "MRR@10",
}

Row = dict[str, str]
Figures = dict[str, Any]


def read_figures(path: Path) -> Figures:
    """Return what an evaluation left."""
    figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    return figures


def protocol_rows(figures: Figures, measures: dict[str, str] = MEASURES) -> list[Row]:
    """Return a row a protocol, direction and measure, and one of each protocol's mean recall, a column a model."""
    models, rows = figures["models"], []
    for protocol, found in models[NEW]["protocols"].items():
        keys = {
            f"{way}_{key}": (arrow, shown)
            for way, arrow in ARROWS.items()
            for key, shown in measures.items()
        }
        for key, (arrow, shown) in ({"mean_recall": ("both", "mean recall")} | keys).items():
            row = {"protocol": PROTOCOLS[protocol], "direction": arrow, "measure": shown}
            scale = 1 if shown == "median rank" else 100
            row["chance"] = number(models[NEW]["chance"][protocol].get(key))
            for name in reversed(models):
                row[name] = with_half(models[name]["protocols"][protocol][key], scale)
            row["ties won"] = number(found[key]["optimistic"], scale)
            rows.append(row)
    return rows


def query_rows(figures: Figures) -> list[Row]:
    """Return a row a kind of query and score, a column a model, chance beside them."""
    models, rows = figures["models"], []
    for name, scores in models[NEW]["queries"].items():
        about = figures["queries"][name]
        for key in scores:
            row = {
                "queries": f"{QUERIES.get(name, f'{name} → product')}, {about['queries']:,}",
                "score": SCORES[key],
            }
            row["chance"] = number(about["chance"]) if key.startswith("precision") else ""
            for model in reversed(models):
                row[model] = with_half(models[model]["queries"][name][key])
            rows.append(row)
    return rows


def zero_shot_rows(figures: Figures) -> list[Row]:
    """Return a row a column: how many labels, the accuracy of each way to prompt, and of saying the largest label."""
    models, rows = figures["models"], []
    for column, by_prompt in models[NEW]["zero_shot"].items():
        single, ensemble = by_prompt["single"], by_prompt["ensemble"]
        rows.append(
            {
                "column": column,
                "labels": str(len(single["labels"])),
                "largest label": number(single["largest_label"]),
                "base, ensemble": number(
                    models[BASE]["zero_shot"][column]["ensemble"]["accuracy"]["value"]
                ),
                "one prompt": with_half(single["accuracy"]),
                "ensemble": with_half(ensemble["accuracy"]),
                "macro, one prompt": number(single["macro_accuracy"]),
                "macro, ensemble": number(ensemble["macro_accuracy"]),
            }
        )
    return rows


def slice_rows(figures: Figures, is_worst: bool) -> list[Row]:
    """Return a row a slice of the new model: all, or the ten that are worse than the rest by more than noise."""
    from model.evaluation.slices import Slice, worst_slices

    models = figures["models"]
    slices = [Slice(**each) for each in models[NEW]["slices"]]
    if is_worst:
        slices = worst_slices(slices)
    others = {
        name: {(each["column"], each["name"]): each["value"] for each in models[name]["slices"]}
        for name in reversed(models)
        if name != NEW
    }
    return [
        {
            "column": each.column,
            "slice": each.name,
            "products": f"{each.products:,}",
            **{name: number(values[each.column, each.name]) for name, values in others.items()},
            NEW: number(each.value),
            "95 % interval": f"{number(each.low)} to {number(each.high)}",
            "gap": f"{100 * each.gap:+.1f}",
            "p": "< 0.001" if each.p < 0.001 else f"{each.p:.3f}",
        }
        for each in slices
    ]


def audit_sentence(figures: Figures) -> str:
    """Return what the false-negative audit found of the new model."""
    found = figures["models"][NEW]["audit"]
    return (
        f"text → image Rank@1 {number(found['strict'])} strict, {number(found['audited'])} audited: of "
        f"{found['misses']:,} captions that miss, the first answer to {found['satisfied']:,} shows all concepts that "
        f"the caption names ({found['by_chance']:.0f} expected of any wrong picture)"
    )


def with_half(figure: Figures, scale: float = 100) -> str:
    """Return ``27.4 ± 2.8``."""
    half = max(figure["high"] - figure["value"], figure["value"] - figure["low"])
    return f"{number(figure['value'], scale)} ± {number(half, scale)}"


def number(value: float | None, scale: float = 100) -> str:
    """Return a value with one decimal; nothing for none."""
    return "" if value is None else f"{scale * value:,.1f}"
