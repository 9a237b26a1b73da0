"""Begin and end a run: its fingerprint, its folder, its MLflow run."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from prefect.runtime import flow_run

from model.config.load import RunConfig
from model.errors import ServiceError
from tasks.data.version import reading_pairs
from tasks.registry.metric_log import send_rest
from tasks.registry.signing import private_key
from tasks.registry.tracking import (
    begin_mlflow_run,
    end_mlflow_run,
    metric_sender,
    run_page,
    tracking_client,
)
from tasks.runtime.environment import state_folder
from tasks.runtime.lineage import lineage_tags, trace_lineage
from tasks.runtime.locks import locked_or_busy
from tasks.runtime.log import run_logger
from tasks.runtime.page import publish_link
from tasks.runtime.records import DataVersion, Lineage, Run, Version
from tasks.runtime.stage import service_task


def retraining(config: RunConfig, wait: bool) -> AbstractContextManager[str | None]:
    """Train one model at a time: yield None while nobody else does; without ``wait``, who does.

    The lock ends with its process, so a run that was killed never keeps it.
    """
    return locked_or_busy(
        f"retrain-{config.registered_model}", f"run {flow_run.name or config.name}", wait
    )


@service_task("begin")
def begin_run(config: RunConfig, data: DataVersion, lineage: Lineage) -> Run:
    """Begin the run of a lineage, taking up the folder and MLflow run of an earlier try.

    Raises:
        ServiceError: MLflow does not answer.
        AccessDenied: MLflow does not let this user make runs.
        ConfigError: the signing key cannot sign what the run will register.
    """
    private_key()
    mark, name = lineage.fingerprint, f"{config.name}-{data.short}"
    run_id = begin_mlflow_run(
        tracking_client(), mark, name, flat_params(config), lineage_tags(config, data, lineage)
    )

    if page := run_page(run_id):
        publish_link(
            page, text="MLflow run", key="mlflow-run", description="Curves, metrics, artifacts"
        )
    return Run(
        config=config,
        data=data,
        lineage=lineage,
        folder=state_folder() / "runs" / f"{config.name}-{mark[:12]}",
        mlflow_run_id=run_id,
    )


@service_task("begin evaluation")
def begin_evaluation(config: RunConfig, data: DataVersion, version: Version) -> Run:
    """Begin a run in which a registered version is evaluated or used on a data version.

    Raises:
        ServiceError: MLflow does not answer.
    """
    lineage, name = trace_lineage(config, data), f"{version.name}-v{version.number}-on-{data.short}"
    judged = {"commerce_clip.judged_version": str(version.number)}
    tags = lineage_tags(config, data, lineage) | judged
    mark = f"evaluation:{name}:{config.digest()}"

    run_id = begin_mlflow_run(tracking_client(), mark, name, {}, tags)
    return Run(
        config=config,
        data=data,
        lineage=lineage,
        folder=state_folder() / "evaluations" / f"{name}-{config.digest()[:8]}",
        mlflow_run_id=run_id,
    )


@contextmanager
def tracked(run: Run) -> Iterator[None]:
    """Keep the run's pairs in place for the block, then end the MLflow run as FINISHED or FAILED.

    An unreachable MLflow does not hide the error.
    """
    status = "FAILED"
    try:
        with reading_pairs(run.data, f"run {run.folder.name}"):
            yield
        status = "FINISHED"
    finally:
        # What a stage could not send while it ran.
        try:
            send = metric_sender(run.mlflow_run_id)
            for stage in ("pretrain", "finetune"):
                send_rest(run.folder / stage, send)
            end_mlflow_run(run.mlflow_run_id, status)
        except ServiceError as error:
            run_logger().warning("%s", error)


def flat_params(config: RunConfig) -> dict[str, Any]:
    """Return the knobs of the resolved config by their dotted names."""
    knobs: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            knobs |= {f"{name}.{knob}": each for knob, each in value.items()}
        else:
            knobs[name] = value
    return knobs
