"""What a retraining tells the person who started it."""

from pathlib import Path

from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.terminal import print_facts, print_line, print_table
from model.config.load import RunConfig
from tasks.evaluation.report import REPORT_FILE
from tasks.evaluation.tables import rank_table
from tasks.pages.text import count_rows, format_retention
from tasks.promotion.gate import check_table
from tasks.registry.versions import aliases_of
from tasks.runtime.environment import served
from tasks.runtime.page import show_text
from tasks.runtime.records import (
    DataVersion,
    Decision,
    Evaluation,
    Export,
    Record,
    Run,
    Validation,
    Version,
)


class Report(Record):
    """The outcome of a retraining: what was registered, how good it is, what was decided."""

    is_new: bool
    headline: str
    ranks: list[dict[str, str]]
    facts: dict[str, str]
    checks: list[dict[str, str]] = Field(default_factory=list)


def nothing_new(config: RunConfig, data: DataVersion, version: Version) -> Report:
    """Return the report of a run whose fingerprint is registered already."""
    headline = f"nothing new: {version.name} version {version.number} was made from this data, code and config"
    facts = {
        "aliases": ", ".join(aliases_of(version)) or "none",
        "data version": data.version,
        "config": config.name,
    }
    return Report(is_new=False, headline=headline, ranks=[], facts=facts)


def skipped(config: RunConfig, holder: str) -> State[Report]:
    """Return the final state of a run that another one has left no work: it is no failure."""
    headline = f"skipped: {holder} holds the lock of {config.registered_model}"
    report = Report(is_new=False, headline=headline, ranks=[], facts={"config": config.name})
    return Completed(name="Skipped", message=headline, data=report)


def full_report(
    run: Run,
    validation: Validation,
    evaluation: Evaluation,
    version: Version,
    decision: Decision,
    export: Export,
) -> Report:
    """Return the report of a finished retraining, and put it on Prefect's page."""
    facts = {
        "decision": ("promoted, " if decision.is_promoted else "not promoted, ") + decision.reason,
        "aliases": ", ".join(aliases_of(version)) or "none",
        "data version": run.data.version,
        "MLflow run": run.mlflow_run_id,
        "Data Docs": str(validation.docs),
        "report": str(evaluation.gallery.with_name(REPORT_FILE)),
        "gallery": str(evaluation.gallery),
        "pictures": ", ".join(map(str, evaluation.pictures)),
        "embeddings": f"{', '.join(map(str, export.files_written))} ({export.rows} of {export.lines} lines)",
    }
    if evaluation.retention is not None:
        facts = {"retention": format_retention(evaluation.retention)} | facts
    report = Report(
        is_new=True,
        headline=f"{version.name} version {version.number}",
        ranks=rank_table(evaluation.metrics, evaluation.base_metrics, evaluation.champion_metrics),
        facts=facts,
        checks=check_table(decision),
    )
    show_text(_markdown(report), key="retrain-report", description=report.headline)
    return report


def print_report(report: Report) -> None:
    """Show a report in the terminal."""
    console = Console()
    if report.ranks:
        table = Table(title=f"{report.headline}: Rank@K on test, %", title_justify="left")
        for column in report.ranks[0]:
            table.add_column(
                column, justify="left" if column in ("direction", "measure") else "right"
            )
        for row in report.ranks:
            table.add_row(*row.values(), end_section=row["measure"] == "Rank@10")
        console.print(table)
    else:
        console.print(f"[bold]{escape(report.headline)}[/bold]")
    for name, value in report.facts.items():
        console.print(f"[dim]{name:>13}[/dim]  {escape(_relative(value))}", soft_wrap=True)
    if report.checks:
        print_table("The gate", report.checks, right=("measured", "limit"))
    if not served():
        console.print(
            "\nNext: [bold]make up[/bold] starts Prefect and MLflow and prints their addresses."
        )


def print_validation(validation: Validation) -> None:
    """Show in the terminal what validation found in each split."""
    rows = count_rows(validation.counts, "split")
    print_table(
        f"All {validation.expectations} expectations are met", rows, right=("lines", "accepted")
    )
    print_facts(
        "",
        {
            "Data Docs": _relative(str(validation.docs)),
            "profiles": _relative(str(validation.profiles)),
        },
    )
    for warning in validation.warnings:
        print_line(f"warning: {warning}")


def _relative(text: str) -> str:
    """Shorten paths below the working directory."""
    return text.replace(f"{Path.cwd()}/", "")


def _markdown(report: Report) -> str:
    header = "| " + " | ".join(report.ranks[0]) + " |\n|" + "---|" * len(report.ranks[0])
    rows = "\n".join("| " + " | ".join(row.values()) + " |" for row in report.ranks)
    facts = "\n".join(f"- **{name}**: {value}" for name, value in report.facts.items())
    return f"# {report.headline}\n\n{header}\n{rows}\n\n{facts}\n"
