"""The parameters that flows share: typed and described, so that Prefect's form shows them, and read in one place."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from prefect.runtime import flow_run
from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from model.config.load import RunConfig, load_config
from model.config.sections import Name
from tasks.runtime.environment import ROOT
from tasks.runtime.log import log_sentences

UNCHOSEN = (None, "config")


@dataclass(frozen=True)
class Described:
    """What a parameter is for, in a place where Prefect's form finds it: pydantic's own description is lost there."""

    text: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema of the type with the description in it."""
        return {**handler(schema), "description": self.text}


Config = Annotated[str, Described("YAML file of the run, or its name in configs/ (sample).")]
Data = Annotated[
    str | None,
    Described("Folder of pairs (train.tsv, test.tsv) in place of the config's data.path."),
]
# A choice beside None would hide its choices in Prefect's form, so "config" stands for what the
# config says.
Device = Annotated[
    Literal["config", "auto", "cpu", "cuda", "mps"],
    Described("Where the towers run; config: as the config says."),
]
Precision = Annotated[
    Literal["config", "fp32", "bf16"],
    Described("Arithmetic of the towers; config: as the config says."),
]
FinetuneEpochs = Annotated[
    int | None,
    Field(ge=0),
    Described("Passes over the train split, in place of the config's finetune.epochs."),
]
Overrides = Annotated[
    Sequence[str], Described("Other knobs as section.key=value, for example finetune.lr=1e-4.")
]
WhenBusy = Annotated[
    Literal["skip", "wait"],
    Described(
        "While another run trains this model: skip ends at once, wait starts after it, on the newest data then."
    ),
]
RegisteredModel = Annotated[Name, Described("Name in the MLflow model registry.")]
VersionNumber = Annotated[int, Field(ge=1), Described("Number of the registered version.")]
WhichVersion = Annotated[
    str, Described("Registered version: its number, or champion, challenger, previous.")
]
Reason = Annotated[str, Field(min_length=1), Described("Why; kept as a tag of the version.")]


def read_config(
    config: str,
    overrides: Sequence[str] = (),
    data: str | None = None,
    device: str = "config",
    precision: str = "config",
    epochs: int | None = None,
) -> RunConfig:
    """Return the validated config of a flow run: file, then environment, then the flow's
    parameters.

    Raises:
        ConfigError: the file is missing, or a key or value is wrong.
    """
    log_sentences()
    chosen = {
        "data.path": data,
        "device": device,
        "precision": precision,
        "finetune.epochs": epochs,
    }
    given = [
        f"{key}={yaml.safe_dump(value).splitlines()[0]}"
        for key, value in chosen.items()
        if value not in UNCHOSEN
    ]
    return load_config(config_path(config), [*overrides, *given], os.environ)


def config_path(config: str) -> Path:
    """Return the path of a config given by path or by its name in configs/."""
    is_name = Path(config).name == config and not config.endswith(".yaml")
    return ROOT / "configs" / f"{config}.yaml" if is_name else Path(config)


def run_name() -> str:
    """Return a flow run's name: the config and the data version that data.dvc names, or the folder given."""
    parameters: dict[str, Any] = flow_run.parameters or {}
    data = parameters.get("data")
    return f"{Path(str(parameters.get('config', 'run'))).stem}-{Path(str(data)).name if data else _tracked_version()}"


def _tracked_version() -> str:
    try:
        outs = yaml.safe_load((ROOT / "data.dvc").read_text(encoding="utf-8"))["outs"]
        return f"data-{outs[0]['md5'][:8]}"
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return "no-data-version"
