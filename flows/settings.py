"""The config of a flow run."""

import os
from collections.abc import Sequence
from pathlib import Path

import yaml
from prefect.settings import get_current_settings

from model.config.load import RunConfig, load_config
from model.errors import ConfigError, typed
from tasks.runtime.environment import HEARTBEAT_S, ROOT, SETTINGS
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
    require_settings()

    # The parameters become overrides, so that their values are validated as all others are.
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

    is_name = Path(config).name == config and not config.endswith(".yaml")
    path = ROOT / "configs" / f"{config}.yaml" if is_name else Path(config)
    return load_config(path, [*overrides, *given], os.environ)


def require_settings() -> None:
    """Refuse to begin in a process whose settings are not ours, as the first step of every flow.

    Raises:
        ConfigError: the server would take the run for dead between two heartbeats, or a setting
        that keeps a part quiet did not arrive.
    """
    beats = get_current_settings().flows.heartbeat_frequency
    if beats is None or beats > HEARTBEAT_S:
        raise ConfigError(
            f"this run sends a heartbeat every {beats} s, the server expects one every "
            f"{HEARTBEAT_S} s; `{typed('deploy')}` gives the work pool our settings, "
            "and PREFECT_FLOWS_HEARTBEAT_FREQUENCY must not be set to more"
        )

    if missing := [name for name in SETTINGS if name not in os.environ]:
        raise ConfigError(
            f"{missing[0]} is not set in the process of this run; `{typed('deploy')}` "
            "creates deployments that set it"
        )


def protocol_overrides(protocols: str | None) -> list[str]:
    """Return the override that protocols, comma between them, stand for."""
    names = protocols.split(",") if protocols else []
    return [f"evaluate.protocols=[{','.join(map(repr, names))}]"] if names else []
