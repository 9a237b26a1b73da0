"""The config of a flow run."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from model.config.load import RunConfig, load_config
from tasks.runtime.environment import ROOT
from tasks.runtime.log import log_sentences

UNCHOSEN = (None, "config")


def read_config(
    config: str,
    overrides: Sequence[str] = (),
    data: str | None = None,
    device: str = "config",
    precision: str = "config",
    epochs: int | None = None,
) -> RunConfig:
    """Return the validated config of a flow run: file, then environment, then parameters.

    ``config`` is a path or a name in configs/.

    Raises:
        ConfigError: the file is missing, or a key or value is wrong.
    """
    log_sentences()

    # The parameters become overrides, so that their values are validated as all others are.
    chosen = {
        "data.path": data,
        "device": device,
        "precision": precision,
        "finetune.epochs": epochs,
    }
    given = [
        f"{key}={yaml.safe_dump(value, width=math.inf).splitlines()[0]}"  # one line, however long
        for key, value in chosen.items()
        if value not in UNCHOSEN
    ]

    is_name = Path(config).name == config and not config.endswith(".yaml")
    path = ROOT / "configs" / f"{config}.yaml" if is_name else Path(config)
    return load_config(path, [*overrides, *given], os.environ)


def protocol_overrides(protocols: str | None) -> list[str]:
    """Return the override that protocols, comma between them, stand for."""
    names = protocols.split(",") if protocols else []
    return [f"evaluate.protocols=[{','.join(map(repr, names))}]"] if names else []
