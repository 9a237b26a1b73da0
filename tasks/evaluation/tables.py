"""The figures of an evaluation as rows of tables: one form for terminal, Prefect and pages.

Shares are in percent. ``27.4 ± 2.8`` stands for a value and the wider half of its 95 % interval.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.pages.baselines import under_baseline
from tasks.pages.text import ARROWS

FIGURES_FILE = "figures.json"
NEW, CHAMPION, BASE = "new model", "champion", "base weights"
PROTOCOLS = {"full": "full", "product": "full, products", "101": "101 candidates"}
RANKS = (1, 5, 10)
BELOW = "▾"
MEASURES = {f"rank_at_{k}": f"Rank@{k}" for k in RANKS}
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


def protocol_name(figures: Figures, protocol: str) -> str:
    """Return the name of a protocol; that of 101 says how many queries have fewer candidates."""
    fewer = figures.get("fewer_than_101", {}) if protocol == "101" else {}
    sides = {"text_to_image": "captions", "image_to_text": "images"}
    said = [f"{few:,} of {all_:,} {sides[way]}" for way, (few, all_) in fewer.items() if few]
    return PROTOCOLS[protocol] + (f" ({', '.join(said)} have fewer)" if said else "")


def baseline_notes(metrics: Mapping[str, float]) -> list[str]:
    """Put in a sentence which figures are below their baselines, if any are."""
    below = under_baseline(metrics)
    if not below:
        return []
    named = ", ".join(
        f"{name} {number(value)} < {number(baseline)}" for name, (value, baseline) in below.items()
    )
    return [
        f"{len(below)} figures ({BELOW}) are worse than a random order or always saying the "
        f"largest label, %: {named}"
    ]


def read_figures(path: Path) -> Figures:
    """Read what an evaluation left."""
    figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    return figures


def rank_table(
    metrics: dict[str, float], base: dict[str, float], champion: dict[str, float] | None = None
) -> list[Row]:
    """List Rank@K from flat metrics: a row a direction and K, chance, then a column a model."""
    models = {BASE: base, **({} if champion is None else {CHAMPION: champion}), NEW: metrics}
    keywords = {"keyword": "keywords → image"} if "keyword_rank_at_1" in metrics else {}
    return [
        {
            "direction": arrow,
            "measure": f"Rank@{k}",
            "chance": number(metrics[f"{direction}_chance_at_{k}"]),
            **{name: number(values[f"{direction}_rank_at_{k}"]) for name, values in models.items()},
        }
        for direction, arrow in (ARROWS | keywords).items()
        for k in RANKS
    ]


def protocol_rows(figures: Figures, measures: dict[str, str] = MEASURES) -> list[Row]:
    """List mean recall and measures by protocol and direction, a column a model."""
    models = figures["models"]
    # A median rank is no share.
    keys = {"mean_recall": ("both", "mean recall", 100)} | {
        f"{way}_{key}": (arrow, measure, 1 if measure == "median rank" else 100)
        for way, arrow in ARROWS.items()
        for key, measure in measures.items()
    }

    return [
        {
            "protocol": protocol_name(figures, protocol),
            "direction": arrow,
            "measure": measure,
            "chance": number(models[NEW]["chance"][protocol].get(key)),
            **{
                name: with_half(models[name]["protocols"][protocol][key], scale)
                for name in reversed(models)
            },
            "ties won": number(found[key]["optimistic"], scale),
        }
        for protocol, found in models[NEW]["protocols"].items()
        for key, (arrow, measure, scale) in keys.items()
    ]


def query_rows(figures: Figures) -> list[Row]:
    """List scores by kind of query, a column a model, chance beside them."""
    models = figures["models"]
    return [
        {
            "queries": f"{QUERIES.get(name, f'{name} → product')}, {about['queries']:,}",
            "score": SCORES[key],
            "chance": number(models[NEW]["query_baselines"][name][key]),
            **{
                model: with_half(
                    models[model]["queries"][name][key],
                    baseline=models[model]["query_baselines"][name][key],
                )
                for model in reversed(models)
            },
        }
        for name, about in figures["queries"].items()
        for key in models[NEW]["queries"].get(name, ())
    ]


def zero_shot_rows(figures: Figures) -> list[Row]:
    """List accuracies by column: of each way to prompt, and of always saying the largest label."""
    base = figures["models"][BASE]["zero_shot"]
    return [
        {
            "column": column,
            "labels": str(len(found["single"]["labels"])),
            "largest label": number(found["single"]["largest_label"]),
            "base, ensemble": number(base[column]["ensemble"]["accuracy"]["value"]),
            "one prompt": with_half(
                found["single"]["accuracy"], baseline=found["single"]["largest_label"]
            ),
            "ensemble": with_half(
                found["ensemble"]["accuracy"], baseline=found["ensemble"]["largest_label"]
            ),
            "macro, one prompt": number(found["single"]["macro_accuracy"]),
            "macro, ensemble": number(found["ensemble"]["macro_accuracy"]),
        }
        for column, found in figures["models"][NEW]["zero_shot"].items()
    ]


def slice_rows(figures: Figures, is_worst: bool) -> list[Row]:
    """List the new model's slices: all, or the ten that lag the rest by more than noise."""
    from model.evaluation.slices import Slice, worst_slices  # imports torch

    models = figures["models"]
    slices = [Slice(**each) for each in models[NEW]["slices"]]
    if is_worst:
        slices = worst_slices(slices)

    # The gap is the new model's; of the others there are the values beside it.
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
    """Put in a sentence what the false-negative audit found of the new model."""
    found = figures["models"][NEW]["audit"]
    return (
        f"text → image Rank@1 {number(found['strict'])} strict, "
        f"{number(found['audited'])} audited: of {found['misses']:,} captions that miss, "
        f"the first answer to {found['satisfied']:,} shows all concepts that the caption names "
        f"({found['by_chance']:.0f} expected of any wrong image)"
    )


def with_half(figure: Figures, scale: float = 100, baseline: float = -math.inf) -> str:
    """Format ``27.4 ± 2.8``, marked where it is below its baseline."""
    half = max(figure["high"] - figure["value"], figure["value"] - figure["low"])
    mark = f" {BELOW}" if figure["value"] < baseline else ""
    return f"{number(figure['value'], scale)} ± {number(half, scale)}{mark}"


def number(value: float | None, scale: float = 100) -> str:
    """Format a value with one decimal; nothing for none."""
    return "" if value is None else f"{scale * value:,.1f}"
