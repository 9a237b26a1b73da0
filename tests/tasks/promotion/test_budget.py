"""The year's risk is read from what decisions left in the registry, each of them once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model.config.gate import GateConfig
from tasks.promotion.budget import YEAR, read_budget, spend
from tasks.registry.tracking import tracking_client
from tests.tasks.shop import Shop

GATE = GateConfig(yearly_risk=0.1, yearly_decisions=4)
PART = 0.1 / 4


@pytest.fixture
def model(state: Path, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-")[:50]
    tracking_client().create_registered_model(name)
    return name


def test_decisions_are_counted_once_and_given_back_after_a_year(model: str) -> None:
    client, now = tracking_client(), datetime.now(UTC)
    assert read_budget(client, model, GATE, now).allowed == PART
    for mark in ("one", "two", "two"):  # a second try of the same decision
        spend(client, model, mark, PART)
    budget = read_budget(client, model, GATE, now)
    assert (budget.decisions, budget.spent, budget.allowed) == (2, 2 * PART, PART)
    assert budget.renews is not None and abs(budget.renews - now - YEAR) < timedelta(minutes=5)
    for mark in ("three", "four"):
        spend(client, model, mark, PART)
    spent = read_budget(client, model, GATE, now)
    assert spent.allowed == 0 and not spent.check().passed
    later = read_budget(client, model, GATE, now + YEAR + timedelta(days=1))
    assert (later.decisions, later.allowed) == (0, PART)


def test_no_decision_may_err_in_more_than_one_case_of_forty(model: str) -> None:
    rare = GateConfig(yearly_risk=0.5, yearly_decisions=1)
    assert read_budget(tracking_client(), model, rare, datetime.now(UTC)).allowed == 0.025


def test_a_decision_against_a_champion_takes_its_part_a_first_champion_takes_nothing(
    shop: Shop,
) -> None:
    def decisions() -> int:
        now = datetime.now(UTC)
        return read_budget(tracking_client(), shop.name, shop.config.gate, now).decisions

    first = shop.add(0.3)
    assert first.is_promoted and decisions() == 0
    second = shop.add(0.2)
    assert not second.is_promoted and decisions() == 1
    assert "0.19% for this one" in next(c.note for c in second.checks if c.name == "yearly risk")
    assert shop.add(0.4).is_promoted and decisions() == 2
