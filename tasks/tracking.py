"""MLflow tracking: one MLflow run a fingerprint, whatever number of tries it takes.

Only this file and `tasks.registry` import MLflow. Training metrics are logged in groups; a resumed run does not log a
step twice.
"""

import json
import logging
import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, DataType

from model.config import RunConfig
from model.errors import ServiceError
from tasks.environment import ROOT, artifact_root, tracking_uri

EXPERIMENT = "commerce-clip"
FINGERPRINT_TAG = "commerce_clip.fingerprint"
HEALTH_TIMEOUT_S = 5
LOG_EVERY = 50
MAX_PARAM_CHARS = 500


def tracking_client() -> MlflowClient:
    """Return a client of the configured MLflow after checking, within 10 s, that it answers.

    Raises:
        ServiceError: the server does not answer.
    """
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(
            logging.WARNING
        )  # one would list every migration, one talks of the input example
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        _require_health(uri)
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def _require_health(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S) as reply:  # noqa: S310
            if reply.status == 200:
                return
            reason: object = f"status {reply.status}"
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
    raise ServiceError(
        f"MLflow at {uri} does not answer ({reason}); start it with `make up`, or unset MLFLOW_TRACKING_URI"
    )


def experiment_id(client: MlflowClient) -> str:
    """Return the id of the project's experiment, made on first use."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    root = f"{artifact_root().as_uri()}" if tracking_uri().startswith("sqlite") else None
    return str(client.create_experiment(EXPERIMENT, artifact_location=root))


def begin_mlflow_run(
    client: MlflowClient, fingerprint: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Return the id of the fingerprint's MLflow run: the one that an earlier try began, or a new one."""
    experiment = experiment_id(client)
    query = f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
    found = client.search_runs([experiment], query, max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
    else:
        run_id = str(client.create_run(experiment, run_name=name, tags={FINGERPRINT_TAG: fingerprint}).info.run_id)
        client.log_batch(run_id, params=[Param(key, str(value)[:MAX_PARAM_CHARS]) for key, value in params.items()])
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return run_id


def end_mlflow_run(run_id: str, status: str) -> None:
    """Set the final status of a run: FINISHED or FAILED.

    Raises:
        ServiceError: MLflow does not answer.
    """
    try:
        tracking_client().set_terminated(run_id, status)
    except MlflowException as error:
        raise ServiceError(f"MLflow could not end run {run_id} ({error.error_code}); run again") from error


class MetricLog:
    """Logs one stage's metrics in groups, each step once even when a killed stage repeats steps."""

    def __init__(self, run_id: str, stage: str) -> None:
        """Find out up to which step an earlier try has logged."""
        self._client, self._run_id, self._stage = tracking_client(), run_id, stage
        self._waiting: list[Metric] = []
        self._last_step = self._last_logged("loss")
        self._last_epoch_step = self._last_logged("valid_mean_recall")

    def _last_logged(self, name: str) -> int:
        logged = self._client.get_metric_history(self._run_id, f"{self._stage}/{name}")
        return max((metric.step for metric in logged), default=-1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the values of a training step."""
        if step > self._last_step:
            self._queue(step, values)

    def add_epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the validation values of an epoch, unless that epoch was logged before."""
        if step > self._last_epoch_step:
            self._queue(step, {f"valid_{name}": value for name, value in values.items()})
        self.flush()

    def _queue(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        for name, value in values.items():
            if math.isfinite(value):
                self._waiting.append(Metric(f"{self._stage}/{name}", value, now_ms, step))
        if len(self._waiting) > LOG_EVERY * 6:
            self.flush()

    def flush(self) -> None:
        """Send what is queued."""
        for start in range(0, len(self._waiting), 1000):
            self._client.log_batch(self._run_id, metrics=self._waiting[start : start + 1000])
        self._waiting.clear()


def log_results(run_id: str, metrics: Mapping[str, float], files: list[Path], folder: str) -> None:
    """Log final metrics and attach files under an artifact folder of the run."""
    client = tracking_client()
    now_ms = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now_ms, 0) for name, value in metrics.items()])
    for file in files:
        client.log_artifact(run_id, str(file), folder)


def log_model(run_id: str, config: RunConfig, folder: Path) -> str:
    """Log the model folder, loadable by `mlflow.pyfunc`, to the run and return MLflow's id of it."""
    embedding = Array(DataType.float)
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "caption", required=False), ColSpec("binary", "image", required=False)]),
        outputs=Schema(
            [
                ColSpec(embedding, "text_embedding", required=False),
                ColSpec(embedding, "image_embedding", required=False),
            ]
        ),
    )
    with mlflow.start_run(run_id=run_id):
        mlflow.log_dict(json.loads(config.model_dump_json()), "config.json")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(ROOT / "tasks" / "served_model.py"),
            artifacts={"model": str(folder)},
            code_paths=[str(ROOT / "model")],
            signature=signature,
            input_example=pd.DataFrame({"caption": ["long sleeve striped top in navy"]}),
            pip_requirements=[f"-r {ROOT / 'requirements.lock'}"],
            metadata={"config": config.model_dump(mode="json")},
        )
    return str(info.model_id)
