"""The MLflow model registry: register versions, find them, read their files.
`tasks.promotion.promote` moves its aliases.

Aliases, never stages: ``challenger`` is the newest candidate, ``champion`` serves, ``previous`` is
where a rollback goes. A read that fails is a ServiceError and never "there is no champion".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from model.errors import CheckpointError
from model.storage.sealed import weights_sha256
from tasks.registry.tracking import FINGERPRINT_TAG, log_model, tracking_client
from tasks.registry.versions import (
    NOT_FOUND,
    WEIGHTS_TAG,
    as_version,
    find_versions,
    unreachable,
)
from tasks.runtime.lineage import lineage_tags
from tasks.runtime.locks import locked
from tasks.runtime.records import Evaluation, Run, TrainedModel, Validation, Version
from tasks.runtime.stage import stage

if TYPE_CHECKING:
    from model.config.load import RunConfig

MEAN_RECALL_TAG = "commerce_clip.test_mean_recall"
EXPORT_TAG = "commerce_clip.embeddings"


def find_registered(config: "RunConfig", mark: str) -> Version | None:
    """Return the version of a fingerprint if its run exported embeddings and decided on it.

    None means that there is something to do.

    Raises:
        ServiceError: the registry does not answer.
    """
    client, name = tracking_client(), config.registered_model
    found = find_versions(client, name, {FINGERPRINT_TAG: mark}) or _of_run(client, name, mark)
    finished = [
        version for version in found if {EXPORT_TAG, decided_tag(mark)} <= version.tags.keys()
    ]
    return as_version(finished[-1]) if finished else None


def _of_run(client: MlflowClient, name: str, mark: str) -> list[ModelVersion]:
    """Return the versions that a run of this fingerprint led to, though another run registered them."""
    return [version for version in find_versions(client, name, {}) if run_tag(mark) in version.tags]


def record_export(version: Version, folder: Path, rows: int) -> None:
    """Leave as a tag of the version where its embeddings lie.

    Raises:
        ServiceError: the registry does not answer.
    """
    try:
        tracking_client().set_model_version_tag(
            version.name, str(version.number), EXPORT_TAG, f"{rows} rows in {folder}"
        )
    except MlflowException as error:
        raise unreachable("could not tag a version", error) from error


@stage("register", Version)
def register(
    run: Run, validation: Validation, model: TrainedModel, evaluation: Evaluation
) -> Version:
    """Register the model folder as a new version with its lineage; once for the same weights,
    however often it is run.

    Raises:
        ServiceError: the registry does not answer.
        CheckpointError: the weights changed since they were evaluated.
    """
    client, name = tracking_client(), run.config.registered_model
    if weights_sha256(model.folder) != model.weights_sha256:
        raise CheckpointError(
            f"{model.folder}: the weights are not those that were evaluated; run again"
        )
    tags = lineage_tags(run.config, run.data, run.lineage) | {
        FINGERPRINT_TAG: run.fingerprint,
        WEIGHTS_TAG: model.weights_sha256,
        MEAN_RECALL_TAG: f"{evaluation.metrics['mean_recall']:.6f}",
        "commerce_clip.base_weights_sha256": evaluation.base_weights_sha256,
        "commerce_clip.validation": f"passed ({validation.expectations} expectations)",
    }
    try:
        with registry_lock(name, f"run {run.folder.name}"):
            known = _known(client, run, model.weights_sha256)
            if known is None:
                model_id = log_model(run.mlflow_run_id, run.config, model.folder)
                if not _model_exists(client, name):
                    client.create_registered_model(name)
                source = f"models:/{model_id}"
                known = client.create_model_version(
                    name, source, run_id=run.mlflow_run_id, tags=tags, model_id=model_id
                )
            client.set_model_version_tag(
                name, known.version, run_tag(run.fingerprint), run.mlflow_run_id
            )
    except MlflowException as error:
        raise unreachable("could not register a version", error) from error
    return as_version(known)


def run_tag(mark: str) -> str:
    """Return the tag by which a version names a run that led to it; several do where they only judged differently."""
    return f"commerce_clip.run.{mark}"


def decided_tag(mark: str) -> str:
    """Return the tag by which a version says that the run of a fingerprint decided on its promotion."""
    return f"commerce_clip.decided.{mark}"


def _known(client: MlflowClient, run: Run, digest: str) -> ModelVersion | None:
    """Return the version of this fingerprint or of these weights, the newest; None where there is none."""
    name = run.config.registered_model
    for tags in ({FINGERPRINT_TAG: run.fingerprint}, {WEIGHTS_TAG: digest}):
        if found := find_versions(client, name, tags):
            return found[-1]
    return None


@contextmanager
def registry_lock(name: str, what: str) -> Iterator[None]:
    """Hold the lock under which versions are registered and aliases move; it ends with its process."""
    with locked(f"registry-{name}", what, wait=True):
        yield


def _model_exists(client: MlflowClient, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return False
        raise
    return True
