"""The name of a flow run, as Prefect shows it."""

from pathlib import Path
from typing import Any

import yaml
from prefect.runtime import flow_run

from tasks.runtime.environment import ROOT


def run_name() -> str:
    """Return the name of a flow run: its config, and its folder or the version in data.dvc."""
    parameters: dict[str, Any] = flow_run.parameters or {}
    config, data = Path(str(parameters.get("config", "run"))), parameters.get("data")
    return f"{config.stem}-{Path(str(data)).name if data else _tracked_version()}"


def _tracked_version() -> str:
    try:
        outs = yaml.safe_load((ROOT / "data.dvc").read_text(encoding="utf-8"))["outs"]
        return f"data-{outs[0]['md5'][:8]}"
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return "no-data-version"
