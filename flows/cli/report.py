"""What commands that run a flow print when it has ended."""

import sys
from typing import TYPE_CHECKING

from pydantic import BaseModel

from flows.cli.terminal import print_facts, print_line, print_next, print_table, shorten_paths
from tasks.pages.text import count_rows
from tasks.runtime.environment import data_page, served
from tasks.runtime.records import Validation

if TYPE_CHECKING:
    from flows.ingest import Ingested
    from flows.outcome import Report


def print_report(report: "Report") -> None:
    """Print the outcome of a retraining: Rank@K, where everything lies, and the gate's checks."""
    headline = report.headline
    if report.ranks:
        figures = tuple(report.ranks[0])[2:]  # all but direction and measure
        print_table(f"{headline}: Rank@K on test, %", report.ranks, figures, group="direction")
        headline = ""
    print_facts(headline, {name: shorten_paths(value) for name, value in report.facts.items()})

    if report.checks:
        print_table("The gate", report.checks, right=("measured", "limit"))
    steps = []
    if "gallery" in report.facts:
        steps.append(f"look at what it finds: {shorten_paths(report.facts['gallery'])}")
    if not served():
        steps.append("`make up` starts Prefect and MLflow and prints their addresses")
    print_next(steps)


def print_validation(validation: Validation) -> None:
    """Print what validation found in each split, and how the text tower reads its captions."""
    rows = {row["split"]: row for row in count_rows(validation.counts, "split")}
    for each in validation.reading:
        rows[each.name]["tokens a word"] = f"{each.tokens_a_word:.2f}"
        rows[each.name]["cut off"] = f"{each.longer:.1%}"
    print_table(
        f"All {validation.expectations} expectations are met",
        list(rows.values()),
        right=("lines", "accepted", "tokens a word", "cut off"),
    )
    print_facts(
        "",
        {
            "page": shorten_paths(str(data_page(validation.profiles.name))),
            "profiles": shorten_paths(str(validation.profiles)),
        },
    )
    for warning in validation.warnings:
        print_line(f"warning: {warning}")


def print_ingested(ingested: "Ingested") -> None:
    """Print the outcome of an ingest and what is left to do."""
    print_facts(ingested.headline, ingested.facts)
    print_next(ingested.next_steps)


def print_json(outcome: BaseModel | None) -> None:
    """Print an outcome as JSON, for people and for programs."""
    text = "null" if outcome is None else outcome.model_dump_json(indent=2)
    sys.stdout.write(f"{text}\n")
