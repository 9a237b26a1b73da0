"""What `python -m flows evaluate` tells in the terminal, published figures beside ours where they
are asked for.

Tables that fit 80 columns; all of it, with every measure, stands in the report.
"""

from pathlib import Path

from flows.cli.terminal import print_facts, print_line, print_table
from tasks.evaluation.published_figures import published_tables
from tasks.evaluation.tables import (
    MEASURES,
    NEW,
    PROTOCOLS,
    QUERIES,
    Figures,
    Row,
    audit_sentence,
    number,
    read_figures,
    slice_rows,
    with_half,
)
from tasks.pages.text import ARROWS
from tasks.runtime.records import Evaluation

FILES = {
    "report": "report.html",
    "gallery": "gallery.html",
    "figures": "figures.json",
    "candidates": "candidates-101.parquet",
}
WORDS = ("protocol", "direction", "model", "queries", "column", "slice", "data set")
SHOWN_SLICES = ("column", "slice", "products", NEW, "gap", "p")


def print_evaluation(evaluation: Evaluation, compared_with: str | None) -> None:
    """Print the tables of an evaluation and where its pages lie."""
    figures = read_figures(evaluation.figures)
    about = f"{figures['captions']:,} captions and {figures['images']:,} pictures"
    for protocol in figures["models"][NEW]["protocols"]:
        _print(
            f"Rank@K of {about}, protocol {PROTOCOLS[protocol]}, %", rank_rows(figures, protocol)
        )
    _print(
        "Queries that many products answer: precision (captions: recall), %", query_rows(figures)
    )
    _print("Zero-shot labels: accuracy, %", label_rows(figures))
    worst = [{key: row[key] for key in SHOWN_SLICES} for row in slice_rows(figures, is_worst=True)]
    _print("Slices below the rest by more than noise: mean recall, %", worst)
    if compared_with == "published":
        for title, rows in published_tables(figures).items():
            _print(title, rows)
        print_line(
            "Comparable where data set and protocol are the same; sources: docs/published.md"
        )
    for note in figures["notes"]:
        print_line(f"note: {note}")
    print_line(f"false negatives: {audit_sentence(figures)}")
    folder = evaluation.figures.parent
    print_facts(
        "",
        {
            name: _relative(folder / file)
            for name, file in FILES.items()
            if (folder / file).exists()
        },
    )


def rank_rows(figures: Figures, protocol: str) -> list[Row]:
    """Return a row a direction and model; the directions together have the mean recall."""
    rows = []
    for way, arrow in {"": "both", **ARROWS}.items():
        for name, model in figures["models"].items():
            found = model["protocols"][protocol]
            row = {"direction": arrow, "model": name}
            row |= {
                shown: _short(found[f"{way}_{key}"]) if way else ""
                for key, shown in MEASURES.items()
            }
            rows.append(row | {"mean": "" if way else _short(found["mean_recall"])})
    return rows


def query_rows(figures: Figures) -> list[Row]:
    """Return a row a kind of query with the new model's scores."""
    rows = []
    for name, scores in figures["models"][NEW]["queries"].items():
        kind = "recall" if name == "caption" else "precision"
        mrr = scores.get("mrr", scores.get("mrr_at_10"))
        about = figures["queries"][name]
        row = {"queries": QUERIES.get(name, name)}
        row["chance"] = number(about["chance"]) if kind == "precision" else ""
        row |= {f"@{k}": _short(scores[f"{kind}_at_{k}"]) for k in (1, 10)}
        row["nDCG@10"] = _short(scores["ndcg_at_10"]) if "ndcg_at_10" in scores else ""
        rows.append(row | {"MRR": _short(mrr)})
    return rows


def label_rows(figures: Figures) -> list[Row]:
    """Return a row a column of labels with the new model's accuracies."""
    return [
        {
            "column": column,
            "labels": str(len(found["single"]["labels"])),
            "largest": number(found["single"]["largest_label"]),
            "one prompt": _short(found["single"]["accuracy"]),
            "ensemble": _short(found["ensemble"]["accuracy"]),
            "macro": number(found["ensemble"]["macro_accuracy"]),
        }
        for column, found in figures["models"][NEW]["zero_shot"].items()
    ]


def _short(figure: Figures) -> str:
    return with_half(figure).replace(" ", "")


def _print(title: str, rows: list[Row]) -> None:
    if rows:
        print_table(title, rows, right=tuple(column for column in rows[0] if column not in WORDS))


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
