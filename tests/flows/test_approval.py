"""A person approves, refuses or does not answer: the pause of a flow, and what comes of it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.runtime import flow_run

from flows.approval import Approval, approved, require_approver
from model.config.load import RunConfig
from model.errors import ConfigError
from tasks.registry.versions import CHALLENGER
from tasks.runtime.records import Check, DataVersion, Decision, Run
from tasks.runtime.stage import service_task
from tests.runs import lineage

pytestmark = pytest.mark.usefixtures("prefect_server")

CHECK = Check(name="difference", value=0.01, limit=0.0, passed=True, note="better by a | hair")
DECISION = Decision(
    version=4, is_promoted=True, aliases=["champion"], reason="better", champion=3, checks=[CHECK]
)
DEADLINE_S = 60

Ask = Callable[..., Decision]


@service_task("carry out")
def carried_out(decision: Decision) -> Decision:
    return decision


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask for approval in a flow while a person answers the form; without an answer nobody does."""
    monkeypatch.setattr("flows.approval.ANSWER_POLL_S", 1)
    data = DataVersion(folder=tmp_path, version="v", is_tracked=False, file_md5={})

    def ask(
        answer: dict[str, object] | None = None,
        timeout_s: int = DEADLINE_S,
        decision: Decision = DECISION,
    ) -> Decision:
        settings = {"name": "any", "gate": {"approval": "manual", "approval_timeout_s": timeout_s}}
        config = RunConfig.model_validate(settings)
        run = Run(config=config, data=data, lineage=lineage(), folder=tmp_path, mlflow_run_id="")
        started: list[UUID] = []

        @flow
        def asking() -> Decision:
            started.append(UUID(flow_run.id))
            return carried_out(approved(run, decision))

        person = threading.Thread(target=_answer, args=(started, answer))
        if answer is not None:
            person.start()
        decided = asking()
        if answer is not None:
            person.join()
        return decided

    return ask


def _answer(started: list[UUID], answer: dict[str, object]) -> None:
    """Resume the flow as the Prefect UI does, once it has paused."""
    give_up = time.monotonic() + DEADLINE_S
    with get_client(sync_client=True) as client:
        while time.monotonic() < give_up:
            state = client.read_flow_run(started[0]).state if started else None
            if state is not None and state.type == StateType.PAUSED:
                client.resume_flow_run(started[0], run_input=answer)
                return
            time.sleep(0.2)


@pytest.mark.faults(kind="approval", trials=1)
def test_an_approved_version_is_promoted_and_the_history_tells_who_approved_it_and_why(
    ask: Ask,
) -> None:
    decision = ask({"approve": True, "who": "Ada", "why": "looked at the gallery"})
    assert decision.is_promoted
    assert decision.reason == "better; approved by Ada: looked at the gallery"


@pytest.mark.faults(kind="approval", trials=1)
def test_a_refused_version_stays_challenger(ask: Ask) -> None:
    decision = ask({"approve": False, "who": "Ada", "why": "shoes look odd"})
    assert (decision.is_promoted, decision.aliases) == (False, [CHALLENGER])
    assert decision.reason == "refused by Ada: shoes look odd; the gate would promote it (better)"


@pytest.mark.faults(kind="approval", trials=1)
def test_a_version_that_nobody_answers_for_is_not_promoted_when_the_time_is_out(ask: Ask) -> None:
    decision = ask(None, timeout_s=2)
    assert (decision.is_promoted, decision.aliases) == (False, [CHALLENGER])
    assert decision.reason == "nobody approved it within 2 s; the gate would promote it (better)"


def test_what_the_gate_holds_back_or_an_earlier_try_settled_asks_nobody(ask: Ask) -> None:
    for update in ({"is_promoted": False}, {"is_settled": True}, {"champion": 4}):
        decision = DECISION.model_copy(update=update)
        assert ask(None, decision=decision) == decision


def test_the_form_shows_the_checks_and_asks_for_a_name(ask: Ask) -> None:
    fields = Approval.model_json_schema()["properties"]
    assert fields["who"]["minLength"] == 1
    assert all(
        field.get("description")
        for name, field in fields.items()
        if name in ("approve", "who", "why")
    )


def test_a_run_that_would_ask_where_nobody_can_answer_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(ConfigError, match="no Prefect server to ask on; start one with `make up`"):
        require_approver(RunConfig.model_validate({"name": "any", "gate": {"approval": "manual"}}))
