"""What the gate lets through: every check by itself, and how often chance alone passes it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config.gate import GateConfig
from model.evaluation.retrieval import RANK_AT, RetrievalResult
from tasks.promotion.budget import Budget
from tasks.promotion.gate import (
    Compared,
    Scored,
    SliceLabels,
    check_against,
    check_alone,
    decide_version,
)
from tasks.runtime.records import Check, Evaluation, Validation
from tests.tasks.conftest import evaluation_of
from tests.tasks.shop import PRODUCTS, compared_alone, result_of

DATA = "d" * 32
UNSPENT = Budget(yearly=0.1, part=0.1 / 52, spent=0.0, decisions=0, renews=None)


def scored(mean_recall: float, data: str = DATA) -> Scored:
    return Scored(result_of(mean_recall), data)


def against(
    new: Scored,
    old: Scored,
    evaluation: Evaluation | None = None,
    compared: Compared | None = None,
    budget: Budget | None = UNSPENT,
    **gate: object,
) -> dict[str, Check]:
    said = evaluation or evaluation_of(Path(), new.result.mean_recall)
    settings = GateConfig.model_validate({"draws": 2000} | gate)
    pairs, named = compared or compared_alone(PRODUCTS), "champion version 1"
    checks = check_against(settings, said, new, old, pairs, 0, named, budget)
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
    pairs = compared_alone(PRODUCTS, {"category": SliceLabels(labels, labels)})
    assert passes(against(new, old, compared=pairs))
    checks = against(new, old, compared=pairs, max_slice_fall={"category": 0.5})
    assert not passes(checks)
    assert (checks["category shoes"].value, checks["category shirts"].passed) == (-1.0, True)
    assert "100.00% → 0.00%" in checks["category shoes"].note
    assert passes(
        against(new, old, compared=pairs, max_slice_fall={"category": 0.5}, min_slice_pairs=101)
    )
    assert not passes(against(new, old, max_slice_fall={"category": 0.5}))


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


def test_a_fall_that_chance_explains_holds_nobody_back() -> None:
    rng, old = np.random.default_rng(0), scored(0.3)
    labels = np.where(np.arange(PRODUCTS) >= 1970, "rare", "common")
    pairs = compared_alone(PRODUCTS, {"category": SliceLabels(labels, labels)})
    side = old.result.text_to_image
    ranks = {"old": side.ranks.copy(), "new": result_of(0.5).text_to_image.ranks.copy()}
    # Of 30 rare products the models find different ones; the new one finds four fewer.
    ranks["old"][1970:], ranks["new"][1970:] = 100, 100
    ranks["old"][1970 + rng.permutation(30)[:14]] = 1
    ranks["new"][1970 + rng.permutation(30)[:10]] = 1
    was, now = (
        Scored(RetrievalResult(*[replace(side, ranks=each)] * 2), DATA)
        for each in (ranks["old"], ranks["new"])
    )
    checks = against(now, was, compared=pairs, max_slice_fall={"category": 0.05})
    assert checks["category rare"].value == pytest.approx(-4 / 30)
    assert checks["category rare"].passed
    assert "some slice does as badly in" in checks["category rare"].note


def test_a_first_champion_is_better_than_its_base_weights_by_more_than_chance() -> None:
    def first(new: float, base: float) -> dict[str, Check]:
        return against(scored(new), scored(base), evaluation_of(Path(), new, base), budget=None)

    one_query_more = first(0.3005, 0.3)
    assert not decide_version(1, None, list(one_query_more.values())).is_promoted
    assert not one_query_more["chance"].passed and "yearly risk" not in one_query_more
    decision = decide_version(1, None, list(first(0.32, 0.3).values()))
    assert decision.is_promoted and decision.risk == 0
    assert decision.reason.startswith("first champion: mean recall 32.00% against 30.00%")


def test_pairs_that_a_model_was_trained_on_are_counted_and_too_few_others_are_not_compared() -> (
    None
):
    def seen(products: int, **more: object) -> dict[str, Check]:
        pairs = compared_alone(PRODUCTS)._replace(
            products=products, all_products=PRODUCTS, left_out={"image": 7, "caption": 0}, **more
        )
        return against(scored(0.32), scored(0.3), compared=pairs)

    enough, few = seen(60), seen(49)
    assert passes(enough)
    assert enough["unseen pairs"].note.endswith("that a model was trained on (image 7)")
    assert list(few) == ["same test", "unseen pairs"] and not passes(few)
    assert "too few to compare, need 50" in few["unseen pairs"].note
    unknown = seen(60, unknown=("version 3",))["unseen pairs"]
    assert unknown.passed and "nobody knows what version 3 was trained on" in unknown.note


def test_a_whole_figure_is_held_against_the_evaluation_where_pairs_were_left_out() -> None:
    new = Scored(result_of(0.4), DATA, whole=0.32)
    assert passes(against(new, scored(0.3), evaluation_of(Path(), 0.32)))
    assert not passes(against(new, scored(0.3), evaluation_of(Path(), 0.4)))


def test_a_year_whose_risk_is_spent_promotes_nobody() -> None:
    spent = UNSPENT._replace(spent=0.099, decisions=51)
    checks = against(scored(0.5), scored(0.3), budget=spent)
    assert not passes(checks)
    assert "9.90% of 10% a year spent by 51 decisions" in checks["yearly risk"].note
    assert "nothing is promoted before" in checks["yearly risk"].note


def test_a_decision_takes_its_part_of_the_year_whatever_it_comes_to() -> None:
    for new in (0.2, 0.4):
        checks = list(against(scored(new), scored(0.3)).values())
        assert decide_version(2, 1, checks, risk=UNSPENT.allowed).risk == UNSPENT.part
    other_data = list(against(scored(0.4), scored(0.3, "e" * 32)).values())
    assert decide_version(2, 1, other_data, risk=UNSPENT.allowed).risk == 0
