"""Drift is found where shares moved and not where chance moved them."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError
from model.pairs.drift import (
    COUNTS_SCHEMA,
    MIN_EXPECTED,
    NONE,
    OTHER,
    TOP_VALUES,
    added,
    column_drift,
    counts_of,
    drift,
    read_counts,
)
from model.storage.tables import write_table
from tests.gears import rounds

Counts = dict[str, int]


def slow_psi(before: Counts, after: Counts) -> float:
    """The index as it is written down, with rare values put together and half a count added."""
    n, m = sum(before.values()), sum(after.values())
    together: dict[str, list[int]] = {}
    for value in sorted({*before, *after}):
        old, new = before.get(value, 0), after.get(value, 0)
        is_rare = (old / n + new / m) / 2 * min(n, m) < MIN_EXPECTED
        cell = together.setdefault("rare" if is_rare else f"value {value}", [0, 0])
        cell[0] += old
        cell[1] += new
    total = 0.0
    for old, new in together.values():
        p = (old + 0.5) / (n + 0.5 * len(together))
        q = (new + 0.5) / (m + 0.5 * len(together))
        total += (q - p) * math.log(q / p)
    return total


counts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 300), min_size=1).filter(
    lambda values: sum(values.values()) > 0
)


@given(counts, counts)
@settings(deadline=None, max_examples=rounds(30, 100))
def test_the_index_is_the_one_that_is_written_down(before: Counts, after: Counts) -> None:
    found = column_drift("colour", before, after)
    assert found.psi == pytest.approx(slow_psi(before, after), rel=1e-9, abs=1e-12)
    assert column_drift("colour", after, before).psi == pytest.approx(
        found.psi, rel=1e-9, abs=1e-12
    )
    assert column_drift("colour", before, before).psi == 0


@pytest.mark.parametrize(("n", "m"), [(200, 200), (300, 5000), (20_000, 3000)])
def test_two_draws_of_one_distribution_drift_in_less_than_one_of_a_hundred_columns(
    n: int, m: int
) -> None:
    rng = np.random.default_rng(n)
    flagged = 0
    for values in [2, 5, 12, 40, 150] * 80:
        shares = rng.dirichlet(np.full(values, 0.5))
        draws = (rng.multinomial(size, shares).tolist() for size in (n, m))
        flagged += (
            column_drift(
                "colour", *({str(v): c for v, c in enumerate(draw)} for draw in draws)
            ).excess
            > 0
        )
    assert flagged <= 4


@pytest.mark.parametrize("n", [1000, 100_000])
def test_a_shift_of_a_third_of_the_rows_is_drift_and_names_what_moved(n: int) -> None:
    rng = np.random.default_rng(n)
    values = ["red", "blue", "green", "black", "white"]
    before = dict(zip(values, rng.multinomial(n, [0.1, 0.2, 0.3, 0.2, 0.2]).tolist(), strict=True))
    after = dict(zip(values, rng.multinomial(n, [0.4, 0.2, 0.1, 0.2, 0.1]).tolist(), strict=True))
    found = column_drift("colour", before, after)
    assert found.excess > 0.25
    assert found.movers[0].value == "red"
    assert found.movers[0].before == before["red"] / n and found.movers[0].after == after["red"] / n


def test_a_value_that_is_new_or_gone_is_drift() -> None:
    assert column_drift("format", {"JPEG": 900}, {"JPEG": 500, "WEBP": 400}).excess > 0.5
    assert column_drift("format", {"JPEG": 500, "WEBP": 400}, {"JPEG": 900}).excess > 0.5


def test_values_that_one_side_cut_off_are_not_taken_for_new_ones() -> None:
    before = {f"brand {n}": 100 for n in range(200)} | {OTHER: 10_000}
    after = (
        {f"brand {n}": 100 for n in range(190)}
        | {f"other {n}": 100 for n in range(10)}
        | {OTHER: 10_000}
    )
    assert column_drift("brand", before, after).psi == pytest.approx(0)


def profile_of(lines: int, **columns: list[object]) -> pa.Table:
    values: dict[str, list[object]] = {
        "caption_chars": [20] * lines,
        "caption_words": [4] * lines,
        "width": [224] * lines,
        "height": [300] * lines,
        "image_bytes": [5000] * lines,
        "caption_script": ["latin"] * lines,
        "image_format": ["JPEG"] * lines,
        "mode": ["RGB"] * lines,
        "fault": [None] * lines,
    }
    return pa.table(values | columns)


WORDS = pa.table({"word": ["red", "dress"], "count": [3, 4]})


def as_dict(table: pa.Table) -> dict[tuple[str, str], int]:
    return {(row["column"], row["value"]): row["count"] for row in table.to_pylist()}


def test_accepted_lines_are_counted_in_bins_and_by_value() -> None:
    profile = profile_of(4, fault=[None, "bad_base64", None, None], width=[224, 7, 256, 223])
    products = pa.table({"id": list("abcd"), "colour": ["red", "blue", "", "red"]})
    counted = as_dict(counts_of(profile, WORDS, products))
    assert {
        key: count
        for key, count in counted.items()
        if key[0] in ("width", "caption_words", "words")
    } == {
        ("width", "216–255"): 2,
        ("width", "256–304"): 1,
        ("caption_words", "4"): 3,
        ("words", "dress"): 4,
        ("words", "red"): 3,
    }
    assert counted["products.colour", "red"] == 2 and counted["products.colour", NONE] == 1
    assert not any(column == "products.id" for column, _ in counted)


def test_a_column_of_many_values_keeps_the_frequent_ones_and_the_number_of_the_rest() -> None:
    titles = [f"title {n}" for n in range(500)] + ["dress"] * 10
    products = pa.table({"id": titles, "title": titles})
    found = [
        row
        for row in counts_of(profile_of(510), WORDS, products).to_pylist()
        if row["column"] == "products.title"
    ]
    assert len(found) == TOP_VALUES + 1
    assert found[0] == {"column": "products.title", "value": "dress", "count": 10}
    assert sum(row["count"] for row in found) == 510


def test_no_line_at_all_is_counted_without_a_word() -> None:
    nothing = counts_of(profile_of(3, fault=["no_tab"] * 3), WORDS.slice(0, 0), None)
    assert nothing.schema.equals(COUNTS_SCHEMA) and len(nothing) == 0


def test_a_column_that_is_gone_drifts_and_a_new_one_has_nothing_to_be_compared_with() -> None:
    products = pa.table({"id": ["x"] * 90, "colour": ["red"] * 45 + ["blue"] * 45})
    with_colour, without = (
        counts_of(profile_of(90), WORDS, table) for table in (products, products.select(["id"]))
    )
    gone = {each.column: each for each in drift(with_colour, without)}
    assert gone["products.colour"].excess > 1
    assert all(each.psi == 0 for name, each in gone.items() if name != "products.colour")
    assert "products.colour" not in {each.column for each in drift(without, with_colour)}


def test_counts_of_parts_add_up() -> None:
    part = counts_of(profile_of(5), WORDS, None)
    twice = added([part, part])
    assert as_dict(twice.rename_columns(COUNTS_SCHEMA.names)) == {
        key: 2 * n for key, n in as_dict(part).items()
    }
    assert all(each.psi < 0.01 for each in drift(twice, added([part, part, part])))


def test_damaged_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.counts.parquet"
    counted = counts_of(profile_of(5), WORDS, None)
    write_table(counted, path)
    assert read_counts(path).equals(counted)
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="missing or damaged"):
        read_counts(path)
    with pytest.raises(DataError, match="missing or damaged"):
        read_counts(tmp_path / "none.parquet")
