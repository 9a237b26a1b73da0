"""Whether a challenger becomes champion: named checks, each with a value, a limit and a verdict.

Champion and challenger are scored in the same run on the same pairs (`tasks.promotion.scoring`).
What cannot be measured does not pass: a NaN, a missing metric, figures of other queries or of
another data version never promote. Two checks guard against chance: the 95 % interval of the
difference has to lie above the margin, and exchanging the two models' results product by product
may be as good in 2.5 % of the cases. The first alone promotes an equal model in up to 3.6 % of the
cases where products are few or uneven, both together in 2.5 % at most. Imports torch.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.config.sections import GateConfig
from model.evaluation.bootstrap import exchanged_share, mean_recall_difference
from model.evaluation.retrieval import DIRECTIONS, RetrievalResult
from tasks.pages.text import visible
from tasks.registry.versions import CHALLENGER, CHAMPION
from tasks.runtime.records import Check, Decision, Evaluation, Validation

MAX_CHANCE = 0.025
SAME_FIGURE = 0.002  # of mean recall: what another batch size may change in bf16


class Scored(NamedTuple):
    """A version's result on the test split of a data version."""

    result: RetrievalResult
    data_version: str


class SliceLabels(NamedTuple):
    """The value of a side-table column for each caption [Q] and each image [C] of test."""

    text_to_image: npt.NDArray[np.str_]
    image_to_text: npt.NDArray[np.str_]


SliceColumns = Mapping[str, SliceLabels]


def decide_version(
    version: int, champion: int | None, checks: list[Check], had_champion: bool = False
) -> Decision:
    """Return the decision on a version by its checks: those against the champion, if there is one.

    ``had_champion`` says that there was one before, which somebody removed.
    """
    notes = {check.name: check.note for check in checks}
    failed = "; ".join(
        f"{check.name}: {check.note}" if check.note else check.name
        for check in checks
        if not check.passed
    )
    if champion is not None:
        passed = f"better: {notes.get('difference', '')}"
        failed = failed and f"not better: {failed}"
    else:
        passed = f"first champion: {notes['base weights']}"
        if had_champion:
            failed = (
                "there was a champion, but its alias or version was removed; choose one with "
                f"`commerce-clip rollback` or `commerce-clip promote --version {version}`"
            )

    beats_base = all(check.passed for check in checks if check.name == "base weights")
    return Decision(
        version=version,
        is_promoted=not failed,
        aliases=([CHALLENGER] if beats_base else []) if failed else [CHAMPION],
        reason=failed or passed,
        champion=champion,
        checks=checks,
    )


def check_alone(
    gate: GateConfig,
    evaluation: Evaluation,
    validation: Validation,
    new: Scored | None,
    columns: SliceColumns,
) -> list[Check]:
    """Return the checks that need no champion: expectations, base weights, floors, worst slices."""
    recall = _metric(evaluation.metrics, "mean_recall")
    base = _metric(evaluation.base_metrics, "mean_recall")
    met = validation.expectations
    beaten = f"mean recall {_share(recall)} against {_share(base)} of its base weights"
    checks = [
        _check("expectations", float(met), 1, f"{met} expectations about the data are met"),
        _check("base weights", recall, base, beaten, operator.gt),
    ]

    for name, floor in sorted(gate.floors.items()):
        value = _metric(evaluation.metrics, name)
        known = "" if value is not None else f"; known: {', '.join(sorted(evaluation.metrics))}"
        figure = "not measured" if value is None else f"{value:g}"
        checks.append(_check(name, value, floor, f"{figure}, floor {floor:g}{known}"))

    for column, floor in sorted(gate.min_slice_recall.items()):
        labels = columns.get(column)
        recalls = {} if new is None or labels is None else _slice_recalls(new.result, labels, gate)
        worst = min(recalls, key=lambda value: recalls[value], default=None)
        lowest = None if worst is None else recalls[worst]
        note = f"{visible(worst or 'no slice')} {_share(lowest)}, floor {floor:.1%}"
        checks.append(_check(f"worst {column}", lowest, floor, note))
    return checks


def check_against(
    gate: GateConfig,
    evaluation: Evaluation,
    new: Scored,
    old: Scored,
    columns: SliceColumns,
    seed: int,
    champion: str,
) -> list[Check]:
    """Return the checks of a challenger's result against that of the champion, named for notes."""
    fault = _incomparable(new, old)
    note = fault or "the same pairs and K"
    same_test = Check(name="same test", value=None, limit=None, passed=not fault, note=note)
    if fault:
        return [same_test]

    # What the evaluation measured is what is measured here.
    ours, theirs = new.result.mean_recall, old.result.mean_recall
    evaluated = _metric(evaluation.metrics, "mean_recall")
    apart = None if evaluated is None else abs(evaluated - ours)
    again = f"evaluated {_share(evaluated)}, scored again {ours:.2%}"

    # It is better by more than chance (DECISIONS 11).
    interval = mean_recall_difference(new.result, old.result, gate.draws, seed)
    share = exchanged_share(new.result, old.result, gate.draws, seed)
    exchanged = f"as good in {share:.1%} of random exchanges, limit {MAX_CHANCE:.1%}"
    better = (
        f"mean recall {ours:.2%} against {theirs:.2%} of {champion} on data version "
        f"{new.data_version[:8]} "
        f"(95 % interval of the difference {interval.low:+.2%} to {interval.high:+.2%})"
    )
    return [
        same_test,
        _check("same figure", apart, SAME_FIGURE, again, operator.le),
        _check("difference", interval.low, gate.margin, better, operator.gt),
        _check("chance", share, MAX_CHANCE, exchanged, operator.le),
        *_check_slices(gate, new, old, columns),
    ]


def _check_slices(
    gate: GateConfig, new: Scored, old: Scored, columns: SliceColumns
) -> Iterator[Check]:
    for column, limit in sorted(gate.max_slice_fall.items()):
        if column not in columns:
            yield _check(column, None, -limit, f"test's side table has no column {column}")
            continue
        before, after = (
            _slice_recalls(scored.result, columns[column], gate) for scored in (old, new)
        )
        for value in sorted(after):
            note = f"{before[value]:.2%} → {after[value]:.2%}, may fall by {limit:.2%}"
            yield _check(f"{column} {visible(value)}", after[value] - before[value], -limit, note)


def _incomparable(new: Scored, old: Scored) -> str:
    """Return why two results cannot be compared, or nothing."""
    if new.data_version != old.data_version:
        return f"measured on data versions {new.data_version[:8]} and {old.data_version[:8]}"
    for name in DIRECTIONS:
        one, other = getattr(new.result, name), getattr(old.result, name)
        if list(one.rank_at) != list(other.rank_at):
            return f"{name}: K is {list(one.rank_at)} and {list(other.rank_at)}"
        if one.candidates != other.candidates or not np.array_equal(one.group, other.group):
            return f"{name}: the models answered different queries"
        if not len(one.ranks) or not len(other.ranks):
            return f"{name}: no ranks were kept"
        if not all(map(math.isfinite, [*one.rank_at.values(), *other.rank_at.values()])):
            return f"{name}: a figure is NaN"
    return ""


def _slice_recalls(
    result: RetrievalResult, labels: SliceLabels, gate: GateConfig
) -> dict[str, float]:
    """Return the mean recall of each value of a column that has enough captions."""
    sides = []
    for name in DIRECTIONS:
        side, label_Q = getattr(result, name), getattr(labels, name)
        hits_Q = np.mean([side.ranks <= k for k in side.rank_at], axis=0)
        values, place_Q, count = np.unique(label_Q, return_inverse=True, return_counts=True)
        means = np.bincount(place_Q, hits_Q) / count
        sides.append(
            {str(v): (float(m), int(c)) for v, m, c in zip(values, means, count, strict=True) if v}
        )

    text, image = sides
    return {
        value: (mean + image[value][0]) / 2
        for value, (mean, captions) in text.items()
        if value in image and captions >= gate.min_slice_pairs
    }


def _metric(metrics: Mapping[str, float], name: str) -> float | None:
    """Return a metric, None where it is missing, NaN or infinite."""
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _check(
    name: str,
    value: float | None,
    limit: float | None,
    note: str,
    compare: Callable[[float, float], bool] = operator.ge,
) -> Check:
    """Return a check that passes where there is a value and it is at least the limit."""
    passed = value is not None and limit is not None and compare(value, limit)
    return Check(name=name, value=value, limit=limit, passed=passed, note=note)


def _share(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.2%}"
