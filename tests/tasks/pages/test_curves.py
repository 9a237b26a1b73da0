"""A drawn panel holds the values that it was given, where they belong."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tasks.pages.curves import FRAME, Curve, draw_panel

FLOATS = st.floats(-1e30, 1e30, allow_subnormal=False)


@given(st.dictionaries(st.integers(0, 10**9), FLOATS, min_size=1, max_size=30))
def test_every_step_has_a_strip_and_they_cover_the_panel_without_gaps(
    points: dict[int, float],
) -> None:
    panel = draw_panel("loss", [Curve("loss", list(points), list(points.values()))])
    assert panel is not None
    assert [row[0] for row in panel.rows] == [f"{step:,}" for step in sorted(points)]

    assert panel.strips[0].left == FRAME.left
    for strip, following in zip(panel.strips, panel.strips[1:], strict=False):
        assert strip.left <= strip.place <= following.place
        assert math.isclose(strip.left + strip.width, following.left, abs_tol=1e-9)
    last = panel.strips[-1]
    assert math.isclose(last.left + last.width, FRAME.width - FRAME.right, abs_tol=1e-9)


def test_greater_values_are_drawn_higher_and_ticks_are_round() -> None:
    panel = draw_panel("loss", [Curve("loss", [0, 5, 10], [1.0, 2.0, 3.0])])
    assert panel is not None
    assert panel.paths == [("loss", "M52.0 224.0L241.0 141.0L430.0 58.0")]
    assert [tick.label for tick in panel.across] == ["0", "2", "4", "6", "8", "10"]
    assert panel.upward[0].place > panel.upward[-1].place


def test_curves_of_different_steps_share_a_panel_and_leave_gaps_in_its_table() -> None:
    panel = draw_panel("loss", [Curve("a", [1, 2], [0.5, 0.25]), Curve("b", [2], [7.0])])
    assert panel is not None
    assert panel.rows == [["1", "0.5", ""], ["2", "0.25", "7"]]
    assert panel.strips[0].says == "step 1: a 0.5"


def test_what_is_not_finite_is_not_drawn() -> None:
    assert draw_panel("loss", [Curve("loss", [1], [math.nan])]) is None
    panel = draw_panel("loss", [Curve("loss", [1, 2, 3], [1.0, math.inf, 2.0])])
    assert panel is not None
    assert [row[0] for row in panel.rows] == ["1", "3"]
