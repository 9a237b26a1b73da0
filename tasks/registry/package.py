"""A model folder as MLflow loads it, attached to its run.

It is packed on this machine and sent as files. MLflow's own `log_model` would read the history of
each of the run's metrics, one request a metric, and copy them to the model.
"""

import hashlib
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.models import Model

from model.config.load import RunConfig
from model.storage.sealed import weights_sha256
from model.storage.signed import list_contents, sign_contents
from tasks.registry.served_parts import model_parts
from tasks.registry.signing import private_key
from tasks.registry.tracking import tracking_client
from tasks.registry.transfer import upload_folder

MODEL_FILE = "MLmodel"


def log_model(run_id: str, config: RunConfig, folder: Path, served: Path | None) -> str:
    """Attach the model folder to the run, loadable by `mlflow.pyfunc`; return its artifact URI.

    ``served`` is the folder that it is served from without torch, None where there is none. All of
    it is signed where a signing key is set. What is the same but for MLmodel's time has the same
    place, so that a try that was cut goes on.

    Raises:
        MlflowException, requests.RequestException: a file could not be sent.
        ConfigError: the signing key only checks.
    """
    client, key = tracking_client(), private_key()
    with TemporaryDirectory(dir=folder.parent, prefix="package-") as temporary:
        package = Path(temporary) / "model"
        write_package(run_id, config, folder, served, package)

        files = list_contents(package)
        if key is not None:
            sign_contents(package, files, identity_of(run_id, weights_sha256(folder)), key)
        lasting = {name: digest for name, digest in files.items() if name != MODEL_FILE}
        digest = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()

        place = f"model-{digest[:12]}"
        client.log_dict(run_id, config.model_dump(mode="json"), "config.json")
        upload_folder(client, run_id, package, place)
    return f"{client.get_run(run_id).info.artifact_uri}/{place}"


def identity_of(run_id: str, weights: str) -> dict[str, str]:
    """Name a version for its signature: its MLflow run, its weights' SHA-256 (hex)."""
    return {"MLflow run": run_id, "weights' SHA-256": weights}


def write_package(
    run_id: str, config: RunConfig, folder: Path, served: Path | None, package: Path
) -> None:
    """Write a model folder as an MLflow model, with what serves it."""
    mlflow.pyfunc.save_model(
        package,
        mlflow_model=Model(run_id=run_id),
        metadata={"config": config.model_dump(mode="json")},
        **model_parts(folder, served),
    )
    for compiled in list(package.rglob("__pycache__")):
        shutil.rmtree(compiled)
