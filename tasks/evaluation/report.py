"""The report of a model version: one page with data, config, curves, tables, gallery and decision.

`report.html` loads nothing and runs nothing, so it can be mailed. It is attached to the MLflow run
and linked from Prefect; the whole gallery lies beside it.
"""

from pathlib import Path
from typing import Any

import yaml

from model.errors import DataError
from model.storage.files import atomic_write
from tasks.data.card import read_card, rows_text
from tasks.evaluation.tables import (
    MORE_MEASURES,
    audit_sentence,
    protocol_rows,
    query_rows,
    read_figures,
    slice_rows,
    zero_shot_rows,
)
from tasks.pages.html import render
from tasks.pages.text import count_rows, format_retention
from tasks.registry.metric_log import SPOOL
from tasks.registry.tracking import attach
from tasks.runtime.environment import page_address
from tasks.runtime.lineage import git_commit
from tasks.runtime.page import publish_link
from tasks.runtime.records import Decision, Evaluation, Run, Validation, Version
from tasks.training.curves import read_series, stage_panels

REPORT_FILE = "report.html"


def report_version(
    run: Run,
    validation: Validation,
    evaluation: Evaluation,
    version: Version | None = None,
    decision: Decision | None = None,
) -> Path:
    """Write the report of what was evaluated, attach it to MLflow and link it from Prefect.

    Raises:
        CheckpointError: the file cannot be written.
        DataError: the figures of the evaluation are gone.
    """
    if not evaluation.figures.exists():
        raise DataError(
            f"{run.folder / 'evaluate'}: no figures; delete its result.json and evaluate again"
        )
    name = f"{version.name} version {version.number}" if version else run.config.registered_model
    title = f"{name} on data version {run.data.short}"
    page = version_html(title, run, validation, evaluation, decision)

    path = run.folder / "evaluate" / REPORT_FILE
    with atomic_write(path) as file:
        file.write(page.encode())
    attach(run.mlflow_run_id, [path], "evaluation")
    publish_link(page_address(path), text="Report", key="report", description=title)
    return path


def version_html(
    title: str,
    run: Run,
    validation: Validation,
    evaluation: Evaluation,
    decision: Decision | None,
) -> str:
    """Render the page from what a run left."""
    figures = read_figures(evaluation.figures)
    asked = [figures["queries"].get(name, {}) for name in ("keyword", "field")]
    config = yaml.safe_dump(
        run.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )
    folders = [run.folder / stage for stage in ("pretrain", "finetune")]

    # In the order of the page.
    return render(
        "version.html.jinja",
        title=title,
        evaluation=evaluation,
        decision=decision,
        checks=[
            {key: _cell(value) for key, value in check}
            for check in (decision.checks if decision else ())
        ],
        lineage=_lineage(run, validation),
        counts=count_rows(validation.counts, "name"),
        figures=figures,
        protocols=protocol_rows(figures, MORE_MEASURES),
        retention=format_retention(evaluation.retention) if evaluation.retention else "",
        queries=query_rows(figures),
        typed=[text for each in asked for text in each.get("first", [])],
        audit=audit_sentence(figures),
        worst_slices=slice_rows(figures, is_worst=True),
        slices=slice_rows(figures, is_worst=False),
        zero_shot=zero_shot_rows(figures),
        pictures={path.stem: path.read_bytes() for path in evaluation.pictures},
        stages={
            folder.name: stage_panels(read_series(folder))
            for folder in folders
            if (folder / SPOOL).exists()
        },
        config_name=run.config.name,
        config_lines=config.splitlines(),
    )


def _lineage(run: Run, validation: Validation) -> dict[str, str]:
    """Name where a version came from: data, code, MLflow run; the folder of data by name alone."""
    card = read_card(run.data.version)
    facts = {"data version": run.data.version, "folder": run.data.folder.name}
    if card is not None:
        facts |= {"name": card.name, "made": card.created, "rows": rows_text(card.splits)}

    commit, is_dirty = git_commit()
    return facts | {
        "expectations": f"{validation.expectations} met",
        "code": f"{commit}{' with uncommitted changes' if is_dirty else ''}",
        "MLflow run": run.mlflow_run_id,
        "run": run.folder.name,
    }


def _cell(value: Any) -> str:
    """Format a value of a gate's check."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
