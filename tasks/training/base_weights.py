"""The base weights of a run as a model folder, made on first use."""

from pathlib import Path

from model.errors import CheckpointError
from model.storage.sealed import weights_sha256
from tasks.runtime.environment import models_folder
from tasks.runtime.records import Run


def base_weights(run: Run) -> Path:
    """Return the model folder of the run's base weights, made on first use.

    Raises:
        ConfigError: the model or its weights are unknown, or do not fit each other.
        CheckpointError: the weights file is damaged.
        ServiceError: the weights cannot be downloaded.
    """
    from model.towers import base, folder

    made = run.folder / "base"
    try:
        weights_sha256(made)
    except CheckpointError:
        config = run.config
        towers = base.base_towers(
            config.model, models_folder(), config.device, config.precision, config.seed
        )
        folder.save_towers(towers, made)
    return made
