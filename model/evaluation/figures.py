"""Ranks and hits as figures: each with its 95 % interval, and with the value if ties went to the
model beside it.

Intervals are percentiles of a seeded bootstrap over whole products (`model.evaluation.bootstrap`).
2,000 draws over 32,528 products take about five seconds for all figures of a protocol.

Shapes: Q queries, G groups, F figures, B draws at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.evaluation.bootstrap import group_sums, interval_ends, resample_groups
from model.evaluation.retrieval import (
    DIRECTIONS,
    RANK_AT,
    Direction,
    Floats,
    Ints,
    RetrievalResult,
)

FIGURES = (*(f"rank_at_{k}" for k in RANK_AT), "mrr", "median_rank")


@dataclass(frozen=True)
class Figure:
    """A measured value and its 95 % interval.

    ``optimistic`` is the value if every tie went to the model.
    """

    value: float
    low: float
    high: float
    optimistic: float | None = None


def measure(
    result: RetrievalResult, groups: tuple[Ints, Ints], draws: int, seed: int
) -> dict[str, Figure]:
    """Measure a result: its figures by name, each with its interval.

    They are ``mean_recall`` and, for each direction, ``text_to_image_rank_at_1``, …,
    ``_median_rank`` and ``_mrr``. ``groups`` says which product each caption and each image belongs
    to, int64 [Q] each.
    """
    sides = [getattr(result, name) for name in DIRECTIONS]
    names, group = np.unique(np.concatenate(groups), return_inverse=True)
    drawn = [
        _resampled_side(side, part, len(names), draws, seed)
        for side, part in zip(sides, np.split(group, [len(groups[0])]), strict=True)
    ]

    # Ranks as they are, and as they were if every tie went to the model.
    now = [_side_values(side.ranks) for side in sides]
    then = [_side_values(side.ranks - side.tied) for side in sides]

    recall = np.mean([values[:, : len(RANK_AT)] for values in drawn], axis=(0, 2))
    best = np.mean([values[: len(RANK_AT)] for values in then])
    return {"mean_recall": _figure(result.mean_recall, recall, float(best))} | {
        f"{name}_{key}": _figure(now[side][place], drawn[side][:, place], then[side][place])
        for side, name in enumerate(DIRECTIONS)
        for place, key in enumerate(FIGURES)
    }


def figures_of(
    values: Mapping[str, Floats], group_Q: Ints, draws: int, seed: int
) -> dict[str, Figure]:
    """Return the mean of each kind of value over the queries, [Q] each, with its interval.

    Groups of queries are resampled.
    """
    names, group = np.unique(group_Q, return_inverse=True)
    sums_GF = group_sums(np.column_stack([*values.values()]), group, len(names))
    sums = resample_groups(lambda counts_BG: counts_BG @ sums_GF, len(names), draws, seed)
    means = sums[:, :-1] / sums[:, -1:]
    return {
        key: _figure(float(each.mean()), means[:, at])
        for at, (key, each) in enumerate(values.items())
    }


def _resampled_side(side: Direction, group_Q: Ints, groups: int, draws: int, seed: int) -> Floats:
    """Return the figures of a direction in every resample, [draws, F]."""
    sums_GF = group_sums(_query_values(side.ranks), group_Q, groups)
    order = np.argsort(side.ranks, kind="stable")
    sorted_ranks, sorted_group = side.ranks[order], group_Q[order]

    def figures(counts_BG: Floats) -> Floats:
        sums = counts_BG @ sums_GF
        means = sums[:, :-1] / sums[:, -1:]

        # The median lies between the middle two of all queries that were drawn.
        upto = counts_BG[:, sorted_group].cumsum(axis=1)
        total = upto[:, -1:]
        middle = [
            sorted_ranks[(upto > np.floor((total - less) / 2)).argmax(axis=1)] for less in (1, 0)
        ]
        return np.column_stack([means, np.mean(middle, axis=0)])

    return resample_groups(figures, groups, draws, seed)


def _side_values(ranks: Ints) -> list[float]:
    """Return the figures of a direction in the order of `FIGURES`."""
    return [*_query_values(ranks).mean(axis=0).tolist(), float(np.median(ranks))]


def _query_values(ranks: Ints) -> Floats:
    """Return each query's values whose means are the figures but the median, [Q, F - 1]."""
    return np.stack([*(ranks <= k for k in RANK_AT), 1 / ranks], axis=1, dtype=np.float64)


def _figure(value: float, resampled: Floats, optimistic: float | None = None) -> Figure:
    return Figure(float(value), *interval_ends(resampled), optimistic)
