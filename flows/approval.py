"""Ask a person before a version becomes champion: the run pauses, a form waits in Prefect's UI."""

import os

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.report import markdown_table
from model.config.load import RunConfig
from model.errors import ConfigError
from tasks.pages.text import escaped
from tasks.promotion.promote import check_table, publish_decision
from tasks.registry.versions import CHALLENGER
from tasks.runtime.log import run_logger
from tasks.runtime.records import Decision, Run

ANSWER_POLL_S = 5


class Approval(RunInput):
    """What the form asks for."""

    approve: bool = Field(description="Make this version champion. Left off, it stays challenger.")
    who: str = Field(min_length=1, max_length=100, description="Your name, for the history.")
    why: str = Field("", max_length=500, description="Why; kept as a tag of the version.")


def require_approver(config: RunConfig) -> None:
    """Refuse to start a run that will ask a person where there is no page to answer on.

    Raises:
        ConfigError: the config wants an approval, but no Prefect server is named.
    """
    if config.gate.approval == "manual" and not os.environ.get("PREFECT_API_URL"):
        raise ConfigError(
            "gate.approval is manual, but there is no Prefect server to ask on; "
            "start one with `make up`, set PREFECT_API_URL, or set gate.approval=auto"
        )


def approved(run: Run, decision: Decision) -> Decision:
    """Return the decision after a person was asked, where the config wants that.

    Nobody is asked about what the gate holds back or an earlier try settled.
    """
    gate = run.config.gate
    is_open = (
        decision.is_promoted and not decision.is_settled and decision.champion != decision.version
    )
    if gate.approval == "auto" or not is_open:
        return decision

    run_logger().warning(
        "version %d waits %d s for approval: %s",
        decision.version,
        gate.approval_timeout_s,
        decision.reason,
    )
    form = Approval.with_initial_data(
        description=f"# Make version {decision.version} champion?\n\n{escaped(decision.reason)}\n\n"
        f"{markdown_table(check_table(decision))}\n",
        approve=False,
        who="",
        why="",
    )
    try:
        answer = pause_flow_run(
            wait_for_input=form, timeout=gate.approval_timeout_s, poll_interval=ANSWER_POLL_S
        )
    except FlowPauseTimeout:
        return _held_back(decision, f"nobody approved it within {gate.approval_timeout_s} s")

    by = f"{answer.who}: {answer.why}" if answer.why else answer.who
    if not answer.approve:
        return _held_back(decision, f"refused by {by}")
    return decision.model_copy(update={"reason": f"{decision.reason}; approved by {by}"})


def _held_back(decision: Decision, why: str) -> Decision:
    held = decision.model_copy(
        update={
            "is_promoted": False,
            "aliases": [CHALLENGER],
            "reason": f"{why}; the gate would promote it ({decision.reason})",
        }
    )
    publish_decision(held)
    return held
