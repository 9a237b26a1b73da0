"""The files of a registered version: only from our artifact root, only with the tagged weights.

Only data are read (safetensors, JSON), never the Python beside them. Where
COMMERCE_CLIP_SIGNING_KEY_FILE names a key, the version has to be signed by it.
"""

import hashlib
import shutil
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from model.errors import CheckpointError, PromotionRefused, typed
from model.storage.sealed import weights_sha256
from model.storage.signed import verify_contents
from tasks.registry.calls import registry_call
from tasks.registry.package import identity_of
from tasks.registry.signing import signing_key
from tasks.registry.tracking import MAY_READ, experiment_id, tracking_client
from tasks.registry.transfer import download_folder
from tasks.registry.versions import WEIGHTS_TAG, champion_origin, read_version
from tasks.runtime.environment import state_folder
from tasks.runtime.locks import locked
from tasks.runtime.log import run_logger
from tasks.runtime.records import TrainedModel, Version

DATA = "artifacts"  # where MLflow keeps what a version's code reads


def model_folder(version: ModelVersion) -> Path:
    """Return the model folder of a version on this machine, its weights checked against the tag.

    It is downloaded if need be.

    Raises:
        CheckpointError: the weights are not those that were registered, they lie outside of our
            artifact store, or a signing key is set and did not sign them.
        ServiceError: the artifact store does not answer.
    """
    # Files that somebody put elsewhere would be fetched from there and read.
    client = tracking_client()
    source = client.get_model_version_download_uri(version.name, version.version)
    experiment = client.get_experiment(experiment_id(client))
    root = str(experiment.artifact_location).rstrip("/") + "/"
    if not source.startswith(root) or ".." in source.removeprefix(root).split("/"):
        raise CheckpointError(f"its source {source} lies outside of the artifact store {root}")

    # Another process may be fetching the same files.
    place = f"{version.name}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    with locked(f"version-{place}", f"download of version {version.version}", wait=True):
        copy = state_folder() / "versions" / place
        try:
            return _checked(version, source, copy)
        except CheckpointError:
            # What lies here may be damaged, not what lies in the store.
            if not copy.exists():
                raise
            shutil.rmtree(copy)
            return _checked(version, source, copy)


def _checked(version: ModelVersion, source: str, copy: Path) -> Path:
    """Return a version's model folder after a check of weights and signature."""
    key, weights = signing_key(), version.tags.get(WEIGHTS_TAG, "")
    with registry_call("could not fetch the files of a version", MAY_READ):
        if key is None:
            folder = download_folder(f"{source}/{DATA}", copy / DATA)
        else:
            whole = download_folder(source, copy)
            verify_contents(whole, identity_of(str(version.run_id), weights), DATA, key)
            folder = whole / DATA

    inner = next((path.parent for path in folder.rglob("open_clip_config.json")), folder)
    if weights_sha256(inner) != weights:
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
            f"choose another, or go back with `{typed('rollback')}`"
        ) from error
