"""`commerce-clip data log|status`: the data versions, in a second; nothing heavy is imported."""

from flows.cli.terminal import print_facts, print_line, print_table
from model.errors import ServiceError, typed
from tasks.data.card import rows_text
from tasks.data.history import current_version_or_none, known_versions
from tasks.data.status import data_status
from tasks.registry.reading import read_registry

SHORT = 8


def print_versions() -> None:
    """List the data versions: hash, date, name, rows, faults, and who trained on it."""
    current, registry, models = current_version_or_none(), read_registry(), None
    try:
        models = _ask_mlflow() if registry is None else registry.trained_on()
    except ServiceError as error:
        print_line(str(error))
    rows = [
        {
            "": "→" if known.version == current else "",
            "version": known.version[:SHORT],
            "created (UTC)": known.created[:16].replace("T", " "),
            "name": known.name,
            "accepted pairs": rows_text(known.card.splits) if known.card else "?",
            "faults": str(sum(known.card.faults.values())) if known.card else "?",
            "trained on it": ("?" if models is None else ", ".join(models.get(known.version, []))),
        }
        for known in known_versions()
    ]

    if rows:
        print_table("Data versions", rows, right=("faults",))
    else:
        print_line(f"no data version yet; `{typed('ingest')}` makes one")


def print_status() -> None:
    """Print whether data/ is what data.dvc names, committed, pushed and validated."""
    print_facts(
        "Data version",
        {fact.what: f"{'ok ' if fact.is_good else '!! '} {fact.answer}" for fact in data_status()},
    )


def _ask_mlflow() -> dict[str, list[str]]:
    """Return the versions by their data version; importing MLflow takes seconds."""
    from tasks.registry.versions import trained_on

    return trained_on()
