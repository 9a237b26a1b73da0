"""What data must satisfy, each expectation with the sentence that a user reads when it fails.

The scripts of captions are validated, not their languages: of 7,583 English product titles two
language detectors took 57 and 55 % for English, at 1 to 4 ms a title.
"""

from collections.abc import Iterator
from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from model.config.sections import DataConfig

NO_DRIFT = "none"
MAX_LONG_SHARE = 0.1
LEAKS = {
    "image": "an image of test occurs here",
    "near_image": "an image here looks the same as one of test",
    "caption": "the words of a caption of test occur here",
    "product": "a product id of test occurs here",
}
REMEDY = "take it out or set data.on_leak=drop"
REMEDIES = {"caption": f"{REMEDY}, or data.on_leak.caption=allow where many images share a caption"}


def split_expectations(name: str, limits: DataConfig) -> Iterator[Expectation]:
    """Yield what a split's lines must satisfy, the most telling first."""
    # How many lines there are, and how many of them can be used.
    yield _row_count(1, "there is no line")
    yield _in_set(
        "verdict",
        ["accepted"],
        1 - limits.max_fault_share,
        f"too many faulty lines (data.max_fault_share is {limits.max_fault_share:.2%})",
    )
    for reason, share in limits.max_fault_share_by_reason.items():
        sentence = f"too many lines with {reason} (data.max_fault_share_by_reason is {share:.2%})"
        yield gxe.ExpectColumnValuesToNotBeInSet(
            column="verdict", value_set=[reason.value], mostly=1 - share, meta=_meta(sentence)
        )
    yield gxe.ExpectColumnSumToBeBetween(
        column="is_accepted",
        min_value=limits.min_rows,
        meta=_meta(f"fewer accepted pairs than data.min_rows ({limits.min_rows})"),
    )

    # What is in test, or in the split itself, already (DECISIONS 13).
    if name != "test":
        for kind in limits.on_leak.kinds("refuse"):
            sentence = f"test leaks: {LEAKS[kind]}; {REMEDIES.get(kind, REMEDY)}"
            yield _in_set(f"{kind}_in_test", [False], 1, sentence)
    yield _in_set(
        "is_duplicate",
        [False],
        1 - limits.max_duplicate_share,
        f"too many repeated pairs (data.max_duplicate_share is {limits.max_duplicate_share:.2%})",
    )

    yield from _caption_expectations(limits)
    for side in ("width", "height"):
        yield gxe.ExpectColumnValuesToBeBetween(
            column=side,
            min_value=limits.min_image_side,
            meta=_meta(
                f"an image's {side} is under data.min_image_side ({limits.min_image_side} px)"
            ),
        )


def side_table_expectations(lines: int, limits: DataConfig) -> Iterator[Expectation]:
    """Yield what the side table of a split of so many lines must satisfy."""
    yield _row_count(
        lines, f"the side table has not one row for each of the {lines:,} lines", lines
    )
    for column in dict.fromkeys(("id", *limits.side_table_columns)):
        yield gxe.ExpectColumnValuesToNotBeNull(
            column=column, meta=_meta(f"the side table has no {column} in a row; fill it in")
        )


def drift_expectations(limits: DataConfig) -> Iterator[Expectation]:
    """Yield what the drift of all columns must satisfy; the first is a warning."""
    yield _row_count(1, "no column could be compared with the reference")
    yield gxe.ExpectColumnValuesToBeInSet(
        column="over_warn",
        value_set=[NO_DRIFT],
        severity=FailureSeverity.WARNING,
        meta={**_meta(f"drift over data.drift_warn ({limits.drift_warn:g})"), "rows": "columns"},
    )
    if limits.max_drift is not None:
        yield gxe.ExpectColumnMaxToBeBetween(
            column="drift",
            max_value=limits.max_drift,
            meta=_meta(f"drift over data.max_drift ({limits.max_drift:g})"),
        )


def _caption_expectations(limits: DataConfig) -> Iterator[Expectation]:
    # A caption that is too long is kept and named; many of them are a mistake.
    bounds = (
        ("chars", None, limits.max_caption_chars, "more", "max"),
        ("words", None, limits.max_caption_words, "more", "max"),
        ("words", limits.min_caption_words, None, "less", "min"),
    )
    for unit, least, most, how, key in bounds:
        share = limits.max_fault_share if most is None else MAX_LONG_SHARE
        yield gxe.ExpectColumnValuesToBeBetween(
            column=f"caption_{unit}",
            min_value=least,
            max_value=most,
            mostly=1 - max(share, limits.max_fault_share),
            meta=_meta(
                f"captions of {how} than {least if most is None else most} {unit} "
                f"(data.{key}_caption_{unit})"
            ),
        )

    if limits.scripts:
        yield _in_set(
            "caption_script",
            list(limits.scripts),
            limits.min_script_share,
            f"too many captions in other scripts than {', '.join(limits.scripts)} "
            f"(data.min_script_share is {limits.min_script_share:.2%})",
        )


def _row_count(least: int, sentence: str, most: int | None = None) -> Expectation:
    return gxe.ExpectTableRowCountToBeBetween(min_value=least, max_value=most, meta=_meta(sentence))


def _in_set(column: str, values: list[Any], mostly: float, sentence: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=values, mostly=mostly, meta=_meta(sentence)
    )


def _meta(sentence: str) -> dict[str, str]:
    return {"sentence": sentence}
