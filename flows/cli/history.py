"""`python -m flows history`: every change of the champion; no server is started for it."""

from flows.cli.terminal import print_line, print_table
from flows.parameters import OUR_MODEL, RegisteredModel
from tasks.registry.aliases import history


def print_history(registered_model: RegisteredModel = OUR_MODEL) -> None:
    """List every change of the champion: when, who, from which version to which, why."""
    rows = [
        {
            "when (UTC)": change.when[:16].replace("T", " "),
            "who": change.who,
            "champion": f"{change.before or 'none'} → {change.after}",
            "why": change.why,
        }
        for change in history(registered_model)
    ]

    if rows:
        print_table(f"Champions of {registered_model}", rows)
    else:
        print_line(f"{registered_model} has had no champion yet; `make run` trains one")
