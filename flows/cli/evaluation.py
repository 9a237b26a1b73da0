"""What `commerce-clip evaluate` prints: tables that fit 80 columns.

Every measure stands in the report; published figures stand beside ours where they are asked for.
"""

import math

from flows.cli.terminal import print_facts, print_line, print_table, shorten_paths
from flows.parameters import Compare
from tasks.evaluation.published_figures import published_tables
from tasks.evaluation.tables import (
    MEASURES,
    NEW,
    QUERIES,
    Figures,
    Row,
    audit_sentence,
    number,
    protocol_name,
    read_figures,
    slice_rows,
    with_half,
)
from tasks.pages.text import ARROWS, WORD_COLUMNS
from tasks.runtime.records import Evaluation

FILES = {
    "report": "report.html",
    "gallery": "gallery.html",
    "figures": "figures.json",
    "candidates": "candidates-101.parquet",
}
SLICE_COLUMNS = ("column", "slice", "products", NEW, "gap", "p")


def print_evaluation(
    evaluation: Evaluation,
    compare: Compare = None,
) -> None:
    """Print the tables of an evaluation and where its pages lie."""
    figures = read_figures(evaluation.figures)

    about = f"{figures['captions']:,} captions and {figures['images']:,} images"
    tables = {
        **{
            f"Rank@K of {about}, protocol {protocol_name(figures, protocol)}, %": (
                rank_rows(figures, protocol)
            )
            for protocol in figures["models"][NEW]["protocols"]
        },
        "Queries that many products answer: precision (captions: recall), %": (
            query_score_rows(figures)
        ),
        "Zero-shot labels: accuracy, %": label_rows(figures),
        "Slices below the rest by more than noise: mean recall, %": [
            {key: row[key] for key in SLICE_COLUMNS} for row in slice_rows(figures, is_worst=True)
        ],
    }
    if compare == "published":
        tables |= published_tables(figures)

    for title, rows in tables.items():
        if rows:
            numbers = [column for column in rows[0] if column not in WORD_COLUMNS]
            print_table(title, rows, right=numbers)
    if compare == "published":
        print_line(
            "Comparable where data set and protocol are the same; sources: docs/published.md"
        )

    for note in figures["notes"]:
        print_line(f"note: {note}")
    print_line(f"false negatives: {audit_sentence(figures)}")
    folder = evaluation.figures.parent
    files = {name: folder / file for name, file in FILES.items() if (folder / file).exists()}
    print_facts("", {name: shorten_paths(str(path)) for name, path in files.items()})


def rank_rows(figures: Figures, protocol: str) -> list[Row]:
    """Return a row a direction and model; the directions together have the mean recall."""
    found = {name: model["protocols"][protocol] for name, model in figures["models"].items()}
    together = [
        {"direction": "both", "model": name}
        | dict.fromkeys(MEASURES.values(), "")
        | {"mean": _short(values["mean_recall"])}
        for name, values in found.items()
    ]
    return together + [
        {"direction": arrow, "model": name}
        | {measure: _short(values[f"{way}_{key}"]) for key, measure in MEASURES.items()}
        | {"mean": ""}
        for way, arrow in ARROWS.items()
        for name, values in found.items()
    ]


def query_score_rows(figures: Figures) -> list[Row]:
    """Return a row a kind of query with the new model's scores; chance is that of @10."""
    found, rows = figures["models"][NEW], []
    for name, scores in found["queries"].items():
        # Captions, which one product answers, are measured by recall.
        chance, measure = found["query_baselines"][name], "precision"
        if "recall_at_10" in scores:
            measure = "recall"
        keys = {"@1": f"{measure}_at_1", "@10": f"{measure}_at_10", "nDCG@10": "ndcg_at_10"}
        keys["MRR"] = "mrr" if "mrr" in scores else "mrr_at_10"
        row = {"queries": QUERIES.get(name, name), "chance": number(chance[keys["@10"]])}
        for column, key in keys.items():
            row[column] = _short(scores[key], chance[key]) if key in scores else ""
        rows.append(row)
    return rows


def label_rows(figures: Figures) -> list[Row]:
    """Return a row a column of labels with the new model's accuracies."""
    return [
        {
            "column": column,
            "labels": str(len(found["single"]["labels"])),
            "largest": number(found["single"]["largest_label"]),
            "one prompt": _short(found["single"]["accuracy"], found["single"]["largest_label"]),
            "ensemble": _short(found["ensemble"]["accuracy"], found["single"]["largest_label"]),
            "macro": number(found["ensemble"]["macro_accuracy"]),
        }
        for column, found in figures["models"][NEW]["zero_shot"].items()
    ]


def _short(figure: Figures, baseline: float = -math.inf) -> str:
    return with_half(figure, baseline=baseline).replace(" ", "")
