"""The MLflow model registry: register versions, find them, read their files. `tasks.promotion.promote` moves its aliases.

Aliases, never stages: ``challenger`` is the newest candidate, ``champion`` serves, ``previous`` is where a rollback
goes. A read that fails is a ServiceError and never "there is no champion".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    ErrorCode,
)

from model.errors import CheckpointError, PromotionRefused, ServiceError
from model.storage.sealed import weights_sha256
from tasks.pages.text import without_credentials
from tasks.promotion.gate import CHALLENGER, CHAMPION
from tasks.registry.tracking import FINGERPRINT_TAG, experiment_id, log_model, tracking_client
from tasks.run import lineage_tags
from tasks.runtime.lineage import fingerprint
from tasks.runtime.locks import locked
from tasks.runtime.records import DataVersion, Evaluation, Run, TrainedModel, Validation, Version
from tasks.runtime.stage import stage

if TYPE_CHECKING:
    from model.config.load import RunConfig

PREVIOUS = "previous"
WEIGHTS_TAG = "commerce_clip.weights_sha256"
MEAN_RECALL_TAG = "commerce_clip.test_mean_recall"
EXPORT_TAG = "commerce_clip.embeddings"
DATA_VERSION_TAG = "commerce_clip.data_version"
WAS_CHAMPION_TAG = "commerce_clip.was_champion"
OUTAGES = {ErrorCode.Name(code) for code in (INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE, REQUEST_LIMIT_EXCEEDED)}
# MLflow answers "invalid parameter" for an alias that is not there.
NOT_FOUND = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}


def find_registered(config: "RunConfig", data: DataVersion) -> Version | None:
    """Return the version that this data, code, config and base weights have already led to, or None.

    Raises:
        ServiceError: the registry does not answer.
    """
    return find_registered_fingerprint(config, fingerprint(config, data))


def find_registered_fingerprint(config: "RunConfig", mark: str) -> Version | None:
    """Return the version of a fingerprint if its run exported embeddings and decided on it; None: go on."""
    client, name = tracking_client(), config.registered_model
    found = find_versions(client, name, {FINGERPRINT_TAG: mark}) or _of_run(client, name, mark)
    finished = [version for version in found if {EXPORT_TAG, decided_tag(mark)} <= version.tags.keys()]
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
def register(run: Run, validation: Validation, model: TrainedModel, evaluation: Evaluation) -> Version:
    """Register the model folder as a new version with its lineage; once for the same weights, however often it is run.

    Raises:
        ServiceError: the registry does not answer.
        CheckpointError: the weights changed since they were evaluated.
    """
    client, name = tracking_client(), run.config.registered_model
    if weights_sha256(model.folder) != model.weights_sha256:
        raise CheckpointError(f"{model.folder}: the weights are not those that were evaluated; run again")
    tags = lineage_tags(run.config, run.data) | {
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
            client.set_model_version_tag(name, known.version, run_tag(run.fingerprint), run.mlflow_run_id)
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


def model_folder(version: ModelVersion) -> Path:
    """Return the model folder of a version on this machine, downloaded if need be, its weights checked against the tag.

    Raises:
        CheckpointError: the weights are not those that were registered, or they lie outside of our artifact store.
    """
    _require_own_source(version)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}/artifacts"))
    inner = next((path.parent for path in folder.rglob("open_clip_config.json")), folder)
    if weights_sha256(inner) != version.tags.get(WEIGHTS_TAG):
        raise CheckpointError(f"{inner}: the weights are not those that were registered")
    return inner


def _require_own_source(version: ModelVersion) -> None:
    """Refuse a version whose files somebody put elsewhere: they would be fetched from there and read."""
    client = tracking_client()
    source = client.get_model_version_download_uri(version.name, version.version)
    experiment = client.get_experiment(experiment_id(client))
    root = str(experiment.artifact_location).rstrip("/") + "/"
    if not source.startswith(root) or ".." in source.removeprefix(root).split("/"):
        raise CheckpointError(f"its source {source} lies outside of the artifact store {root}")


def find_version(name: str, which: str) -> Version:
    """Return a version by number or alias.

    Raises:
        PromotionRefused: there is none.
    """
    client = tracking_client()
    if which.isdigit():
        return as_version(read_version(client, name, int(which)))
    version = read_alias(client, name, which)
    if version is None:
        raise PromotionRefused(f"{name}: no version has the alias {which}; train one with `make run`")
    return as_version(version)


def aliases_of(version: Version) -> list[str]:
    """Return the aliases that point to a version."""
    client = tracking_client()
    return [name for name in (CHAMPION, CHALLENGER, PREVIOUS) if _points_to(client, version, name)]


def champion_origin(name: str) -> tuple[str, Version] | None:
    """Return the data version that the champion was trained on, and the champion, or None where there is none.

    Raises:
        ServiceError: the registry does not answer.
    """
    champion = read_alias(tracking_client(), name, CHAMPION)
    return None if champion is None else (str(champion.tags.get(DATA_VERSION_TAG, "")), as_version(champion))


def trained_on() -> dict[str, list[str]]:
    """Return the registered versions of all models by the data version that they were trained on.

    Raises:
        ServiceError: the registry does not answer.
    """
    client, found, token = tracking_client(), dict[str, list[str]](), None
    try:
        while token is None or token:
            page = client.search_model_versions(order_by=["version_number ASC"], page_token=token)
            for version in page:
                data = version.tags.get(DATA_VERSION_TAG, "")
                found.setdefault(data, []).append(f"{version.name} {version.version}")
            token = page.token or ""
    except MlflowException as error:
        raise unreachable("could not search versions", error) from error
    return found


def registered_model(version: Version) -> TrainedModel:
    """Return a registered version as a model on this machine, its weights checked against the version's tag.

    Raises:
        CheckpointError: the weights are not those that were registered.
    """
    registered = read_version(tracking_client(), version.name, version.number)
    folder = model_folder(registered)
    return TrainedModel(folder=folder, weights_sha256=registered.tags[WEIGHTS_TAG], best_epoch=0, valid_mean_recall=0.0)


def _points_to(client: MlflowClient, version: Version, alias: str) -> bool:
    found = read_alias(client, version.name, alias)
    return found is not None and int(found.version) == version.number


def loadable_folder(version: ModelVersion) -> Path:
    """Return the checked model folder of a version that is about to serve or to be compared.

    Raises:
        PromotionRefused: its files are missing or not those that were registered.
    """
    try:
        return model_folder(version)
    except (CheckpointError, MlflowException, OSError) as error:
        raise PromotionRefused(
            f"{version.name} version {version.version} cannot serve ({error}); restore its files, choose another, "
            "or go back with `python -m flows rollback`"
        ) from error


def had_champion(client: MlflowClient, name: str) -> bool:
    """Return whether a model ever had a champion, also where that version was deleted since."""
    return WAS_CHAMPION_TAG in model_tags(client, name) or bool(find_versions(client, name, {WAS_CHAMPION_TAG: "true"}))


def model_tags(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the tags of a registered model.

    Raises:
        ServiceError: the registry does not answer.
    """
    try:
        return dict(client.get_registered_model(name).tags)
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return {}
        raise unreachable("could not read the model", error) from error


def find_versions(client: MlflowClient, name: str, tags: dict[str, str]) -> list[ModelVersion]:
    """Return the versions that carry all the tags, by number."""
    conditions = [f"name = '{name}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())]
    try:
        found = client.search_model_versions(" and ".join(conditions))
    except MlflowException as error:
        raise unreachable("could not search versions", error) from error
    return sorted(found, key=lambda version: int(version.version))


def read_version(client: MlflowClient, name: str, number: int) -> ModelVersion:
    """Return a version by its number.

    Raises:
        PromotionRefused: there is none; names those that are.
        ServiceError: the registry does not answer.
    """
    try:
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise unreachable("could not read a version", error) from error
        known = ", ".join(str(version.version) for version in find_versions(client, name, {})) or "none"
        raise PromotionRefused(f"{name}: no version {number}; known: {known}") from None


def read_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version of an alias, None where there is none; only "not found" means not found."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return None
        raise unreachable(f"could not read the alias {alias}", error) from error


def _model_exists(client: MlflowClient, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code in NOT_FOUND:
            return False
        raise
    return True


def as_version(version: Any) -> Version:
    """Return MLflow's version as the record that stages hand on."""
    return Version(name=version.name, number=int(version.version), mlflow_run_id=str(version.run_id or ""))


def unreachable(what: str, error: MlflowException) -> ServiceError:
    """Return an outage as the error that is retried; anything else is a bug of ours and goes up as it is."""
    if error.error_code not in OUTAGES:
        raise error
    said = without_credentials(str(error).splitlines()[0])[:200]
    return ServiceError(f"MLflow registry {what} ({error.error_code}: {said}); check the server and run again")
