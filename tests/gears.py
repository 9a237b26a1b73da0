"""The two gears of the suite.

`make test` is what a person runs while working: it touches every promise, and a proof that consists
of many equal rounds gets a few. `make test-all` sets TEST_ALL=1, which brings back all rounds and
the tests marked ``full``.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")

IS_FULL = os.environ.get("TEST_ALL") == "1"


def rounds(few: int, full: int) -> int:
    """Return how many rounds of one proof this gear runs."""
    return full if IS_FULL else few


def first_of(values: Sequence[T], few: int = 1) -> list[object]:
    """Return the values as parameters of a test; in `make test` only the first few run."""
    return [
        value if place < few else pytest.param(value, marks=pytest.mark.full)
        for place, value in enumerate(values)
    ]
