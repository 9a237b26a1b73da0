"""Register a model as a new version, once, with its lineage.

Aliases, never stages: ``challenger`` is the newest candidate, ``champion`` serves, ``previous`` is
where a rollback goes; `tasks.promotion.promote` moves them.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from model.config.load import RunConfig
from model.errors import CheckpointError
from model.storage.sealed import weights_sha256
from tasks.registry.calls import OUTAGES, longer_calls, registry_call
from tasks.registry.package import log_model
from tasks.registry.reading import EXPORT_TAG, FINGERPRINT_TAG, decided_tag, run_tag
from tasks.registry.served_parts import INT8_TAG, SERVED_TAG
from tasks.registry.tracking import MAY_EDIT, tracking_client
from tasks.registry.versions import WEIGHTS_TAG, as_version, find_versions, is_absent, may_edit
from tasks.runtime.lineage import lineage_tags
from tasks.runtime.locks import locked
from tasks.runtime.records import Evaluation, Run, TrainedModel, Validation, Version
from tasks.runtime.stage import stage


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
        AccessDenied: the user may not.
        CheckpointError: the weights changed since they were evaluated, or what would be served
        gives other embeddings.
    """
    from tasks.registry import serving  # imports torch

    client, name = tracking_client(), run.config.registered_model
    if weights_sha256(model.folder) != model.weights_sha256:
        raise CheckpointError(
            f"{model.folder}: the weights are not those that were evaluated; run again"
        )

    tags = lineage_tags(run.config, run.data, run.lineage) | {
        FINGERPRINT_TAG: run.fingerprint,
        WEIGHTS_TAG: model.weights_sha256,
        INT8_TAG: str(run.config.serve.int8_text).lower(),
        "commerce_clip.test_mean_recall": f"{evaluation.metrics['mean_recall']:.6f}",
        "commerce_clip.base_weights_sha256": evaluation.base_weights_sha256,
        "commerce_clip.validation": f"passed ({validation.expectations} expectations)",
    }

    def upload() -> str:
        served = serving.serve_model(run, validation, model)
        tags[SERVED_TAG] = served.note
        return log_model(run.mlflow_run_id, run.config, model.folder, served.folder)

    with registry_call("could not register a version", MAY_EDIT):
        source = None
        if not _find_same(client, name, tags):
            # Files take minutes, and the lock is for moments.
            source = upload()
        with registry_lock(name, f"run {run.folder.name}"):
            found = _find_same(client, name, tags)
            if not found:
                source = source or upload()  # another run's version was deleted meanwhile
                found = [_create_version(client, name, source, run.mlflow_run_id, tags)]
            with registry_call("could not tag a version", may_edit(name)):
                client.set_model_version_tag(
                    name, found[-1].version, run_tag(run.fingerprint), run.mlflow_run_id
                )
    return as_version(found[-1])


def _find_same(client: MlflowClient, name: str, tags: dict[str, str]) -> list[ModelVersion]:
    """Return the versions of a fingerprint, or else those that serve the same weights alike."""
    if found := find_versions(client, name, {FINGERPRINT_TAG: tags[FINGERPRINT_TAG]}):
        return found
    return [
        version
        for version in find_versions(client, name, {WEIGHTS_TAG: tags[WEIGHTS_TAG]})
        if version.tags.get(INT8_TAG, "false") == tags[INT8_TAG]
    ]


def _create_version(
    client: MlflowClient, name: str, source: str, run_id: str, tags: dict[str, str]
) -> ModelVersion:
    """Make a version, and the model if it is the first; the caller holds the registry's lock."""
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if not is_absent(client, name, error):
            raise
        with registry_call("could not make the model", "the right to create registered models"):
            client.create_registered_model(name)

    # Creating twice would make two versions, so a try without an answer is not repeated.
    with registry_call("could not make a version", may_edit(name)), longer_calls(retries=0):
        try:
            return client.create_model_version(name, source, run_id, tags)
        except MlflowException as error:
            made = find_versions(client, name, {FINGERPRINT_TAG: tags[FINGERPRINT_TAG]})
            if error.error_code in OUTAGES and made:
                return made[-1]
            raise


def registry_lock(name: str, what: str) -> AbstractContextManager[None]:
    """Return the lock under which versions are registered and aliases move (DECISIONS 25)."""
    return locked(f"registry-{name}", what, wait=True)
