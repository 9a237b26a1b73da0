"""MLflow tracking: one MLflow run a fingerprint, whatever number of tries it takes.

Only the wings `registry` and `promotion` import MLflow. Training metrics go through
`tasks.registry.metric_log`.
"""

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from model.errors import AccessDenied, ServiceError
from tasks.pages.text import without_credentials
from tasks.registry.calls import refused_credentials, registry_call
from tasks.registry.metric_log import Measured, Send
from tasks.registry.reading import EXPERIMENT, FINGERPRINT_TAG
from tasks.registry.transfer import download_folder, upload_file
from tasks.runtime.environment import artifact_root, tracking_uri
from tasks.runtime.log import run_logger

HEALTH_TIMEOUT_S = 5
MAX_PARAM_CHARS = 500
MAY_READ = f"READ on the experiment {EXPERIMENT}"
MAY_EDIT = f"EDIT on the experiment {EXPERIMENT}"


def tracking_client() -> MlflowClient:
    """Return a client of the configured MLflow after checking, within 10 s, that it answers.

    Raises:
        ServiceError: the server does not answer.
        AccessDenied: it does not know the user.
    """
    # They would list every migration, say what is waited for, and talk of the input example.
    for name in (
        "alembic",
        "mlflow.store.db.utils",
        "mlflow.store.model_registry",
        "mlflow.pyfunc",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)

    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def _check_server(uri: str) -> None:
    """Ask an MLflow server for its version, as its client would: user, token, certificates.

    Its ``/health`` answers everybody and would not notice a password that has changed.
    """
    address = without_credentials(uri).rstrip("/")
    try:
        credentials = get_default_host_creds(uri.rstrip("/"))
        status = http_request(
            credentials, "/version", "GET", timeout=HEALTH_TIMEOUT_S, max_retries=0,
            raise_on_status=False,
        ).status_code  # fmt: skip
        refusal = f"status {status}" if status >= 400 else ""
    except MlflowException as error:
        status, refusal = 0, _refusal(error)

    if status == 401:
        raise AccessDenied(f"MLflow at {address}: {refused_credentials()}")
    if status == 403:
        raise AccessDenied(
            f"MLflow at {address} does not let this user or machine in (status 403); "
            "ask whoever administers it"
        )
    if refusal:
        raise ServiceError(
            f"MLflow at {address} does not answer ({refusal}); "
            "start it with `make up`, or unset MLFLOW_TRACKING_URI"
        )


def _refusal(error: MlflowException) -> str:
    """Return in a few words why a request got no reply."""
    reason = without_credentials(str(error.__context__ or error)).splitlines()[0]
    if "timed out" in reason:
        return f"timed out after {HEALTH_TIMEOUT_S} s"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return "its certificate is by an unknown CA: name yours in MLFLOW_TRACKING_SERVER_CERT_PATH"
    if "BadStatusLine" in reason:
        return "what it says is no HTTP"
    # The libraries wrap each other's errors; the innermost says what happened.
    said = re.findall(r"\[Errno -?\d+\] ([^'\")]+)", reason) or re.findall(r"'([^']+)'", reason)
    return str(said[-1] if said else reason)[-120:]


def experiment_id(client: MlflowClient) -> str:
    """Return the id of the project's experiment, made on first use.

    Raises:
        ServiceError: MLflow does not answer.
        AccessDenied: the user may not.
    """
    with registry_call("could not read the experiment", MAY_READ):
        experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    root = f"{artifact_root().as_uri()}" if tracking_uri().startswith("sqlite") else None
    with registry_call("could not make the experiment", "the right to create experiments"):
        return str(client.create_experiment(EXPERIMENT, artifact_location=root))


def begin_mlflow_run(
    client: MlflowClient,
    fingerprint: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Return the id of the fingerprint's MLflow run, which an earlier try may have begun.

    Raises:
        ServiceError: MLflow does not answer.
        AccessDenied: the user may not.
    """
    experiment, mark = experiment_id(client), f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'"
    with registry_call("could not begin a run", MAY_EDIT):
        found = client.search_runs([experiment], mark, max_results=1)
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
    """Log final metrics and attach files under an artifact folder of the run.

    Raises:
        ServiceError: MLflow does not answer.
        AccessDenied: the user may not.
    """
    client, now_ms = tracking_client(), int(time.time() * 1000)
    with registry_call("could not take results", MAY_EDIT):
        client.log_batch(
            run_id, [Metric(name, value, now_ms, 0) for name, value in metrics.items()]
        )
        for file in files:
            upload_file(client, run_id, file, folder)


def attach(run_id: str, files: list[Path], folder: str) -> None:
    """Attach files under an artifact folder of the run, or warn where MLflow is away."""
    try:
        log_results(run_id, {}, files, folder)
    except (ServiceError, MlflowException, OSError) as error:
        run_logger().warning(
            "MLflow did not take %s (%s); they stay on disk", ", ".join(map(str, files)), error
        )


def fetch_artifacts(run_id: str, folder: str, destination: Path) -> Path | None:
    """Return an artifact folder of a run, copied if need be, None where either is gone."""
    client = tracking_client()
    try:
        uri = client.get_run(run_id).info.artifact_uri
        return download_folder(f"{uri}/{folder}", destination / folder)
    except (MlflowException, OSError):
        return None
