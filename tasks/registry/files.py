"""The files of a registered version: only from our own artifact root, and only with the weights that its tag names."""

from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from model.errors import CheckpointError, PromotionRefused
from model.storage.sealed import weights_sha256
from tasks.registry.tracking import experiment_id, tracking_client
from tasks.registry.versions import WEIGHTS_TAG, read_version
from tasks.runtime.records import TrainedModel, Version


def model_folder(version: ModelVersion) -> Path:
    """Return the model folder of a version on this machine, downloaded if need be, its weights
    checked against the tag.

    Raises:
        CheckpointError: the weights are not those that were registered, or they lie outside of our
        artifact store.
    """
    _require_own_source(version)
    folder = Path(
        mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}/artifacts")
    )
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


def registered_model(version: Version) -> TrainedModel:
    """Return a registered version as a model on this machine, its weights checked against the
    version's tag.

    Raises:
        CheckpointError: the weights are not those that were registered.
    """
    registered = read_version(tracking_client(), version.name, version.number)
    folder = model_folder(registered)
    return TrainedModel(
        folder=folder,
        weights_sha256=registered.tags[WEIGHTS_TAG],
        best_epoch=0,
        valid_mean_recall=0.0,
    )


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
