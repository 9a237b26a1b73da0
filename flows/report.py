"""The report of a retraining, for the person who started it."""

from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.outcome import Report
from model.config.load import RunConfig
from tasks.evaluation.report import REPORT_FILE
from tasks.evaluation.tables import rank_table
from tasks.pages.text import escaped, format_retention
from tasks.promotion.promote import check_table
from tasks.registry.versions import aliases_of
from tasks.runtime.environment import data_page
from tasks.runtime.page import publish_text
from tasks.runtime.records import (
    Decision,
    Evaluation,
    Export,
    Run,
    Validation,
    Version,
)


def skipped(config: RunConfig, holder: str) -> State[Report]:
    """Return the final state of a run that another one has left no work: it is no failure."""
    headline = f"skipped: {holder} holds the lock of {config.registered_model}"
    return Completed(
        name="Skipped",
        message=headline,
        data=Report(is_new=False, headline=headline, ranks=[], facts={"config": config.name}),
    )


def full_report(
    run: Run,
    validation: Validation,
    evaluation: Evaluation,
    version: Version,
    decision: Decision,
    export: Export,
) -> Report:
    """Return the report of a finished retraining, and put it on the run's page in Prefect."""
    facts = {}
    if evaluation.retention is not None:
        facts["retention"] = format_retention(evaluation.retention)
    facts |= {
        "decision": ("promoted, " if decision.is_promoted else "not promoted, ") + decision.reason,
        "aliases": ", ".join(aliases_of(version)) or "none",
        "data version": run.data.version,
        "MLflow run": run.mlflow_run_id,
        "data": str(data_page(run.data.version)),
        "report": str(evaluation.gallery.with_name(REPORT_FILE)),
        "gallery": str(evaluation.gallery),
        "pictures": ", ".join(
            [str(evaluation.gallery.parent), *(picture.name for picture in evaluation.pictures)]
        ),
        "embeddings": f"{export.rows:,} in {export.folder}"
        + (f", {export.faulty:,} lines faulty" if export.faulty else ""),
    }

    report = Report(
        is_new=True,
        headline=f"{version.name} version {version.number}",
        ranks=rank_table(evaluation.metrics, evaluation.base_metrics, evaluation.champion_metrics),
        facts=facts,
        checks=check_table(decision),
    )
    lines = "\n".join(f"- **{name}**: {value}" for name, value in facts.items())
    publish_text(
        f"# {report.headline}\n\n{markdown_table(report.ranks)}\n\n{lines}\n",
        key="retrain-report",
        description=report.headline,
    )
    return report


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Return rows as a table in Markdown with their keys as its head; nothing in it acts."""
    cells = [[escaped(cell).replace("|", "\\|") for cell in row.values()] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
