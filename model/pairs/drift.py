"""Whether two data versions are alike: shares of values before and after, column by column.

A split is kept as a table of counts (column, value, count) of a few thousand rows, so that a
version can be compared long after its pairs are gone. Numbers are counted in bins, four an octave;
words and columns of the side table by their most frequent values. The measure is the population
stability index; beside it stands the index that 999 of 1,000 columns without any drift stay under,
because no two draws of 200 lines are alike. A comparison takes milliseconds, counting two
million lines about 6 s.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.storage.tables import read_table

COUNTS_SCHEMA = pa.schema({"column": pa.string(), "value": pa.string(), "count": pa.int64()})
NUMBER_COLUMNS = ("caption_chars", "caption_words", "width", "height", "image_bytes")
LABEL_COLUMNS = ("caption_script", "image_format", "mode")
COUNTED_COLUMNS = [*NUMBER_COLUMNS, *LABEL_COLUMNS, "fault"]
WORDS, PRODUCTS = "words", "products."
TOP_WORDS, TOP_VALUES, MAX_VALUE_CHARS = 5000, 200, 80
OTHER, NONE, RARE = "(other)", "(none)", "(rare)"
# 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, … up to 2^40.
EDGES = np.unique([0, *(math.ceil(2 ** (quarter / 4)) for quarter in range(161))])
# A value that is expected fewer times than this in the smaller of two samples counts as rare.
MIN_EXPECTED = 5


@dataclass(frozen=True)
class Mover:
    """A value with its shares before and after, 0 to 1."""

    value: str
    before: float
    after: float

    def __str__(self) -> str:
        """Return ``red 10.0% → 20.0%``."""
        return f"{self.value} {self.before:.1%} → {self.after:.1%}"


class ColumnDrift(NamedTuple):
    """How far the shares of a column moved: the index, that of chance, and what moved most."""

    column: str
    psi: float
    noise: float
    movers: tuple[Mover, ...]

    @property
    def excess(self) -> float:
        """The index above what chance alone gives; 0 where that explains all of it."""
        return max(0.0, self.psi - self.noise)


def counts_of(profile: pa.Table, words: pa.Table, products: pa.Table | None) -> pa.Table:
    """Count the values of a split's accepted lines: rows of ``COUNTS_SCHEMA``.

    ``profile`` has ``COUNTED_COLUMNS`` and a row a line, ``words`` the columns ``word`` and
    ``count``, ``products`` is the side table, a row a line; its column ``id`` is not counted.
    """
    accepted = pc.is_null(profile["fault"])
    kept = profile.filter(accepted)
    counts = {name: _binned(kept[name]) for name in NUMBER_COLUMNS}
    counts |= {name: _top(kept[name]) for name in LABEL_COLUMNS}

    order = words.sort_by([("count", "descending"), ("word", "ascending")])
    frequencies = dict(zip(order["word"].to_pylist(), order["count"].to_pylist(), strict=True))
    counts[WORDS] = _cut(frequencies, TOP_WORDS)

    if products is not None and len(products) == len(profile):
        table = products.filter(accepted)
        counts |= {
            PRODUCTS + name: _top(table[name]) for name in table.column_names if name != "id"
        }

    rows = [
        {"column": column, "value": value, "count": count}
        for column, values in counts.items()
        for value, count in values.items()
    ]
    return pa.Table.from_pylist(rows, schema=COUNTS_SCHEMA)


def read_counts(path: Path) -> pa.Table:
    """Return the counts that `model.storage.tables.write_table` left.

    Raises:
        DataError: they are missing or damaged.
    """
    return read_table(path, COUNTS_SCHEMA)


def added(parts: list[pa.Table]) -> pa.Table:
    """Return the counts of several splits together."""
    together = pa.concat_tables(parts)
    return together.group_by(["column", "value"], use_threads=False).aggregate([("count", "sum")])


def drift(reference: pa.Table, current: pa.Table) -> list[ColumnDrift]:
    """Return the drift of every column of the reference, farthest above chance first.

    A column that is gone has the one value ``(none)``; a new one has nothing to be compared with.
    """
    before, after = _by_column(reference), _by_column(current)
    totals = [sum(values.values()) for name, values in after.items() if name != WORDS]
    gone = {NONE: max(totals, default=0)}

    found = [column_drift(name, values, after.get(name, gone)) for name, values in before.items()]
    return sorted(found, key=lambda each: (-each.excess, -each.psi, each.column))


def column_drift(column: str, before: Mapping[str, int], after: Mapping[str, int]) -> ColumnDrift:
    """Return the population stability index of two counts of values.

    The index is the sum over values of (q - p) ln(q / p), p and q the shares before and after. Half
    a count is added to each value, so that one that came or went has a finite weight. Without drift
    the index follows chi-square with B - 1 degrees of freedom, times 1/n + 1/m, for B values of n
    and m rows. Source: B. Yurdakul, Statistical Properties of Population Stability Index (2018).
    """
    # What one side counts, the other may have counted among its rest.
    cut_off = {
        value
        for one, other in ((before, after), (after, before))
        if OTHER in other
        for value in one.keys() - other.keys()
    }
    before, after = _merged(before, cut_off, OTHER), _merged(after, cut_off, OTHER)

    # Values too rare to be compared by themselves are compared together.
    n, m = (max(1, sum(counts.values())) for counts in (before, after))
    rare = {
        value
        for value in before.keys() | after.keys()
        if (before.get(value, 0) / n + after.get(value, 0) / m) / 2 * min(n, m) < MIN_EXPECTED
    }
    before, after = _merged(before, rare, RARE), _merged(after, rare, RARE)

    values = sorted(before.keys() | after.keys())
    halves = [np.array([side.get(value, 0) + 0.5 for value in values]) for side in (before, after)]
    p, q = (each / max(each.sum(), 0.5) for each in halves)
    terms = (q - p) * np.log(q / p)

    noise = (1 / n + 1 / m) * _chi_square(len(values) - 1)
    movers = tuple(
        Mover(values[row], before.get(values[row], 0) / n, after.get(values[row], 0) / m)
        for row in np.argsort(-terms, kind="stable")[:3]
        if terms[row] > 0
    )
    return ColumnDrift(column, float(terms.sum()), noise, movers)


def _binned(column: pa.ChunkedArray) -> dict[str, int]:
    """Count the numbers of a column in bins that are named by what they hold: ``3``, ``10–11``."""
    bins = np.searchsorted(EDGES, column.drop_null().to_numpy(), "right") - 1
    used, counts = np.unique(bins, return_counts=True)
    highest = EDGES[np.minimum(used + 1, len(EDGES) - 1)] - 1
    return {
        f"{low}" if high <= low else f"{low}–{high}": int(count)
        for low, high, count in zip(EDGES[used], highest, counts, strict=True)
    }


def _top(column: pa.ChunkedArray) -> dict[str, int]:
    """Count the most frequent values of a text column; an empty one is none."""
    values = pc.utf8_slice_codeunits(column.fill_null(""), 0, MAX_VALUE_CHARS)
    counted = {row["values"] or NONE: row["counts"] for row in pc.value_counts(values).to_pylist()}
    return _cut(dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))), TOP_VALUES)


def _cut(counts: dict[str, int], most: int) -> dict[str, int]:
    """Keep the first values and put the rest together."""
    names = list(counts)
    rest = sum(counts[name] for name in names[most:])
    kept = {name: counts[name] for name in names[:most]}
    return kept | {OTHER: kept.get(OTHER, 0) + rest} if rest else kept


def _by_column(counts: pa.Table) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in counts.rename_columns(COUNTS_SCHEMA.names).to_pylist():
        found.setdefault(row["column"], {})[row["value"]] = row["count"]
    return found


def _merged(counts: Mapping[str, int], values: set[str], name: str) -> dict[str, int]:
    kept = {value: count for value, count in counts.items() if value not in values}
    if values:
        kept[name] = kept.get(name, 0) + sum(counts.get(value, 0) for value in values)
    return kept


def _chi_square(freedom: int) -> float:
    """Return the quantile of chi-square that 999 of 1,000 draws stay under, within 2 %.

    Source: E. B. Wilson and M. M. Hilferty, The Distribution of Chi-Square (1931).
    """
    if freedom <= 0:
        return 0.0
    # 3.0902 is the normal deviate that 999 of 1,000 draws stay under.
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.0902 * math.sqrt(spread)) ** 3
