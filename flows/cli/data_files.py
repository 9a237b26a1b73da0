"""`commerce-clip data pull|diff`: the files and pairs of data versions; no server is started."""

from flows.cli.data import SHORT
from flows.cli.terminal import print_line, print_table
from flows.parameters import NamedDataVersion
from tasks.data.dvc import data_folder
from tasks.data.history import find_data_version
from tasks.data.version import materialise
from tasks.validation.difference import difference


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
