"""`commerce-clip import KIND SOURCE… --out FOLDER`: another product data set becomes TSVs."""

import shlex
from contextlib import ExitStack
from pathlib import Path

from flows.cli.terminal import print_line, print_next, print_table
from flows.parameters import ImportKind, ImportOverrides, ImportSources, TsvFolder
from model.errors import ConfigError, typed
from model.importers.importing import ImportedSplit, import_pairs
from tasks.runtime.progress import Progress, progress


def import_data_set(
    kind: ImportKind,
    sources: ImportSources,
    /,
    *,
    out: TsvFolder,
    overrides: ImportOverrides = (),
) -> None:
    """Make TSVs and side tables of another product data set.

    Raises:
        ConfigError: the kind or an option is unknown or impossible.
        DataError: a source cannot be imported.
    """
    options = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {key}: expected key=value, for example caption=title")
        options[key] = value

    # A progress bar a split; the bar of the split before is closed when the next one begins.
    with ExitStack() as bars:
        current: list[Progress] = []

        def begin(split: str, rows: int | None) -> None:
            bars.close()
            current[:] = [bars.enter_context(progress(f"import {split}", rows or 0, "rows"))]

        imported = import_pairs(
            kind,
            list(map(Path, sources)),
            Path(out),
            options,
            lambda rows: current[0].advance(rows),
            begin,
        )
    _print(imported)


def _print(imported: list[ImportedSplit]) -> None:
    """Print what became a pair, what did not, and the command that comes next."""
    rows = [
        {
            "split": split.split,
            "rows": f"{split.rows:,}",
            "pairs": f"{split.pairs:,}",
            "left out": "; ".join(
                f"{left.rows:,} {reason} "
                f"({', '.join(left.names)}{', …' if left.rows > len(left.names) else ''})"
                for reason, left in split.left_out.items()
            )
            or "none",
            "file": str(split.tsv or "none"),
        }
        for split in imported
    ]
    print_table("Imported", rows, right=("rows", "pairs"))

    for split in imported:
        if split.cleaned_captions:
            print_line(
                f"{split.split}: {split.cleaned_captions:,} captions had a tab or a line break, "
                "which became a space"
            )
        for advice in split.advice:
            print_line(f"{split.split}: {advice}")
        if split.dropped_columns:
            print_line(
                f"{split.split}: columns left out of the side table, which has a limit: "
                f"{', '.join(split.dropped_columns)}"
            )

    # What is no split of a data version is for pretraining.
    steps = []
    files = {split.split: str(split.tsv) for split in imported if split.tsv is not None}
    if {"train", "test"} <= files.keys():
        folder = shlex.quote(str(Path(files["train"]).parent))
        steps.append(f"train on it: {typed(f'retrain --config fashion-products --data {folder}')}")

    command = ["ingest", "--name", "NAME"]
    for name in ("train", "valid", "test"):
        if name in files:
            command += [f"--{name}", files.pop(name)]
    if files:
        command += ["--pretrain", *files.values()]
    steps.append(f"make it a data version: {typed(shlex.join(command))}")
    print_next(steps)
