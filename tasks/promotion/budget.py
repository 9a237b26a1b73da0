"""The year's risk of a false promotion, and each decision's part of it.

A gate that errs in 2.5 % of its decisions promotes an equal model within a year of weekly
challengers more likely than not. So the year has a budget, `gate.yearly_risk`, of which each
decision against a champion takes an equal part by the number that a year is expected to have. The
parts of any 365 days together never exceed the budget, and by that alone the chance of one false
promotion among them does not, however the decisions hang together (DECISIONS 59).

What was spent is read from tags of the registered model, one a decision, which outlive the versions
that were decided on.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from mlflow import MlflowClient

from model.config.gate import GateConfig
from tasks.registry.versions import model_tags
from tasks.runtime.records import Check

MAX_CHANCE = 0.025  # of one decision, whatever the year allows
RISK_TAG = "commerce_clip.risk."
YEAR = timedelta(days=365)
ROUNDING = 1e-9


class Budget(NamedTuple):
    """What a model's decisions of the last 365 days took of the risk of a year, 0 to 1.

    ``part`` is what one decision takes; ``renews`` is the day on which the oldest of those
    ``decisions`` no longer counts, None without one.
    """

    yearly: float
    part: float
    spent: float
    decisions: int
    renews: datetime | None

    @property
    def allowed(self) -> float:
        """The chance of error that the next decision may take: its part, or 0 if it is spent."""
        left = self.yearly - self.spent
        return min(self.part, MAX_CHANCE) if self.part <= left + ROUNDING else 0.0

    def check(self) -> Check:
        """Return the check that something is left, with a note for the gate's table."""
        note = (
            f"{self.spent:.2%} of {self.yearly:.0%} a year spent by {self.decisions} decisions "
            f"in 365 days, {max(self.yearly - self.spent, 0):.2%} left, "
            f"{self.allowed:.2%} for this one"
        )
        if self.renews is not None:
            note += f"; the oldest is given back on {self.renews:%Y-%m-%d}"
        if not self.allowed:
            note += (
                "; nothing is promoted before: set gate.yearly_decisions to the decisions that a "
                "year has, or promote by hand"
            )
        spent = min(self.spent + self.part, 1.0)
        return Check(
            name="yearly risk",
            value=spent,
            limit=self.yearly,
            passed=self.allowed > 0,
            note=note,
        )


def read_budget(client: MlflowClient, name: str, gate: GateConfig, now: datetime) -> Budget:
    """Read from the registry what is left of a model's risk.

    Raises:
        ServiceError: the registry does not answer.
    """
    counted = sorted(
        (when, risk) for when, risk in _decisions(client, name).values() if when > now - YEAR
    )
    return Budget(
        yearly=gate.yearly_risk,
        part=gate.yearly_risk / gate.yearly_decisions,
        spent=sum(risk for _, risk in counted),
        decisions=len(counted),
        renews=counted[0][0] + YEAR if counted else None,
    )


def spend(client: MlflowClient, name: str, mark: str, risk: float) -> None:
    """Record what the decision of a fingerprint took, once, and forget what is older than a year.

    The caller holds the registry's lock.
    """
    now, tag = datetime.now(UTC), f"{RISK_TAG}{mark}"
    decisions = _decisions(client, name)
    if tag not in decisions:
        value = f"{risk!r} {now.isoformat(timespec='seconds')}"
        client.set_registered_model_tag(name, tag, value)
    for old, (when, _) in decisions.items():
        if when <= now - YEAR:
            client.delete_registered_model_tag(name, old)


def _decisions(client: MlflowClient, name: str) -> dict[str, tuple[datetime, float]]:
    """Return when each recorded decision was made and what it took, by its tag."""
    found = {}
    for tag, value in model_tags(client, name).items():
        if tag.startswith(RISK_TAG):
            risk, _, when = value.partition(" ")
            found[tag] = (datetime.fromisoformat(when), float(risk))
    return found
