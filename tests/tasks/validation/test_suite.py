"""Nothing passes because nothing was looked at, and no foreign text acts on a page."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.config.sections import DataConfig
from model.errors import DataError, FaultReason
from tasks.validation.expectations import (
    drift_expectations,
    side_table_expectations,
    split_expectations,
)
from tasks.validation.suite import CheckedTable, Verdict, validate_tables

LINES = 40
Validate = Callable[..., Verdict]


def good(lines: int = LINES) -> pd.DataFrame:
    flags = {name: np.zeros(lines, bool) for name in ("image", "near_image", "caption", "product")}
    return pd.DataFrame(
        {
            "caption_chars": np.full(lines, 20.0),
            "caption_words": np.full(lines, 4.0),
            "caption_script": ["latin"] * lines,
            "width": np.full(lines, 224.0),
            "height": np.full(lines, 224.0),
            "verdict": ["accepted"] * lines,
            "is_accepted": np.ones(lines, np.int64),
            "is_duplicate": np.zeros(lines, bool),
            **{f"{name}_in_test": values for name, values in flags.items()},
        }
    )


@pytest.fixture(autouse=True)
def fast(without_pages: None) -> None:
    """No test here looks at a page."""


@pytest.fixture
def validate(tmp_path: Path) -> Validate:
    """Validate one split's table by the limits that are given."""

    def run(frame: pd.DataFrame, name: str = "train", **limits: object) -> Verdict:
        expected = list(split_expectations(name, DataConfig.model_validate(limits)))
        return validate_tables([CheckedTable(name, frame, expected)], tmp_path / "docs")

    return run


def test_one_long_caption_among_many_stops_nothing(validate: Validate) -> None:
    assert validate(spoiled(caption_chars=(1, 9000.0), caption_words=(1, 900.0))).failures == []


def test_a_good_table_passes(validate: Validate) -> None:
    verdict = validate(good(), scripts=("latin",))
    assert verdict.failures == verdict.warnings == []
    assert verdict.expectations == 14


@pytest.mark.faults
def test_an_empty_table_fails(validate: Validate) -> None:
    assert validate(good(0)).failures[0].startswith("train: there is no line")


@pytest.mark.faults
@pytest.mark.parametrize("column", sorted(good().columns.drop("caption_script")))
def test_a_missing_column_fails(validate: Validate, column: str) -> None:
    failures = validate(good().drop(columns=column)).failures
    assert any("could not be checked" in sentence and column in sentence for sentence in failures)


@pytest.mark.faults
@pytest.mark.parametrize(
    "column", ["caption_chars", "width", "verdict", "is_duplicate", "image_in_test", "is_accepted"]
)
def test_a_column_without_a_value_fails(validate: Validate, column: str) -> None:
    frame = good()
    frame[column] = None
    assert validate(frame).failures


@pytest.mark.faults
def test_an_exception_inside_a_metric_fails(validate: Validate) -> None:
    frame = good()
    frame["caption_chars"] = ["twenty"] * LINES
    assert any("could not be checked" in sentence for sentence in validate(frame).failures)


@pytest.mark.faults
def test_nothing_to_validate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to validate"):
        validate_tables([], tmp_path / "docs")


def spoiled(**columns: tuple[int, object]) -> pd.DataFrame:
    """A good table with the first n values of some columns replaced."""
    frame = good()
    for name, (lines, value) in columns.items():
        frame[name] = [value] * lines + frame[name].tolist()[lines:]
    return frame


@pytest.mark.parametrize(
    ("frame", "limits", "sentence"),
    [
        (spoiled(verdict=(2, "no_tab")), {}, r"too many faulty lines .*1.00%\) \(2 of 40 lines\)"),
        (
            spoiled(verdict=(2, "no_tab")),
            {"max_fault_share": 0.5, "max_fault_share_by_reason": {FaultReason.NO_TAB: 0.01}},
            r"too many lines with no_tab .*\(2 of 40 lines\)",
        ),
        (
            spoiled(is_accepted=(39, 0)),
            {},
            r"fewer accepted pairs than data.min_rows \(2\) \(found 1\)",
        ),
        (
            spoiled(image_in_test=(1, True)),
            {},
            r"test leaks: an image of test occurs here.*\(1 of 40 lines\)",
        ),
        (
            spoiled(near_image_in_test=(1, True)),
            {},
            "test leaks: an image here looks the same as one of test",
        ),
        (spoiled(caption_in_test=(1, True)), {}, "test leaks: the words of a caption of test"),
        (spoiled(product_in_test=(1, True)), {}, "test leaks: a product id of test"),
        (spoiled(is_duplicate=(13, True)), {}, "too many repeated pairs"),
        (spoiled(caption_chars=(5, 2000.0)), {}, "captions of more than 1000 chars"),
        (spoiled(caption_words=(5, 201.0)), {}, "captions of more than 200 words"),
        (
            spoiled(caption_words=(1, 1.0)),
            {"min_caption_words": 2},
            r"captions of less than 2 words \(data.min_caption_words\) \(1 of 40 lines\)",
        ),
        (
            spoiled(caption_script=(5, "cjk")),
            {"scripts": ("latin",)},
            r"other scripts than latin .*\(5 of 40 lines\)",
        ),
        (spoiled(height=(1, 8.0)), {}, "an image's height is under data.min_image_side"),
    ],
)
def test_each_limit_has_its_sentence(
    validate: Validate, frame: pd.DataFrame, limits: dict[str, object], sentence: str
) -> None:
    (failure,) = validate(frame, **limits).failures
    assert re.search(sentence, failure)


def test_within_a_limit_nothing_fails(validate: Validate) -> None:
    frame = spoiled(
        verdict=(2, "no_tab"),
        caption_script=(4, "cjk"),
        is_duplicate=(12, True),
        image_in_test=(3, True),
    )
    limits = {"max_fault_share_by_reason": {FaultReason.BAD_BASE64: 0}, "max_fault_share": 0.05}
    assert validate(frame, scripts=("latin",), on_leak="drop", **limits).failures == []


def test_leaks_are_looked_for_everywhere_but_in_test(validate: Validate) -> None:
    frame = spoiled(image_in_test=(1, True))
    assert validate(frame, "valid").failures and validate(frame, "pretrain-a").failures
    assert not validate(frame, "test").failures


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (
            pd.DataFrame({"id": [1.0] * 3, "category": [1.0] * 3}),
            "not one row for each of the 4 lines",
        ),
        (
            pd.DataFrame({"id": [1.0, None, 1.0, 1.0], "category": [1.0] * 4}),
            r"no id in a row.*\(1 of 4 lines\)",
        ),
        (pd.DataFrame({"id": [1.0] * 4, "category": [None] * 4}), "no category in a row"),
        (pd.DataFrame({"id": [1.0] * 4}), "could not be checked"),
    ],
)
def test_a_side_table_must_fit_its_lines_and_have_its_columns(
    frame: pd.DataFrame, sentence: str, tmp_path: Path
) -> None:
    expected = list(side_table_expectations(4, DataConfig(side_table_columns=("category",))))
    failures = validate_tables(
        [CheckedTable("train.products", frame, expected)], tmp_path / "docs"
    ).failures
    assert any(re.search(sentence, failure) for failure in failures)


def test_drift_is_a_warning_until_a_limit_makes_it_a_failure(tmp_path: Path) -> None:
    frame = pd.DataFrame({"drift": [0.0, 0.3], "over_warn": ["none", "train colour: 0.300"]})
    for max_drift, failures in ((None, 0), (0.25, 1), (0.5, 0)):
        expected = list(drift_expectations(DataConfig(max_drift=max_drift)))
        verdict = validate_tables([CheckedTable("drift", frame, expected)], tmp_path / "docs")
        assert verdict.warnings == ["drift: drift over data.drift_warn (0.1) (1 of 2 columns)"]
        assert len(verdict.failures) == failures
    empty = [CheckedTable("drift", frame.iloc[:0], list(drift_expectations(DataConfig())))]
    assert validate_tables(empty, tmp_path / "docs").failures
