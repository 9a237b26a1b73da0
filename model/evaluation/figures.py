"""Ranks and hits as figures: each with its 95 % interval, and with the value if ties went to the
model beside it.

Intervals are percentiles of a seeded bootstrap that draws whole products (groups of captions and
pictures that belong together) with replacement, both directions at once, since those succeed and
fail together. 2,000 draws over 32,528 products take about three seconds for all figures of a
protocol.

Shapes: Q queries, N groups, F figures, B draws at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.evaluation.bootstrap import LOW_HIGH
from model.evaluation.retrieval import DIRECTIONS, RANK_AT, Direction, RetrievalResult

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COUNTS_AT_ONCE = 2_000_000  # of 8 bytes, 16 MB


@dataclass(frozen=True)
class Figure:
    """A measured value and its 95 % interval; ``optimistic`` is the value if every tie went to the model."""

    value: float
    low: float
    high: float
    optimistic: float | None = None


def measure(
    result: RetrievalResult, groups: tuple[Ints, Ints], draws: int, seed: int
) -> dict[str, Figure]:
    """Return ``mean_recall`` and, for each direction, ``text_to_image_rank_at_1``, …,
    ``_median_rank`` and ``_mrr``.

    ``groups`` says which product each caption and each image belongs to, int64 [Q] each.

    Raises:
        ValueError: the result was read from JSON and has no ranks.
    """
    sides = [getattr(result, name) for name in DIRECTIONS]
    if not all(len(side.ranks) for side in sides):
        raise ValueError(
            "a result read from JSON has no ranks; evaluate the model again to measure it"
        )
    _, group = np.unique(np.concatenate(groups), return_inverse=True)
    of_side = np.split(group, [len(groups[0])])
    drawn = [
        _resampled_side(side, part, group.max() + 1, draws, seed)
        for side, part in zip(sides, of_side, strict=True)
    ]
    recall = np.mean([values[:, : len(RANK_AT)] for values in drawn], axis=(0, 2))
    best = np.mean([_side_values(side, side.ranks - side.tied)[: len(RANK_AT)] for side in sides])
    figures = {"mean_recall": _figure(result.mean_recall, recall, float(best))}
    for name, side, values in zip(DIRECTIONS, sides, drawn, strict=True):
        now, then = _side_values(side, side.ranks), _side_values(side, side.ranks - side.tied)
        for place, key in enumerate(FIGURES):
            figures[f"{name}_{key}"] = _figure(now[place], values[:, place], then[place])
    return figures


FIGURES = (*(f"rank_at_{k}" for k in RANK_AT), "mrr", "median_rank")


def _side_values(side: Direction, ranks: Ints) -> list[float]:
    """Return the figures of a direction in the order of `FIGURES`."""
    return [*_query_values(ranks).mean(axis=0).tolist(), float(np.median(ranks))]


def _query_values(ranks: Ints) -> Floats:
    """Return what the figures but the median are means of, [Q, F - 1]."""
    return np.stack([*(ranks <= k for k in RANK_AT), 1 / ranks], axis=1, dtype=np.float64)


def _resampled_side(side: Direction, group_Q: Ints, groups: int, draws: int, seed: int) -> Floats:
    """Return the figures of a direction in every resample, [draws, F]."""
    values = _query_values(side.ranks)
    sums_NF = _group_sums(np.column_stack([values, np.ones(len(values))]), group_Q, groups)
    order = np.argsort(side.ranks, kind="stable")
    sorted_ranks, sorted_group = side.ranks[order], group_Q[order]
    resampled = []
    for counts_BN in resamples(groups, draws, seed):
        sums = counts_BN @ sums_NF
        upto = counts_BN[:, sorted_group].cumsum(axis=1)
        total = upto[:, -1:]
        middle = [
            sorted_ranks[(upto > np.floor((total - less) / 2)).argmax(axis=1)] for less in (1, 0)
        ]
        resampled.append(np.column_stack([sums[:, :-1] / sums[:, -1:], np.mean(middle, axis=0)]))
    return np.concatenate(resampled)


def figures_of(
    values: Mapping[str, Floats], group_Q: Ints, draws: int, seed: int
) -> dict[str, Figure]:
    """Return the mean of each kind of value over the queries, [Q] each, with its interval over groups of them."""
    _, group = np.unique(group_Q, return_inverse=True)
    groups = int(group.max()) + 1
    columns = np.column_stack([*values.values(), np.ones(len(group))])
    sums_NF = _group_sums(columns, group, groups)
    sums = np.concatenate([counts_BN @ sums_NF for counts_BN in resamples(groups, draws, seed)])
    means = sums[:, :-1] / sums[:, -1:]
    return {
        key: _figure(float(each.mean()), means[:, at])
        for at, (key, each) in enumerate(values.items())
    }


def resamples(groups: int, draws: int, seed: int) -> Iterator[Floats]:
    """Yield how often each of N groups is drawn in N draws with replacement, float64 [B, N], ``draws`` rows in all."""
    generator = np.random.default_rng(seed)
    at_once = max(1, COUNTS_AT_ONCE // groups)
    for done in range(0, draws, at_once):
        rows = min(at_once, draws - done)
        drawn = generator.integers(0, groups, (rows, groups)) + groups * np.arange(rows)[:, None]
        yield (
            np.bincount(drawn.ravel(), minlength=rows * groups)
            .reshape(rows, groups)
            .astype(np.float64)
        )


def _group_sums(values_QF: Floats, group_Q: Ints, groups: int) -> Floats:
    return np.stack(
        [np.bincount(group_Q, column, minlength=groups) for column in values_QF.T], axis=1
    )


def _figure(value: float, resampled: Floats, optimistic: float | None = None) -> Figure:
    low, high = np.percentile(resampled, LOW_HIGH)
    return Figure(float(value), float(low), float(high), optimistic)
