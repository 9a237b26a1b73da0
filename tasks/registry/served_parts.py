"""What of a version makes it loadable by `mlflow.pyfunc`, whatever way it is saved or sent."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType, Array, DataType

from tasks.runtime.environment import ROOT
from tasks.runtime.records import Record

SERVED_TAG, INT8_TAG = "commerce_clip.served", "commerce_clip.int8_text"
REQUIREMENTS = ("onnxruntime", "tokenizers", "pillow", "numpy", "pandas")
REPAIRS_TEXT = "ftfy"  # of captions, before CLIP's byte pairs and SigLIP's pieces


class Served(Record):
    """The folder that a version is served from without torch, None where torch serves it.

    ``note`` says in words how, and where it is not as the config wants, why.
    """

    weights_sha256: str
    folder: Path | None
    note: str


def model_parts(folder: Path, served: Path | None) -> dict[str, Any]:
    """List the arguments of `mlflow.pyfunc.save_model` for a model folder and its served form.

    The model folder always goes along, for training and conversion.
    """
    embedding = Array(DataType.float)
    anything = AnyType()
    parts = {
        "python_model": str(ROOT / "tasks" / "registry" / "served_model.py"),
        "signature": ModelSignature(
            inputs=Schema(
                [
                    ColSpec(anything, "id", required=False),
                    ColSpec("string", "caption", required=False),
                    ColSpec("binary", "image", required=False),
                ]
            ),
            outputs=Schema(
                [
                    ColSpec(anything, "id", required=False),
                    ColSpec(embedding, "text_embedding", required=False),
                    ColSpec(embedding, "image_embedding", required=False),
                ]
            ),
        ),
        "input_example": pd.DataFrame({"caption": ["long sleeve striped top in navy"]}),
    }

    if served is None:
        # The code of today goes along, so that a version is loaded as it was evaluated.
        return parts | {
            "artifacts": {"model": str(folder)},
            "code_paths": [str(ROOT / "model")],
            "pip_requirements": [f"-r {ROOT / 'requirements.lock'}"],
        }
    settings = json.loads((served / "served.json").read_text(encoding="utf-8"))
    needed = [*REQUIREMENTS, *([REPAIRS_TEXT] if settings["clean"] != "verbatim" else [])]
    return parts | {
        "artifacts": {"model": str(folder), "served": str(served)},
        "pip_requirements": [f"{name}=={version(name)}" for name in needed],
    }
