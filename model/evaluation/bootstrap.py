"""How sure a figure is: whole products drawn with replacement, and the gate's two paired proofs.

A product's captions and images succeed and fail together, so products (groups of captions and
images) are drawn, both directions at once; resampling the directions apart makes the interval of
mean recall up to 30 % too narrow (DECISIONS 11). `resample_groups` hands on how often each group is
drawn, as medians and figures of many values need it: 2,000 draws of 32,528 products take about a
second. Both models of a comparison answer the same queries, so it is the per-query difference
that is resampled, and groups with equal values are drawn together (how often each value occurs in a
draw is multinomial): 2,000 draws over the hits of 32,528 queries take 0.2 s; over as many values
that all differ, 9 s.

Shapes: Q queries, G groups, F figures, B draws at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from model.evaluation.retrieval import Direction, Floats, Ints, RetrievalResult

COUNTS_AT_ONCE = 2_000_000  # of 8 bytes: 16 MB, and as much again for their float copy


@dataclass(frozen=True)
class Interval:
    """A difference, new minus old, and its 95 % interval."""

    difference: float
    low: float
    high: float


def mean_recall_difference(
    new: RetrievalResult, old: RetrievalResult, draws: int, seed: int
) -> Interval:
    """Return the difference in mean recall of two models on the same split, and its interval.

    Raises:
        ValueError: the two were not measured on the same queries, or there are no draws.
    """
    sums_GF = np.concatenate(_paired_sums(new, old), axis=1)
    distinct, times = np.unique(sums_GF, axis=0, return_counts=True)
    generator, groups = np.random.default_rng(seed), len(sums_GF)

    def draw(rows: int) -> Floats:
        return generator.multinomial(groups, times / groups, rows) @ distinct

    sums = draw_in_blocks(draw, draws, len(distinct))
    means = (sums[:, 0] / sums[:, 1] + sums[:, 2] / sums[:, 3]) / 2
    return Interval(new.mean_recall - old.mean_recall, *interval_ends(means))


def exchanged_share(new: RetrievalResult, old: RetrievalResult, draws: int, seed: int) -> float:
    """Return how often the new model is as far ahead if a coin exchanges each product's results.

    Were the two models equally good, this share would be at most x in x of all cases, whatever the
    number and size of products; the bootstrap's interval, on few or uneven products, is a third too
    sure (DECISIONS 11).

    Raises:
        ValueError: as `mean_recall_difference`.
    """
    text, image = _paired_sums(new, old)
    weight_G = (text[:, 0] / text[:, 1].sum() + image[:, 0] / image[:, 1].sum()) / 2
    distinct, times = np.unique(np.abs(weight_G).round(12), return_counts=True)
    generator = np.random.default_rng(seed)

    def draw(rows: int) -> Floats:
        kept = generator.binomial(times, 0.5, (rows, len(distinct)))
        return cast("Floats", (2 * kept - times) @ distinct)

    lead = draw_in_blocks(draw, draws, len(distinct))
    # The observed order is one of the exchanges, so the share is never 0.
    return (1 + int((lead >= weight_G.sum() - 1e-9).sum())) / (1 + draws)


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


def _paired_sums(new: RetrievalResult, old: RetrievalResult) -> tuple[Floats, Floats]:
    """Return each group's summed difference in hits and its queries, [G, 2] a direction."""

    def sums(new: Direction, old: Direction) -> Floats:
        if not np.array_equal(new.group, old.group) or new.candidates != old.candidates:
            raise ValueError(
                f"the models answered different queries ({new.queries} among {new.candidates} "
                f"candidates, {old.queries} among {old.candidates}); "
                "evaluate both on the same split"
            )
        names, group_Q = np.unique(new.group, return_inverse=True)
        return group_sums((new.hits - old.hits)[:, None], group_Q, len(names))

    return sums(new.text_to_image, old.text_to_image), sums(new.image_to_text, old.image_to_text)
