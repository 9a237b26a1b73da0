"""How sure a figure is: whole products drawn with replacement.

A product's captions and images succeed and fail together, so products (groups of captions and
images) are drawn, both directions at once; resampling the directions apart makes the interval of
mean recall up to 30 % too narrow. `resample_groups` hands on how often each group is drawn, as
medians and figures of many values need it: 2,000 draws of 32,528 products take about a second.
Whether a model is better than another is for `model.evaluation.exchange`.

Shapes: Q queries, G groups, F figures, B draws at a time.
"""

from collections.abc import Callable

import numpy as np

from model.evaluation.retrieval import Floats, Ints

COUNTS_AT_ONCE = 2_000_000  # of 8 bytes: 16 MB, and as much again for their float copy


def draw_in_blocks(draw: Callable[[int], Floats], draws: int, width: int) -> Floats:
    """Return the results of ``draws`` draws, which ``draw`` makes a block at a time.

    A block has at most `COUNTS_AT_ONCE` counts, ``width`` a draw.
    """
    if draws < 1 or width < 1:
        raise ValueError(f"{draws} draws from {width} values; need at least one of each")
    at_once = max(1, COUNTS_AT_ONCE // width)
    return np.concatenate([draw(min(at_once, draws - done)) for done in range(0, draws, at_once)])


def resample_groups(
    values_of: Callable[[Floats], Floats], groups: int, draws: int, seed: int
) -> Floats:
    """Return ``values_of`` how often each of G groups is drawn in G draws with replacement.

    ``values_of`` takes counts, float64 [B, G], and returns [B, …]; the result is [draws, …].
    """
    generator = np.random.default_rng(seed)

    def draw(rows: int) -> Floats:
        drawn = generator.integers(0, groups, (rows, groups)) + groups * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        return values_of(counts.astype(np.float64))

    return draw_in_blocks(draw, draws, groups)


def group_sums(values_QF: Floats, group_Q: Ints, groups: int) -> Floats:
    """Return each figure's sum over a group's queries and, last, their number, [G, F + 1]."""
    columns = [*values_QF.T, np.ones(len(values_QF))]
    return np.stack([np.bincount(group_Q, each, minlength=groups) for each in columns], axis=1)


def interval_ends(resampled: Floats) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval of resampled values."""
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(high)
