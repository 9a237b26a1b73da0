"""What `commerce-clip history` prints: every change of the champion."""

from collections.abc import Iterable, Mapping
from typing import Any

from flows.cli.terminal import print_line, print_table
from flows.parameters import OUR_MODEL
from model.errors import ConfigError, nearest


def print_champions(name: str, changes: Iterable[Mapping[str, Any]], models: Iterable[str]) -> None:
    """Print changes, the oldest first, of one of the registered models: when, who, what, why.

    Raises:
        ConfigError: there is no such model.
    """
    rows = [
        {
            "when (UTC)": change["when"][:16].replace("T", " "),
            "who": change["who"],
            "champion": f"{change['before'] or 'none'} → {change['after']}",
            "why": change["why"],
        }
        for change in changes
    ]
    if rows:
        print_table(f"Champions of {name}", rows)
    elif name == OUR_MODEL or name in models:
        print_line(f"{name} has had no champion yet; `make run` trains one")
    else:
        known = sorted({*models, OUR_MODEL})
        raise ConfigError(
            f"{name}: no such registered model{nearest(name, known)} (known: {', '.join(known)})"
        )
