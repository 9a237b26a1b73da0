"""What every flow asks first: whether its process has our settings, however it was started."""

import os

from prefect.settings import get_current_settings

from model.errors import ConfigError, typed
from tasks.runtime.environment import HEARTBEAT_S, SETTINGS


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
