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
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, DataType

from model.config.load import RunConfig
from model.storage.sealed import weights_sha256
from model.storage.signed import list_contents, sign_contents
from tasks.registry.signing import private_key
from tasks.registry.tracking import tracking_client
from tasks.registry.transfer import upload_folder
from tasks.runtime.environment import ROOT

MODEL_FILE = "MLmodel"


def log_model(run_id: str, config: RunConfig, folder: Path) -> str:
    """Attach the model folder to the run, loadable by `mlflow.pyfunc`; return its artifact URI.

    It is signed where a signing key is set. What is the same but for MLmodel's time has the same
    place, so that a try that was cut goes on.

    Raises:
        MlflowException, requests.RequestException: a file could not be sent.
        ConfigError: the signing key only checks.
    """
    client, key = tracking_client(), private_key()
    with TemporaryDirectory(dir=folder.parent, prefix="package-") as temporary:
        package = Path(temporary) / "model"
        write_package(run_id, config, folder, package)

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
    """Return what a signature says a version is: its MLflow run, its weights' SHA-256 (hex)."""
    return {"MLflow run": run_id, "weights' SHA-256": weights}


def write_package(run_id: str, config: RunConfig, folder: Path, package: Path) -> None:
    """Write a model folder as an MLflow model, with the code that loads it."""
    embedding = Array(DataType.float)
    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec("string", "caption", required=False),
                ColSpec("binary", "image", required=False),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(embedding, "text_embedding", required=False),
                ColSpec(embedding, "image_embedding", required=False),
            ]
        ),
    )

    # The code of today goes along, so that a version is loaded years later as it was evaluated.
    mlflow.pyfunc.save_model(
        package,
        mlflow_model=Model(run_id=run_id),
        python_model=str(ROOT / "tasks" / "registry" / "served_model.py"),
        artifacts={"model": str(folder)},
        code_paths=[str(ROOT / "model")],
        signature=signature,
        input_example=pd.DataFrame({"caption": ["long sleeve striped top in navy"]}),
        pip_requirements=[f"-r {ROOT / 'requirements.lock'}"],
        metadata={"config": config.model_dump(mode="json")},
    )
    for compiled in list(package.rglob("__pycache__")):
        shutil.rmtree(compiled)
