"""`python -m flows history`: every change of the champion; no server is started for it."""

from flows.cli.terminal import print_line, print_table
from tasks.registry.aliases import history


def print_history(name: str) -> None:
    """Print the changes of a model's champion, the latest last."""
    rows = [
        {
            "when (UTC)": change.when[:16].replace("T", " "),
            "who": change.who,
            "champion": f"{change.before or 'none'} → {change.after}",
            "why": change.why,
        }
        for change in history(name)
    ]
    if rows:
        print_table(f"Champions of {name}", rows)
    else:
        print_line(f"{name} has had no champion yet; `make run` trains one")
