"""Which activation towers were trained with; a wrong guess costs several points in silence."""

from typing import Any

from model.errors import ConfigError
from model.zoo.published import Given

QUICK, PLAIN = "quickgelu", "gelu"


def check_activation(architecture: dict[str, Any], given: Given, where: str) -> dict[str, Any]:
    """Return the architecture, whose files state the activation, unless the user gave another.

    Raises:
        ConfigError: the user did.
    """
    stated = QUICK if architecture.get("quick_gelu") else PLAIN
    if given.activation not in (None, stated):
        raise ConfigError(
            f"--activation {given.activation}: {where} says {stated}; leave the option out"
        )
    return architecture


def choose_activation(
    architecture: dict[str, Any], given: Given, listed: str | None, where: str
) -> dict[str, Any]:
    """Return the architecture with the activation that the user or the table of models names.

    Raises:
        ConfigError: neither does.
    """
    chosen = given.activation or listed
    if chosen is None:
        raise ConfigError(
            f"{where}: trained with gelu or quickgelu? The file does not say, and a wrong guess "
            "costs several points: pass --activation (OpenAI's weights and their children have "
            "quickgelu, LAION's gelu)"
        )
    return architecture | {"quick_gelu": chosen == QUICK}
