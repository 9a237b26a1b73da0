"""MLflow tracking: one MLflow run a fingerprint, whatever number of tries it takes.

Only this file and those of the registry (`tasks.registry.register`, `tasks.registry.aliases`,
`tasks.promotion.promote`) import MLflow. Training metrics go through `tasks.registry.metric_log`.
"""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, DataType

from model.config.load import RunConfig
from model.errors import ServiceError
from tasks.pages.text import without_credentials
from tasks.registry.metric_log import Measured, Send
from tasks.runtime.environment import ROOT, artifact_root, tracking_uri
from tasks.runtime.log import run_logger

EXPERIMENT = "commerce-clip"
FINGERPRINT_TAG = "commerce_clip.fingerprint"
HEALTH_TIMEOUT_S = 5
MAX_PARAM_CHARS = 500


def tracking_client() -> MlflowClient:
    """Return a client of the configured MLflow after checking, within 10 s, that it answers.

    Raises:
        ServiceError: the server does not answer.
    """
    # The first two would list every migration, the last talks of the input example.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)

    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        try:
            reply = httpx.get(
                f"{uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S, follow_redirects=True
            )
            refusal = "" if reply.is_success else f"status {reply.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            refusal = without_credentials(str(error)) or type(error).__name__
        if refusal:
            raise ServiceError(
                f"MLflow at {without_credentials(uri)} does not answer ({refusal}); "
                "start it with `make up`, or unset MLFLOW_TRACKING_URI"
            )

    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def experiment_id(client: MlflowClient) -> str:
    """Return the id of the project's experiment, made on first use."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    root = f"{artifact_root().as_uri()}" if tracking_uri().startswith("sqlite") else None
    return str(client.create_experiment(EXPERIMENT, artifact_location=root))


def begin_mlflow_run(
    client: MlflowClient,
    fingerprint: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Return the id of the fingerprint's MLflow run, which an earlier try may have begun."""
    experiment = experiment_id(client)
    found = client.search_runs(
        [experiment], f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'", max_results=1
    )

    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
    else:
        made = client.create_run(experiment, run_name=name, tags={FINGERPRINT_TAG: fingerprint})
        run_id = str(made.info.run_id)
        short = [Param(key, str(value)[:MAX_PARAM_CHARS]) for key, value in params.items()]
        client.log_batch(run_id, params=short)
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return run_id


def run_page(run_id: str) -> str | None:
    """Return the address of a run's page, None where MLflow is a file without a server."""
    uri = tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return None
    experiment = tracking_client().get_run(run_id).info.experiment_id
    return f"{without_credentials(uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def end_mlflow_run(run_id: str, status: str) -> None:
    """Set the final status of a run: FINISHED or FAILED.

    Raises:
        ServiceError: MLflow does not answer.
    """
    try:
        tracking_client().set_terminated(run_id, status)
    except MlflowException as error:
        raise ServiceError(
            f"MLflow could not end run {run_id} ({error.error_code}); run again"
        ) from error


def metric_sender(run_id: str) -> Send:
    """Return the function by which `tasks.registry.metric_log` sends spooled metrics to a run.

    Raises (when called):
        ServiceError: MLflow does not answer.
    """
    client = tracking_client()

    def send(group: list[Measured]) -> None:
        metrics = [
            Metric(name, value, measured.time_ms, measured.step)
            for measured in group
            for name, value in measured.values.items()
        ]
        try:
            client.log_batch(run_id, metrics=metrics)  # in as many requests as it takes
        except MlflowException as error:
            raise ServiceError(
                f"MLflow did not take metrics of run {run_id} ({error.error_code})"
            ) from error

    return send


def log_results(run_id: str, metrics: Mapping[str, float], files: list[Path], folder: str) -> None:
    """Log final metrics and attach files under an artifact folder of the run."""
    client, now_ms = tracking_client(), int(time.time() * 1000)
    client.log_batch(run_id, [Metric(name, value, now_ms, 0) for name, value in metrics.items()])
    for file in files:
        client.log_artifact(run_id, str(file), folder)


def attach(run_id: str, files: list[Path], folder: str) -> None:
    """Attach files under an artifact folder of the run, or warn where MLflow is away."""
    try:
        log_results(run_id, {}, files, folder)
    except (ServiceError, MlflowException, OSError) as error:
        run_logger().warning(
            "MLflow did not take %s (%s); they stay on disk", ", ".join(map(str, files)), error
        )


def fetch_artifacts(run_id: str, folder: str, destination: Path) -> Path | None:
    """Return the copy of an artifact folder of a run, None where either is gone."""
    tracking_client()
    destination.mkdir(parents=True, exist_ok=True)
    try:
        return Path(
            mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=folder, dst_path=str(destination)
            )
        )
    except (MlflowException, OSError):
        return None


def log_model(run_id: str, config: RunConfig, folder: Path) -> str:
    """Log the model folder to the run, loadable by `mlflow.pyfunc`; return MLflow's id of it."""
    embedding = Array(DataType.float)
    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec("string", "caption", required=False),
                ColSpec("binary", "image", required=False),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(embedding, "text_embedding", required=False),
                ColSpec(embedding, "image_embedding", required=False),
            ]
        ),
    )

    # The code of today goes along, so that a version is loaded years later as it was evaluated.
    with mlflow.start_run(run_id=run_id):
        mlflow.log_dict(json.loads(config.model_dump_json()), "config.json")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(ROOT / "tasks" / "registry" / "served_model.py"),
            artifacts={"model": str(folder)},
            code_paths=[str(ROOT / "model")],
            signature=signature,
            input_example=pd.DataFrame({"caption": ["long sleeve striped top in navy"]}),
            pip_requirements=[f"-r {ROOT / 'requirements.lock'}"],
            metadata={"config": config.model_dump(mode="json")},
        )
    return str(info.model_id)
