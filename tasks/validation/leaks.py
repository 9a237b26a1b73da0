"""What validation keeps of each split beside its profile: repeats, leaks and counts.

They are made once a data version. `<split>.repeats.parquet` and `<split>.leaks.parquet` name every
line, `<split>.duplicates.tsv` the first ten thousand of both for people, `<split>.counts.parquet`
is what drift is measured on. A seal records from which bytes they were made, and they are made
again when one of them changed. Two million lines take two minutes of one core beside eleven of
profiling.
"""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from model.pairs.drift import COUNTED_COLUMNS, counts_of
from model.pairs.near_duplicates import MAX_BITS, MAX_LEVELS, MAX_PLACE_LEVELS
from model.pairs.profile import profile_files, read_profile
from model.pairs.repeats import REPEATS_SCHEMA, Profiled, leaks, read_repeats, repeats
from model.pairs.splits import side_table_path
from model.storage.files import atomic_write, file_digest
from model.storage.tables import write_table
from tasks.validation.accepted import leaks_path, profile_path

COUNTS_SUFFIX = ".counts.parquet"
LISTED = 10_000
TEST = "test"


class ComparisonFiles(NamedTuple):
    """What is kept of a split, and the seal that records what it was made from."""

    repeats: Path
    leaks: Path
    counts: Path
    listed: Path
    seal: Path


class SplitWithProducts(NamedTuple):
    """A TSV of pairs with its side table, one row a line of it, or None."""

    tsv: Path
    products: pa.Table | None


def comparison_files(folder: Path, name: str) -> ComparisonFiles:
    """Return where the comparisons of a split lie in the folder of a data version."""
    return ComparisonFiles(
        folder / f"{name}.repeats.parquet",
        leaks_path(folder, name),
        folder / f"{name}{COUNTS_SUFFIX}",
        folder / f"{name}.duplicates.tsv",
        folder / f"{name}.comparisons.json",
    )


def compare_splits(folder: Path, splits: Mapping[str, SplitWithProducts]) -> None:
    """Write the comparisons of every split, unless these profiles and side tables led to them.

    Raises:
        DataError: a profile is damaged, or a TSV changed since it was profiled.
    """
    for name, split in splits.items():
        files = comparison_files(folder, name)

        # Everything that the comparisons of a split depend on.
        inputs = [profile_files(folder, name).words]
        for each in (name, TEST):
            inputs += [profile_path(folder, each), side_table_path(splits[each].tsv)]
        made_from = {
            "rules": [2, MAX_BITS, MAX_LEVELS, MAX_PLACE_LEVELS],
            "sha256": [file_digest(path) if path.exists() else None for path in inputs],
        }

        with suppress(OSError, ValueError):
            seal = json.loads(files.seal.read_bytes())
            if seal == {"made_from": made_from, "sha256": _digests(files)}:
                continue
        _compare(folder, name, split, splits[TEST], files)
        seal = {"made_from": made_from, "sha256": _digests(files)}
        with atomic_write(files.seal) as file:
            file.write(json.dumps(seal, indent=2).encode())


def kinds(table: pa.Table) -> dict[str, int]:
    """Return how many rows of repeats or leaks there are by kind."""
    return dict(sorted(Counter(table["kind"].to_pylist()).items()))


def first_repeats(folder: Path, name: str, most: int) -> list[dict[str, str]]:
    """Return the first leaks, then the first repeats of a split as rows of a table."""
    files = comparison_files(folder, name)
    return _listed(name, read_repeats(files.leaks), read_repeats(files.repeats), most)


def _compare(
    folder: Path,
    name: str,
    split: SplitWithProducts,
    test: SplitWithProducts,
    files: ComparisonFiles,
) -> None:
    here = _profiled(folder, name, split)
    there = _profiled(folder, TEST, test)
    repeated = repeats(here)
    leaked = REPEATS_SCHEMA.empty_table() if name == TEST else leaks(here, there)
    counts = counts_of(
        read_profile(here.profile, COUNTED_COLUMNS),
        pq.read_table(profile_files(folder, name).words),
        split.products,
    )
    write_table(repeated, files.repeats)
    write_table(leaked, files.leaks)
    write_table(counts, files.counts)

    # The list for people: the first lines of both tables.
    total, rows = len(repeated) + len(leaked), _listed(name, leaked, repeated, LISTED)
    with atomic_write(files.listed) as file:
        file.write(
            f"# {total:,} repeats, {len(rows):,} of them listed; leaks from test first\n".encode()
        )
        file.write(b"split\tline\trepeats\tof\tof line\n")
        file.writelines("\t".join(row.values()).encode() + b"\n" for row in rows)


def _listed(name: str, leaked: pa.Table, repeated: pa.Table, most: int) -> list[dict[str, str]]:
    rows = list[dict[str, str]]()
    for table, of_split in ((leaked, TEST), (repeated, name)):
        for row in table.slice(0, most - len(rows)).to_pylist():
            rows.append(
                {
                    "split": name,
                    "line": str(row["line"]),
                    "repeats": row["kind"],
                    "of": of_split,
                    "of line": str(row["of_line"]),
                }
            )
    return rows


def _profiled(folder: Path, name: str, split: SplitWithProducts) -> Profiled:
    profile, products = profile_path(folder, name), split.products
    # A table that is shorter or longer is refused by its own expectation; until then nobody knows
    # whose ids these are.
    if products is None or len(products) != pq.read_metadata(profile).num_rows:
        return Profiled(split.tsv, profile)
    return Profiled(split.tsv, profile, products["id"])


def _digests(files: ComparisonFiles) -> list[str]:
    return [file_digest(path) for path in files if path != files.seal]
