"""What `python -m flows evaluate` tells in the terminal, published figures beside ours where they are asked for."""

from pathlib import Path

from flows.terminal import print_facts, print_line, print_table
from tasks.figures import (
    Row,
    audit_sentence,
    protocol_rows,
    query_rows,
    read_figures,
    slice_rows,
    zero_shot_rows,
)
from tasks.published import published_rows
from tasks.records import Evaluation


def print_evaluation(evaluation: Evaluation, compared_with: str | None) -> None:
    """Print the tables of an evaluation and where its pages lie."""
    assert evaluation.figures is not None, "every evaluation leaves its figures"
    figures = read_figures(evaluation.figures)
    about = f"{figures['captions']:,} captions, {figures['images']:,} pictures of test, %"
    _print(f"Rank@K of {about}", protocol_rows(figures))
    _print("Queries that many products answer, %", query_rows(figures))
    _print("Zero-shot labels, %", zero_shot_rows(figures))
    _print("Slices below the rest by more than noise, mean recall, %", slice_rows(figures, is_worst=True))
    if compared_with == "published":
        _print(
            "Published figures and ours, %: comparable where data set and protocol are the same",
            published_rows(figures),
        )
    for note in figures["notes"]:
        print_line(f"note: {note}")
    print_line(f"false negatives: {audit_sentence(figures)}")
    folder = evaluation.figures.parent
    print_facts("", {name: _relative(folder / file) for name, file in FILES.items() if (folder / file).exists()})


FILES = {
    "report": "report.html",
    "gallery": "gallery.html",
    "figures": "figures.json",
    "candidates": "candidates-101.parquet",
}


def _print(title: str, rows: list[Row]) -> None:
    if rows:
        words = (
            "protocol",
            "direction",
            "measure",
            "queries",
            "score",
            "column",
            "slice",
            "model",
            "data set",
            "source",
        )
        print_table(title, rows, right=tuple(column for column in rows[0] if column not in words))


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
