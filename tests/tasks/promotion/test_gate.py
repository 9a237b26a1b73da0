"""What the gate lets through: every check by itself, and how often chance alone passes it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config.sections import GateConfig
from model.evaluation.bootstrap import exchanged_share, mean_recall_difference
from model.evaluation.retrieval import RANK_AT, Direction, RetrievalResult
from tasks.promotion.gate import (
    Scored,
    SliceLabels,
    check_against,
    check_alone,
    decide_version,
)
from tasks.runtime.records import Check, Evaluation, Validation
from tests.tasks.conftest import evaluation_of
from tests.tasks.shop import result_of

DATA = "d" * 32


def scored(mean_recall: float, data: str = DATA) -> Scored:
    return Scored(result_of(mean_recall), data)


def against(
    new: Scored,
    old: Scored,
    evaluation: Evaluation | None = None,
    columns: object = None,
    **gate: object,
) -> dict[str, Check]:
    said = evaluation or evaluation_of(Path(), new.result.mean_recall)
    settings = GateConfig.model_validate({"draws": 1000} | gate)
    checks = check_against(
        settings, said, new, old, columns or {}, seed=0, champion="champion version 1"
    )  # type: ignore[arg-type]
    return {check.name: check for check in checks}


def passes(checks: dict[str, Check]) -> bool:
    return decide_version(2, 1, list(checks.values())).is_promoted


def test_a_challenger_that_is_better_beyond_chance_passes() -> None:
    checks = against(scored(0.32), scored(0.30))
    assert passes(checks)
    assert checks["difference"].value is not None and 0 < checks["difference"].value < 0.02


def test_a_challenger_must_beat_the_margin_with_its_whole_interval() -> None:
    assert passes(against(scored(0.32), scored(0.30), margin=0.01))
    assert not passes(against(scored(0.32), scored(0.30), margin=0.02))


@pytest.mark.faults(kind="S10: not comparable", trials=8)
def test_a_tie_a_nan_a_missing_metric_and_figures_of_something_else_do_not_pass() -> None:
    nan, better = float("nan"), result_of(0.5)
    side = better.text_to_image
    other_k = RetrievalResult(replace(side, rank_at={1: 0.5, 2: 0.5}), better.image_to_text)
    fewer = RetrievalResult(replace(side, candidates=10), better.image_to_text)
    none = np.empty(0, np.int64)
    not_kept = RetrievalResult(*[replace(side, ranks=none, group=none, tied=none)] * 2)
    missing = evaluation_of(Path(), 0.5).model_copy(update={"metrics": {}})
    trials = [
        against(scored(0.3), scored(0.3)),
        against(scored(nan), scored(0.3)),
        against(scored(0.5), scored(0.3), missing),
        against(scored(0.5), scored(0.3), evaluation_of(Path(), 0.4)),
        against(scored(0.5), scored(0.3, "e" * 32)),
        against(Scored(other_k, DATA), scored(0.3), evaluation_of(Path(), 0.5)),
        against(Scored(fewer, DATA), scored(0.3)),
        against(Scored(not_kept, DATA), scored(0.3)),
    ]
    for checks in trials:
        assert not passes(checks)
        assert all(check.note for check in checks.values() if not check.passed)


def test_a_guarded_slice_that_falls_too_far_holds_back_a_challenger_better_on_the_whole() -> None:
    new, old = scored(0.5), scored(0.3)
    ranks = old.result.text_to_image.ranks.copy()
    ranks[-100:] = 1  # what the champion finds, and the challenger does not
    side = replace(old.result.text_to_image, ranks=ranks, rank_at=dict.fromkeys(RANK_AT, 0.35))
    old = Scored(RetrievalResult(side, side), DATA)
    labels = np.where(np.arange(2000) >= 1900, "shoes", "shirts")
    columns = {"category": SliceLabels(labels, labels)}
    assert passes(against(new, old, columns=columns))
    checks = against(new, old, columns=columns, max_slice_fall={"category": 0.5})
    assert not passes(checks)
    assert (checks["category shoes"].value, checks["category shirts"].passed) == (-1.0, True)
    assert "100.00% → 0.00%" in checks["category shoes"].note
    assert passes(
        against(new, old, columns=columns, max_slice_fall={"category": 0.5}, min_slice_pairs=101)
    )
    assert not passes(against(new, old, columns={}, max_slice_fall={"category": 0.5}))


def alone(
    validation: Validation, new: float = 0.3, base: float = 0.1, **gate: object
) -> dict[str, Check]:
    labels = np.where(np.arange(2000) >= 1900, "shoes", "shirts")
    columns = {"category": SliceLabels(labels, labels)}
    evaluation, settings = evaluation_of(Path(), new, base), GateConfig.model_validate(gate)
    checks = check_alone(settings, evaluation, validation, scored(new), columns)
    return {check.name: check for check in checks}


def test_floors_hold_for_a_first_champion_too(validation: Validation) -> None:
    def is_promoted(**given: object) -> bool:
        checks = alone(validation, **given)  # type: ignore[arg-type]
        return decide_version(1, None, list(checks.values()), had_champion=False).is_promoted

    assert is_promoted()
    assert not is_promoted(new=0.1)
    assert not is_promoted(new=float("nan"))
    assert is_promoted(floors={"text_to_image_rank_at_1": 0.5})
    assert not is_promoted(floors={"text_to_image_rank_at_1": 0.51})
    assert not is_promoted(floors={"zero_shot_accuracy": 0.1})
    assert is_promoted(min_slice_recall={"category": 0.0})
    assert not is_promoted(min_slice_recall={"category": 0.01})
    assert not is_promoted(min_slice_recall={"colour": 0.0})
    empty = validation.model_copy(update={"expectations": 0})
    assert not decide_version(1, None, list(alone(empty).values()), had_champion=False).is_promoted


def test_a_metric_that_is_missing_is_named_with_those_that_are_known(
    validation: Validation,
) -> None:
    note = alone(validation, floors={"zero_shot_accuracy": 0.1})["zero_shot_accuracy"].note
    assert note.startswith("not measured, floor 0.1; known: image_to_text_median_rank")


def twins(seed: int, products: int, captions: int) -> tuple[RetrievalResult, RetrievalResult]:
    """Two equally good models on products hard or easy for both, of up to so many captions."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(products), rng.integers(1, captions + 1, products))
    hard = rng.normal(size=products)
    results = []
    for _ in range(2):
        own = 0.7 * hard + 0.5 * rng.normal(size=products)
        sides = []
        for _ in range(2):
            ranks = np.ceil(
                np.exp(1.2 + 2 * (own[group] + 0.5 * rng.normal(size=len(group))))
            ).astype(np.int64)
            rank_at = {k: float((ranks <= k).mean()) for k in RANK_AT}
            sides.append(
                Direction(
                    len(ranks),
                    len(ranks),
                    rank_at,
                    0.0,
                    dict.fromkeys(RANK_AT, 0.0),
                    ranks,
                    group,
                    tied=np.zeros_like(ranks),
                )
            )
        results.append(RetrievalResult(*sides))
    return results[0], results[1]


@pytest.mark.parametrize(("products", "captions"), [(15, 1), (60, 12)])
def test_of_600_challengers_no_better_than_the_champion_at_most_15_pass(
    products: int, captions: int
) -> None:
    promoted = 0
    for seed in range(600):
        new, old = twins(seed, products, captions)
        if mean_recall_difference(new, old, 500, seed).low > 0:
            promoted += exchanged_share(new, old, 500, seed) <= 0.025
    assert promoted <= 15


def test_the_share_of_exchanges_is_that_of_all_exchanges_written_out() -> None:
    new, old = twins(3, 10, 3)
    group = new.text_to_image.group
    gain = [
        np.bincount(
            group, np.mean([(a.ranks <= k) * 1.0 - (b.ranks <= k) for k in RANK_AT], axis=0)
        )
        / len(group)
        for a, b in ((new.text_to_image, old.text_to_image), (new.image_to_text, old.image_to_text))
    ]
    gain_G = (gain[0] + gain[1]) / 2
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    exact = float(((signs * gain_G[:, None]).sum(0) >= gain_G.sum() - 1e-12).mean())
    assert exchanged_share(new, old, 20_000, seed=1) == pytest.approx(exact, abs=0.015)
    assert exchanged_share(new, new, 1000, seed=1) == 1.0


def test_a_challenger_that_is_better_passes_nearly_always() -> None:
    promoted = 0
    for seed in range(100):
        new, old = twins(seed, 300, 1)
        ahead = new.text_to_image.ranks.copy()
        ahead[np.random.default_rng(seed).random(300) < 0.35] = 1
        side = replace(
            new.text_to_image, ranks=ahead, rank_at={k: float((ahead <= k).mean()) for k in RANK_AT}
        )
        promoted += passes(
            against(Scored(replace(new, text_to_image=side), DATA), Scored(old, DATA))
        )
    assert promoted >= 95
