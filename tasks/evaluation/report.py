"""The report of a model version: one page with its data, config, curves, tables, slices, gallery
and the decision.

`report.html` loads nothing and runs nothing, so it can be mailed. It is attached to the MLflow run
and linked from Prefect; the whole gallery lies beside it.
"""

import base64
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from model.errors import DataError
from model.storage.files import atomic_write
from tasks.data.card import read_card, rows_text
from tasks.evaluation.tables import (
    MORE_MEASURES,
    Figures,
    Row,
    audit_sentence,
    protocol_rows,
    query_rows,
    read_figures,
    slice_rows,
    zero_shot_rows,
)
from tasks.pages.gallery import page_html
from tasks.pages.text import count_rows, escaped, shown_retention
from tasks.registry.tracking import attach
from tasks.runtime.lineage import git_commit
from tasks.runtime.page import publish_link
from tasks.runtime.records import Decision, Evaluation, Run, Validation, Version

REPORT_FILE = "report.html"
CURVES = ("pretrain", "finetune")
WORDS = ("protocol", "direction", "measure", "queries", "score", "column", "slice", "name", "note")


def report_version(
    run: Run,
    validation: Validation,
    evaluation: Evaluation,
    version: Version | None = None,
    decision: Decision | None = None,
) -> Path:
    """Write the report of what was judged, attach it to MLflow and link it from Prefect; return its
    path.

    Raises:
        CheckpointError: the file cannot be written.
        DataError: the figures of the evaluation are gone.
    """
    if evaluation.figures is None or not evaluation.figures.exists():
        raise DataError(
            f"{run.folder / 'evaluate'}: no figures; delete its result.json and evaluate again"
        )
    figures = read_figures(evaluation.figures)
    name = (
        run.config.registered_model
        if version is None
        else f"{version.name} version {version.number}"
    )
    title = f"{name} on data version {run.data.short}"
    sections = [
        _decision_html(decision),
        *_data_html(run, validation),
        *_figures_html(figures, evaluation),
        *_curves_html(run),
        *_gallery_html(evaluation),
        _config_html(run),
    ]
    path = run.folder / "evaluate" / REPORT_FILE
    with atomic_write(path) as file:
        file.write(
            page_html(
                title, f"<p>{escaped(_headline(evaluation))}</p>", "\n".join(sections)
            ).encode()
        )
    attach(run.mlflow_run_id, [path], "evaluation")
    publish_link(path.as_uri(), text="Report", key="report", description=title)
    return path


def table_html(rows: list[Row]) -> str:
    """Return rows as a table with their keys as its head; columns of words are aligned at the left."""
    if not rows:
        return "<p>None.</p>"
    kinds = {column: ' class="word"' if column in WORDS else "" for column in rows[0]}
    head = "".join(
        f'<th scope="col"{kind}>{escaped(column)}</th>' for column, kind in kinds.items()
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{kinds[key]}><bdi>{escaped(value)}</bdi></td>" for key, value in row.items())
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _headline(evaluation: Evaluation) -> str:
    metrics = evaluation.metrics
    text = (
        f"Mean recall {metrics['mean_recall']:.1%} (95 % interval {metrics['mean_recall_low']:.1%} to "
        f"{metrics['mean_recall_high']:.1%}), base weights {evaluation.base_metrics['mean_recall']:.1%}"
    )
    if evaluation.champion_metrics is not None:
        text += f", champion {evaluation.champion_metrics['mean_recall']:.1%}"
    return f"{text}, full set of test."


def _decision_html(decision: Decision | None) -> str:
    if decision is None:
        return "<h2>Decision</h2><p>None: the version was judged, not put to the gate.</p>"
    verdict = "promoted" if decision.is_promoted else "not promoted"
    facts = {"aliases": ", ".join(decision.aliases) or "none", "reason": decision.reason}
    checks = [
        {key: _shown(value) for key, value in check.items()}
        for check in decision.model_dump().get("checks", [])
    ]
    more = table_html(checks) if checks else ""
    return f'<h2>Decision: version {decision.version} <span class="rank">{verdict}</span></h2>{_facts(facts)}{more}'


def _data_html(run: Run, validation: Validation) -> Iterator[str]:
    card = read_card(run.data.version)
    facts = {"data version": run.data.version, "folder": run.data.folder.name}
    if card is not None:
        facts |= {"name": card.name, "made": card.created, "rows": rows_text(card.splits)}
    commit, is_dirty = git_commit()
    facts |= {
        "expectations": f"{validation.expectations} met",
        "code": f"{commit}{' with uncommitted changes' if is_dirty else ''}",
        "MLflow run": run.mlflow_run_id,
        "run": run.folder.name,
    }
    yield f"<h2>Data and lineage</h2>{_facts(facts)}"
    if rows := count_rows(validation.counts, "name"):
        yield table_html(rows)


def _figures_html(figures: Figures, evaluation: Evaluation) -> Iterator[str]:
    about = f"{figures['captions']:,} captions, {figures['images']:,} pictures; in percent but for median ranks"
    yield f"<h2>Rank@K</h2><p>{about}; ties against the model, beside it if they were won.</p>"
    yield from (_picture(path) for path in evaluation.pictures if path.name == "rank_at_k.png")
    yield table_html(protocol_rows(figures, MORE_MEASURES))
    for note in figures["notes"]:
        yield f"<p>{escaped(note)}.</p>"
    if evaluation.retention is not None:
        yield f"<p>Retention: {escaped(shown_retention(evaluation.retention))}.</p>"
    yield f"<h2>Queries that many products answer</h2>{table_html(query_rows(figures))}"
    typed = [
        f"“{text}”"
        for name in ("keyword", "field")
        for text in figures["queries"].get(name, {}).get("first", [])
    ]
    if typed:
        yield f"<p>For example {escaped(', '.join(typed))}.</p>"
    yield f"<h2>False negatives</h2><p>{escaped(audit_sentence(figures))}.</p>"
    yield "<h2>The worst slices</h2><p>Mean recall of products below that of the rest by more than noise.</p>"
    yield table_html(slice_rows(figures, is_worst=True))
    every = slice_rows(figures, is_worst=False)
    yield f"<details><summary>All {len(every)} slices</summary>{table_html(every)}</details>"
    if rows := zero_shot_rows(figures):
        yield f"<h2>Zero-shot labels</h2>{table_html(rows)}"
        yield from (_picture(path) for path in evaluation.pictures if path.name == "confusion.png")


def _curves_html(run: Run) -> Iterator[str]:
    for stage in CURVES:
        path = run.folder / stage / "curves.png"
        if path.exists():
            yield f"<h2>Curves of {stage}</h2>{_picture(path)}"


def _gallery_html(evaluation: Evaluation) -> Iterator[str]:
    pictures = [path for path in evaluation.pictures if path.name == "gallery.png"]
    if pictures:
        yield f'<h2>Gallery</h2><p><a href="{evaluation.gallery.name}">All of it, the worst queries too</a></p>'
        yield from map(_picture, pictures)


def _config_html(run: Run) -> str:
    text = yaml.safe_dump(
        run.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )
    return f"<h2>Config</h2><details><summary>{escaped(run.config.name)}</summary><pre>{_lines(text)}</pre></details>"


def _lines(text: str) -> str:
    """Return text of many lines, each as a page shows it."""
    return "\n".join(escaped(line) for line in text.splitlines())


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="wide" src="data:image/png;base64,{data}" alt="{html.escape(path.stem)}">'


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row" class="word">{escaped(name)}</th><td class="word"><bdi>{escaped(value)}</bdi></td></tr>'
        for name, value in facts.items()
    )
    return f'<table class="facts">{rows}</table>'


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
