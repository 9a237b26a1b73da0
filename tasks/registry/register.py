"""Register a model as a new version, once, with its lineage.

Aliases, never stages: ``challenger`` is the newest candidate, ``champion`` serves, ``previous`` is
where a rollback goes; `tasks.promotion.promote` moves them.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from mlflow.exceptions import MlflowException

from model.config.load import RunConfig
from model.errors import CheckpointError
from model.storage.sealed import weights_sha256
from tasks.registry.tracking import FINGERPRINT_TAG, log_model, tracking_client
from tasks.registry.versions import (
    NOT_FOUND,
    WEIGHTS_TAG,
    as_version,
    find_versions,
    registry_call,
)
from tasks.runtime.lineage import lineage_tags
from tasks.runtime.locks import locked
from tasks.runtime.records import Evaluation, Run, TrainedModel, Validation, Version
from tasks.runtime.stage import stage

EXPORT_TAG = "commerce_clip.embeddings"


def find_registered(config: RunConfig, mark: str) -> Version | None:
    """Return the version of a fingerprint whose run exported embeddings and decided on it, or None.

    None means that there is something to do.

    Raises:
        ServiceError: the registry does not answer.
    """
    client, name = tracking_client(), config.registered_model
    # A version that another run registered may be this one's, too.
    found = find_versions(client, name, {FINGERPRINT_TAG: mark}) or [
        version for version in find_versions(client, name, {}) if run_tag(mark) in version.tags
    ]
    finished = [
        version for version in found if {EXPORT_TAG, decided_tag(mark)} <= version.tags.keys()
    ]
    return as_version(finished[-1]) if finished else None


def record_export(version: Version, folder: Path, rows: int) -> None:
    """Tag a version with the folder of its embeddings.

    Raises:
        ServiceError: the registry does not answer.
    """
    with registry_call("could not tag a version"):
        tracking_client().set_model_version_tag(
            version.name, str(version.number), EXPORT_TAG, f"{rows} rows in {folder}"
        )


@stage("register", Version)
def register(
    run: Run, validation: Validation, model: TrainedModel, evaluation: Evaluation
) -> Version:
    """Register the model folder as a new version; once for the same weights, however often it runs.

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
        "commerce_clip.test_mean_recall": f"{evaluation.metrics['mean_recall']:.6f}",
        "commerce_clip.base_weights_sha256": evaluation.base_weights_sha256,
        "commerce_clip.validation": f"passed ({validation.expectations} expectations)",
    }

    with (
        registry_call("could not register a version"),
        registry_lock(name, f"run {run.folder.name}"),
    ):
        # The newest version of this fingerprint, or else of these weights.
        found = find_versions(client, name, {FINGERPRINT_TAG: run.fingerprint})
        found = found or find_versions(client, name, {WEIGHTS_TAG: model.weights_sha256})
        if not found:
            model_id = log_model(run.mlflow_run_id, run.config, model.folder)
            try:
                client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code not in NOT_FOUND:
                    raise
                client.create_registered_model(name)
            found = [
                client.create_model_version(
                    name, f"models:/{model_id}", run.mlflow_run_id, tags, model_id=model_id
                )
            ]
        client.set_model_version_tag(
            name, found[-1].version, run_tag(run.fingerprint), run.mlflow_run_id
        )
    return as_version(found[-1])


def run_tag(mark: str) -> str:
    """Return the tag by which a version names a run that led to it, one of several perhaps."""
    return f"commerce_clip.run.{mark}"


def decided_tag(mark: str) -> str:
    """Return the tag of a version whose promotion was decided by the run of a fingerprint."""
    return f"commerce_clip.decided.{mark}"


def registry_lock(name: str, what: str) -> AbstractContextManager[None]:
    """Return the lock under which versions are registered and aliases move (DECISIONS 25)."""
    return locked(f"registry-{name}", what, wait=True)
