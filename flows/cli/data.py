"""`python -m flows data log|status|pull|diff`: data versions; no server is started for them."""

from flows.cli.terminal import print_facts, print_line, print_table
from flows.parameters import NamedDataVersion
from model.errors import ServiceError
from tasks.data.card import rows_text
from tasks.data.dvc import data_folder
from tasks.data.history import current_version_or_none, find_data_version, known_versions
from tasks.data.status import data_status
from tasks.data.version import materialise
from tasks.validation.difference import difference

SHORT = 8


def print_versions() -> None:
    """List the data versions: hash, date, name, rows, faults, and who trained on it."""
    from tasks.registry.versions import trained_on

    current, models = current_version_or_none(), None
    try:
        models = trained_on()
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
        print_line("no data version yet; `python -m flows ingest` makes one")


def print_status() -> None:
    """Print whether data/ is what data.dvc names, committed, pushed and validated."""
    print_facts(
        "Data version",
        {fact.what: f"{'ok ' if fact.is_good else '!! '} {fact.answer}" for fact in data_status()},
    )


def pull_data() -> None:
    """Bring the version that data.dvc names into data/ and check every file."""
    version = materialise(data_folder())
    print_line(
        f"data version {version.version}: {len(version.file_md5)} files in {version.folder}, "
        "every MD5 right"
    )


def print_difference(
    reference: NamedDataVersion,
    current: NamedDataVersion,
    /,
) -> None:
    """Print what changed from one data version to another."""
    before, after = find_data_version(reference), find_data_version(current)
    found = difference(before, after)

    rows = [
        {
            "split": split.split,
            "before": f"{split.before:,}",
            "after": f"{split.after:,}",
            "in": f"+{split.rows_in:,}",
            "out": f"-{split.rows_out:,}",
        }
        for split in found
    ]
    print_table(
        f"{before[:SHORT]} → {after[:SHORT]}: accepted pairs",
        rows,
        right=("before", "after", "in", "out"),
    )

    drifted = [
        {
            "split": split.split,
            "column": column.column,
            "drift": f"{column.psi:.3f}",
            "chance": f"{column.noise:.3f}",
            "moved most": ", ".join(map(str, column.movers)),
        }
        for split in found
        for column in split.drifted
    ]
    if drifted:
        print_table("Drift (population stability index)", drifted, right=("drift", "chance"))
    else:
        print_line("no column drifted by more than chance")
