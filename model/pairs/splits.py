"""Where the splits lie in a data folder, and the side tables beside them.

No line of a TSV is read here.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from model.errors import DataError

WHOLE_FLOAT = r"^(0|-?[1-9][0-9]*)\.0+$"


@dataclass(frozen=True)
class Splits:
    """The TSV files of a data folder; ``valid`` is None where it must be carved out of train."""

    pretrain: tuple[Path, ...]
    train: Path
    valid: Path | None
    test: Path


def find_split_files(folder: Path) -> Splits:
    """Find the TSV files of a data folder in either layout; pretraining files are sorted by name.

    Raises:
        DataError: the folder, train.tsv or test.tsv is missing.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder of pairs; pull the data version or set data.path"
        )

    nested = folder / "finetune"
    home = nested if nested.is_dir() else folder
    missing = [name for name in ("train.tsv", "test.tsv") if not (home / name).exists()]
    if missing:
        raise DataError(
            f"{home}: no {' and no '.join(missing)}; expected pretrain/*.tsv with "
            "finetune/train.tsv, valid.tsv and test.tsv, or these three in the folder itself "
            "(valid.tsv may be absent)"
        )

    valid = home / "valid.tsv"
    return Splits(
        pretrain=tuple(sorted((folder / "pretrain").glob("*.tsv"))) if home is nested else (),
        train=home / "train.tsv",
        valid=valid if valid.exists() else None,
        test=home / "test.tsv",
    )


def side_table_path(tsv: Path) -> Path:
    """Return ``train.products.csv`` for ``train.tsv``, in the same folder."""
    return tsv.with_name(f"{tsv.stem}.products.csv")


def read_side_table(tsv: Path, required: bool, lines: int | None = None) -> pa.Table | None:
    """Return the table beside a TSV, a row a line of it, or None where there is none.

    Every column is text; ``NA`` stays ``NA``.

    Raises:
        DataError: it is missing though required, unreadable, without an ``id`` column, or not of
            ``lines`` rows.
    """
    path = side_table_path(tsv)
    if not path.exists():
        if required:
            raise DataError(
                f"{path}: no side table; put it beside {tsv.name} "
                "or set data.require_side_table=false"
            )
        return None

    try:
        table = csv.read_csv(
            path,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                default_column_type=pa.string(), strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a UTF-8 CSV with a header ({str(error).splitlines()[0]}); write it again"
        ) from error

    if table.column_names.count("id") != 1:
        raise DataError(
            f"{path}: needs one column named id, found {', '.join(table.column_names)}; "
            "repair its header"
        )
    if lines is not None and len(table) != lines:
        raise DataError(
            f"{path}: {len(table):,} rows for the {lines:,} lines of {tsv.name}; "
            "write one row a line"
        )
    return table


def canonical_ids(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bring product ids into the form by which they are compared: null where one is empty.

    Blanks at the ends go, and a whole float is its number (``1000.0`` is 1000: pandas writes
    numbers so beside a gap). Leading zeros stay, because ``007`` may be another product than 7.
    """
    plain = pc.replace_substring_regex(
        pc.utf8_trim_whitespace(ids), pattern=WHOLE_FLOAT, replacement=r"\1"
    )
    return pc.if_else(pc.equal(plain, ""), None, plain)


def product_ids(table: pa.Table) -> list[str]:
    """List the canonical product id of each row of a side table; empty where there is none."""
    return [product or "" for product in canonical_ids(table["id"]).to_pylist()]


def are_floats(ids: pa.ChunkedArray) -> bool:
    """Decide whether the ids, those that there are, all look like whole floats."""
    known = pc.utf8_trim_whitespace(ids).filter(pc.not_equal(ids, ""))
    return len(known) > 0 and bool(pc.all(pc.match_substring_regex(known, WHOLE_FLOAT)).as_py())
