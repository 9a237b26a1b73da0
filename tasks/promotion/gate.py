"""Whether a challenger becomes champion: named checks, each with a value, a limit and a verdict.

Champion and challenger are scored in the same run on the same pairs, without those that either was
trained on (`tasks.promotion.scoring`). What cannot be measured does not pass: a NaN, a missing
metric, figures of other queries or of another data version never promote. Two checks guard against
chance: the 95 % interval of the difference has to lie above the margin, and exchanging the two
models' results product by product may seldom be as good: as seldom as this decision's part of the
year's risk allows (`tasks.promotion.budget`). Of equal models on products of 1 to 20 pairs one in
forty passes at most where that part is 2.5 % (DECISIONS 57). Imports torch.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.config.gate import GateConfig
from model.evaluation.exchange import Luck, fall_chances, gains, lead_of
from model.evaluation.retrieval import DIRECTIONS, Floats, RetrievalResult
from tasks.pages.baselines import BASELINE, under_baseline
from tasks.pages.text import visible
from tasks.promotion.budget import MAX_CHANCE, Budget
from tasks.registry.versions import CHALLENGER, CHAMPION
from tasks.runtime.records import Check, Decision, Evaluation, Validation

SAME_FIGURE = 0.002  # of mean recall: what another batch size may change in bf16
SLICE_CHANCE = 0.05  # that some slice of all is called fallen though none is
BASE_WEIGHTS = "its base weights"


class Scored(NamedTuple):
    """A version's result on the compared pairs of a data version's test split.

    ``whole`` is its mean recall on all of test where pairs were left out.
    """

    result: RetrievalResult
    data_version: str
    whole: float | None = None


class SliceLabels(NamedTuple):
    """The value of a side-table column for each caption [Q] and each image [C] of test."""

    text_to_image: npt.NDArray[np.str_]
    image_to_text: npt.NDArray[np.str_]


SliceColumns = Mapping[str, SliceLabels]


class Compared(NamedTuple):
    """What two models are compared on, and what became of the rest of test.

    ``luck`` is what the queries share, ``products`` how many are left of ``all_products``.
    ``left_out`` counts the test pairs that a model was trained on by what they share with its
    training, ``unknown`` names the versions of which nobody knows what they were trained on.
    """

    luck: Luck
    columns: SliceColumns
    products: int
    all_products: int
    left_out: Mapping[str, int] = {}
    unknown: tuple[str, ...] = ()


def decide_version(
    version: int,
    champion: int | None,
    checks: list[Check],
    had_champion: bool = False,
    risk: float = 0.0,
) -> Decision:
    """Decide on a version by its checks: those against the champion, or else its base weights.

    ``had_champion`` says that there was one before, which somebody removed; ``risk`` is the part of
    the year's risk that the decision takes.
    """
    notes = {check.name: check.note for check in checks}
    failed = "; ".join(
        f"{check.name}: {check.note}" if check.note else check.name
        for check in checks
        if not check.passed
    )
    better = notes.get("difference", "")
    if champion is not None:
        passed = f"better: {better}"
        failed = failed and f"not better: {failed}"
    else:
        passed = f"first champion: {better}"
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
        risk=risk if any(check.name == "chance" for check in checks) else 0.0,
    )


def check_alone(
    gate: GateConfig,
    evaluation: Evaluation,
    validation: Validation,
    new: Scored,
    columns: SliceColumns,
) -> list[Check]:
    """Make the checks that need no other version: expectations, base weights, floors, slices."""
    recall = _metric(evaluation.metrics, "mean_recall")
    base = _metric(evaluation.base_metrics, "mean_recall")
    met = validation.expectations
    beaten = f"mean recall {_share(recall)} against {_share(base)} of its base weights"
    checks = [
        _check("expectations", float(met), 1, f"{met} expectations about the data are met"),
        _check("base weights", recall, base, beaten, operator.gt),
        _compare_with_baselines(evaluation.metrics),
    ]

    for name, floor in sorted(gate.floors.items()):
        value = _metric(evaluation.metrics, name)
        known = "" if value is not None else f"; known: {', '.join(sorted(evaluation.metrics))}"
        figure = "not measured" if value is None else f"{value:g}"
        checks.append(_check(name, value, floor, f"{figure}, floor {floor:g}{known}"))

    for column, floor in sorted(gate.min_slice_recall.items()):
        labels = columns.get(column)
        recalls = {} if labels is None else _slice_recalls(new.result, labels, gate)
        worst = min(recalls, key=lambda value: recalls[value], default=None)
        lowest = None if worst is None else recalls[worst]
        note = f"{visible(worst or 'no slice')} {_share(lowest)}, floor {floor:.1%}"
        checks.append(_check(f"worst {column}", lowest, floor, note))
    return checks


def _compare_with_baselines(metrics: Mapping[str, float]) -> Check:
    """Count the figures that are worse than no model at all; a warning, which holds nobody back.

    Whom one of them matters to sets a floor for it.
    """
    below, measured = under_baseline(metrics), sum(name.endswith(BASELINE) for name in metrics)
    named = ", ".join(
        f"{name} {value:.1%} < {baseline:.1%}" for name, (value, baseline) in below.items()
    )
    note = f"none of {measured} figures is worse than a random order or the largest label"
    if below:
        note = f"warning: worse than a random order or always saying the largest label: {named}"
    return Check(name="below baseline", value=float(len(below)), limit=None, passed=True, note=note)


def check_against(
    gate: GateConfig,
    evaluation: Evaluation,
    new: Scored,
    old: Scored,
    compared: Compared,
    seed: int,
    champion: str,
    budget: Budget | None,
) -> list[Check]:
    """Make the checks of a challenger's result against that of the champion, named for notes.

    Against base weights there is no ``budget`` and 2.5 % is the limit of chance.
    """
    fault = _incomparable(new, old)
    note = fault or "the same pairs and K"
    same_test = Check(name="same test", value=None, limit=None, passed=not fault, note=note)
    seen = _check_seen(gate, compared)
    if fault or not seen.passed:
        return [same_test, seen]

    # What the evaluation measured is what is measured here.
    ours = new.result.mean_recall if new.whole is None else new.whole
    evaluated = _metric(evaluation.metrics, "mean_recall")
    apart = None if evaluated is None else abs(evaluated - ours)
    again = f"evaluated {_share(evaluated)}, scored again {ours:.2%}"

    # It is better by more than chance, whatever else was tried in the year.
    lead = lead_of(new.result, old.result, compared.luck, gate.draws, seed, gate.margin)
    limit = MAX_CHANCE if budget is None else budget.allowed
    better = (
        f"mean recall {new.result.mean_recall:.2%} against {old.result.mean_recall:.2%} of "
        f"{champion} on data version {new.data_version[:8]} "
        f"(95 % interval of the difference {lead.low:+.2%} to {lead.high:+.2%})"
    )
    exchanged = f"as good in {lead.chance:.2%} of random exchanges, limit {limit:.2%}"
    return [
        same_test,
        seen,
        _check("same figure", apart, SAME_FIGURE, again, operator.le),
        _check("difference", lead.low, gate.margin, better, operator.gt),
        _check("chance", lead.chance, limit, exchanged, operator.le),
        *([] if budget is None else [budget.check()]),
        *_check_slices(gate, new, old, compared, seed),
    ]


def _check_seen(gate: GateConfig, compared: Compared) -> Check:
    """Check that enough products are left that neither model was trained on."""
    left, least = compared.products, gate.min_unseen_products
    by_kind = ", ".join(f"{kind} {count:,}" for kind, count in compared.left_out.items() if count)
    note = f"{left:,} of {compared.all_products:,} products of test, none left out"
    if by_kind:
        note = (
            f"{left:,} of {compared.all_products:,} products of test are left without the pairs "
            f"that a model was trained on ({by_kind})"
        )
    if by_kind and left < least:
        note += (
            f": too few to compare, need {least:,}; keep products in their splits (ingest --feed)"
        )
    if compared.unknown:
        note += (
            f"; nobody knows what {' and '.join(compared.unknown)} was trained on, "
            "so pairs that it has seen may favour it"
        )
    # A small test split of which nothing was left out is as small as its owner made it.
    limit = float(least) if by_kind else None
    is_enough = limit is None or left >= limit
    return Check(name="unseen pairs", value=float(left), limit=limit, passed=is_enough, note=note)


def _check_slices(
    gate: GateConfig, new: Scored, old: Scored, compared: Compared, seed: int
) -> Iterator[Check]:
    """Check the guarded slices: a fall counts where it is beyond the limit and beyond chance."""
    guarded, weights, limits = [], [], []
    for column, limit in sorted(gate.max_slice_fall.items()):
        labels = compared.columns.get(column)
        if labels is None:
            yield _check(column, None, -limit, f"test's side table has no column {column}")
            continue
        before, after = (_slice_recalls(scored.result, labels, gate) for scored in (old, new))
        for value in sorted(after):
            guarded.append((f"{column} {visible(value)}", before[value], after[value]))
            weights.append(_slice_weights(labels, value))
            limits.append(limit)
    if not guarded:
        return

    _, chance_F = fall_chances(
        gains(new.result, old.result),
        np.stack(weights, axis=1),
        np.array(limits),
        compared.luck,
        gate.draws,
        seed,
    )
    for (name, was, now), limit, chance in zip(guarded, limits, chance_F.tolist(), strict=True):
        is_far, is_sure = was - now > limit, chance <= SLICE_CHANCE
        by_chance = f"; some slice does as badly in {chance:.1%} of random exchanges"
        note = f"{was:.2%} → {now:.2%}, may fall by {limit:.2%}{by_chance if is_far else ''}"
        passed = not (is_far and is_sure)
        yield Check(name=name, value=now - was, limit=-limit, passed=passed, note=note)


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
    hits_Q = np.concatenate([getattr(result, name).hits for name in DIRECTIONS])
    captions, images = labels
    values, count = np.unique(captions, return_counts=True)
    return {
        str(value): float(hits_Q @ _slice_weights(labels, value))
        for value, size in zip(values, count, strict=True)
        if value and size >= gate.min_slice_pairs and (images == value).any()
    }


def _slice_weights(labels: SliceLabels, value: str) -> Floats:
    """Return how much each query counts in a slice's mean recall, [Q + C]: half a direction."""
    return np.concatenate([(side == value) * 0.5 / (side == value).sum() for side in labels])


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
