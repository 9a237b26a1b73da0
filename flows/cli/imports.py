"""`python -m flows import KIND SOURCE… --out FOLDER`: another product data set becomes TSVs that can be ingested."""

import shlex
from contextlib import ExitStack
from pathlib import Path

from flows.cli.terminal import print_line, print_table
from model.errors import ConfigError
from model.importers.importing import ImportedSplit, import_pairs
from tasks.runtime.progress import Progress, progress

TOP_SPLITS = ("train", "valid", "test")


def import_files(kind: str, sources: list[str], out: str, overrides: list[str]) -> None:
    """Import with a progress bar a split, and tell what became a pair and what did not.

    Raises:
        ConfigError: the kind or an option is unknown or impossible.
        DataError: a source cannot be imported.
    """
    with ExitStack() as bars:
        shown: list[Progress] = []

        def begin(split: str, rows: int | None) -> None:
            bars.close()
            shown[:] = [bars.enter_context(progress(f"import {split}", rows or 0, "rows"))]

        imported = import_pairs(
            kind,
            list(map(Path, sources)),
            Path(out),
            _options(overrides),
            lambda rows: shown[0].advance(rows),
            begin,
        )
    _print(imported)


def _options(overrides: list[str]) -> dict[str, str]:
    split = [override.partition("=") for override in overrides]
    for key, equals, _ in split:
        if not equals:
            raise ConfigError(f"--set {key}: expected key=value, for example caption=title")
    return {key: value for key, _, value in split}


def _print(imported: list[ImportedSplit]) -> None:
    rows = [
        {
            "split": split.split,
            "rows": f"{split.rows:,}",
            "pairs": f"{split.pairs:,}",
            "left out": "; ".join(_left_out(split)) or "none",
            "file": str(split.tsv or "none"),
        }
        for split in imported
    ]
    print_table("Imported", rows, right=("rows", "pairs"))
    for split in imported:
        for note in _notes(split):
            print_line(f"{split.split}: {note}")
    print_line(f"next: {_ingest_command(imported)}")


def _left_out(split: ImportedSplit) -> list[str]:
    return [
        f"{left.rows:,} {reason} ({', '.join(left.names)}{', …' if left.rows > len(left.names) else ''})"
        for reason, left in split.left_out.items()
    ]


def _notes(split: ImportedSplit) -> list[str]:
    notes = []
    if split.cleaned_captions:
        notes.append(
            f"{split.cleaned_captions:,} captions had a tab or a line break, which became a space"
        )
    if split.dropped_columns:
        notes.append(
            f"columns left out of the side table, which has a limit: {', '.join(split.dropped_columns)}"
        )
    return notes


def _ingest_command(imported: list[ImportedSplit]) -> str:
    """Return the command that makes a data version of what was imported."""
    command = ["python", "-m", "flows", "ingest", "--name", "NAME"]
    others = []
    for split in imported:
        if split.tsv is None:
            continue
        if split.split in TOP_SPLITS:
            command += [f"--{split.split}", str(split.tsv)]
        else:
            others.append(str(split.tsv))
    return shlex.join([*command, *(["--pretrain", *others] if others else [])])
