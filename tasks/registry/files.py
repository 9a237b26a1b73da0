"""The files of a registered version: only from our artifact root, only with the tagged weights."""

from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from model.errors import CheckpointError, PromotionRefused
from model.storage.sealed import weights_sha256
from tasks.registry.tracking import experiment_id, tracking_client
from tasks.registry.versions import WEIGHTS_TAG, champion_origin, read_version
from tasks.runtime.log import run_logger
from tasks.runtime.records import TrainedModel, Version


def model_folder(version: ModelVersion) -> Path:
    """Return the model folder of a version on this machine, its weights checked against the tag.

    It is downloaded if need be.

    Raises:
        CheckpointError: the weights are not those that were registered, or they lie outside of our
            artifact store.
    """
    # Files that somebody put elsewhere would be fetched from there and read.
    client = tracking_client()
    source = client.get_model_version_download_uri(version.name, version.version)
    experiment = client.get_experiment(experiment_id(client))
    root = str(experiment.artifact_location).rstrip("/") + "/"
    if not source.startswith(root) or ".." in source.removeprefix(root).split("/"):
        raise CheckpointError(f"its source {source} lies outside of the artifact store {root}")

    folder = Path(
        mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}/artifacts")
    )
    inner = next((path.parent for path in folder.rglob("open_clip_config.json")), folder)
    if weights_sha256(inner) != version.tags.get(WEIGHTS_TAG):
        raise CheckpointError(f"{inner}: the weights are not those that were registered")
    return inner


def registered_model(version: Version) -> TrainedModel:
    """Return a registered version as a model on this machine, its weights checked.

    Raises:
        CheckpointError: the weights are not those that were registered.
    """
    registered = read_version(tracking_client(), version.name, version.number)
    return TrainedModel(
        folder=model_folder(registered),
        weights_sha256=registered.tags[WEIGHTS_TAG],
        best_epoch=0,
        valid_mean_recall=0.0,
    )


def champion_model(name: str) -> TrainedModel | None:
    """Return the champion, to stand beside a new model in tables and galleries.

    It is None where there is no champion, and where its files cannot be had, with a line in the
    log: this is no decision; whether the champion can be compared with, the gate finds out.

    Raises:
        ServiceError: the registry does not answer.
    """
    origin = champion_origin(name)
    if origin is None:
        return None

    try:
        return registered_model(origin[1])
    except (CheckpointError, MlflowException, OSError) as error:
        run_logger().warning(
            "champion version %d is not shown: %s", origin[1].number, str(error).splitlines()[0]
        )
        return None


def loadable_folder(version: ModelVersion) -> Path:
    """Return the checked model folder of a version that is about to serve or to be compared.

    Raises:
        PromotionRefused: its files are missing or not those that were registered.
    """
    try:
        return model_folder(version)
    except (CheckpointError, MlflowException, OSError) as error:
        raise PromotionRefused(
            f"{version.name} version {version.version} cannot serve ({error}); restore its files, "
            "choose another, or go back with `python -m flows rollback`"
        ) from error
