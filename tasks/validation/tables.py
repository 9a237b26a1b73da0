"""The tables of a data version that Great Expectations validates, and what each must satisfy.

Only numbers, flags, kinds and escaped sentences: whatever is in a table may reach a page.
"""

import html
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from model.config.sections import DataConfig
from model.pairs.profile import read_profile
from model.pairs.repeats import LEAK_KINDS, read_repeats
from tasks.runtime.records import SplitCounts
from tasks.validation.accepted import profile_path
from tasks.validation.drift import Drift
from tasks.validation.expectations import (
    NO_DRIFT,
    drift_expectations,
    side_table_expectations,
    split_expectations,
)
from tasks.validation.leaks import SplitWithProducts, comparison_files
from tasks.validation.suite import CheckedTable

VALIDATED_COLUMNS = ["caption_chars", "caption_words", "caption_script", "width", "height", "fault"]


def version_tables(
    folder: Path,
    splits: Mapping[str, SplitWithProducts],
    counts: list[SplitCounts],
    drift: Drift | None,
    limits: DataConfig,
) -> Iterator[CheckedTable]:
    """Yield every table with its expectations; splits first, because their sentences tell most."""
    for name in splits:
        yield CheckedTable(name, _split_frame(folder, name), list(split_expectations(name, limits)))

    for count in counts:
        products = splits[count.name].products
        if products is not None:
            # The columns that must have values: 1 where a row has one, null where it is empty.
            wanted = [
                name for name in ("id", *limits.side_table_columns) if name in products.column_names
            ]
            frame = pd.DataFrame(
                {
                    name: pc.not_equal(pc.utf8_trim_whitespace(products[name]), "")
                    .to_pandas()
                    .map({True: 1.0})
                    for name in wanted
                },
                index=range(len(products)),
            )
            expected = list(side_table_expectations(count.lines, limits))
            yield CheckedTable(f"{count.name}.products", frame, expected)

    # A row a column: how far it drifted and, over the limit, which it is, as safe HTML.
    if drift is not None:
        sentences = [
            html.escape(each.sentence()) if each.drift > limits.drift_warn else NO_DRIFT
            for each in drift.columns
        ]
        frame = pd.DataFrame(
            {"drift": [each.drift for each in drift.columns], "over_warn": sentences}
        )
        yield CheckedTable("drift", frame, list(drift_expectations(limits)))


def _split_frame(folder: Path, name: str) -> pd.DataFrame:
    """Return a row a line: facts, verdict, whether it repeats a pair, what it shares with test."""
    files = comparison_files(folder, name)
    frame: pd.DataFrame = read_profile(profile_path(folder, name), VALIDATED_COLUMNS).to_pandas()
    fault = frame.pop("fault")
    frame["verdict"] = fault.fillna("accepted").astype("category")
    frame["is_accepted"] = fault.isna().astype(np.int64)
    frame["is_duplicate"] = _flags(read_repeats(files.repeats), "pair", len(frame))

    leaks = read_repeats(files.leaks)
    for kind in LEAK_KINDS:
        frame[f"{kind}_in_test"] = _flags(leaks, kind, len(frame))
    return frame


def _flags(table: pa.Table, kind: str, lines: int) -> npt.NDArray[np.bool_]:
    flags = np.zeros(lines, dtype=np.bool_)
    flags[table.filter(pc.equal(table["kind"], kind))["line"].to_numpy() - 1] = True
    return flags
