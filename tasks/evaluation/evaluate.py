"""Evaluate a model on the test split beside the champion and its base weights."""

from pathlib import Path
from typing import Any

from model.storage.sealed import weights_sha256
from tasks.evaluation.model_card import write_model_card
from tasks.evaluation.tables import (
    BASE,
    CHAMPION,
    FIGURES_FILE,
    NEW,
    Row,
    query_rows,
    rank_table,
    slice_rows,
    zero_shot_rows,
)
from tasks.pages.text import format_retention
from tasks.registry.files import champion_model
from tasks.registry.tracking import log_results
from tasks.runtime.environment import page_address
from tasks.runtime.page import publish_link, publish_table
from tasks.runtime.records import Evaluation, Run, TrainedModel, Validation
from tasks.runtime.stage import stage
from tasks.training.base_weights import base_weights


@stage("evaluate", Evaluation)
def evaluate(run: Run, validation: Validation, model: TrainedModel) -> Evaluation:
    """Ask a model, the champion and the base weights the same questions; write what they answer.

    Raises:
        CheckpointError: a model folder is damaged.
        DataError: test has no accepted pair.
        ServiceError: the registry does not answer.
    """
    from tasks.evaluation.compare import GALLERY_FILE, compare_models  # imports torch

    # Base weights come last, so that tables read from them to the new model.
    folders = {NEW: model.folder}
    champion = champion_model(run.config.registered_model)
    if champion is not None and champion.weights_sha256 != model.weights_sha256:
        folders[CHAMPION] = champion.folder
    folders[BASE] = base_weights(run)

    compared = compare_models(run, validation, folders)
    folder = run.folder / "evaluate"
    evaluation = Evaluation(
        metrics=compared.metrics[NEW],
        base_metrics=compared.metrics[BASE],
        champion_metrics=compared.metrics.get(CHAMPION),
        base_weights_sha256=weights_sha256(folders[BASE]),
        figures=folder / FIGURES_FILE,
        gallery=folder / GALLERY_FILE,
        pictures=compared.pictures,
        # A version that was registered before has its card already.
        card=write_model_card(run, model, compared.figures)
        if model.folder.is_relative_to(run.folder)
        else None,
        retention=model.retention,
    )
    _publish(run, evaluation, compared.figures, compared.candidates)
    return evaluation


def _publish(
    run: Run, evaluation: Evaluation, figures: dict[str, Any], candidates: Path | None
) -> None:
    """Put tables into the Prefect UI, and metrics and files into the MLflow run."""
    metrics, retention = evaluation.metrics, evaluation.retention
    about = (
        f"Test split of data version {run.data.version}, in percent; ties count against the model."
    )
    if retention is not None:
        about += f" Retention: {format_retention(retention)}."
    ranks = rank_table(metrics, evaluation.base_metrics, evaluation.champion_metrics)
    tables: dict[str, tuple[list[Row], str]] = {
        "rank-at-k": (ranks, about),
        "queries": (query_rows(figures), "Queries that many products answer, in percent."),
        "zero-shot": (zero_shot_rows(figures), "Labels by prompts, in percent."),
        "worst-slices": (
            slice_rows(figures, is_worst=True),
            "Slices below the rest by more than noise, in percent.",
        ),
    }
    for key, (rows, description) in tables.items():
        if rows:
            publish_table(rows, key=key, description=description)
    publish_link(
        page_address(evaluation.gallery),
        text="Gallery",
        key="gallery",
        description="Captions and their top 5",
    )

    # MLflow compares runs by metric, so each model's have a prefix of their own.
    logged = {
        f"{prefix}/{name}": value
        for prefix, values in (
            ("test", metrics),
            ("test_base", evaluation.base_metrics),
            ("test_champion", evaluation.champion_metrics or {}),
        )
        for name, value in values.items()
    }
    if retention is not None:
        logged |= {
            "retention/mean_recall_before": retention.before,
            "retention/mean_recall_after": retention.after,
        }
    files = [evaluation.figures, evaluation.gallery, *evaluation.pictures]
    files += [path for path in (candidates, evaluation.card) if path is not None]
    log_results(run.mlflow_run_id, logged, files, "evaluation")
