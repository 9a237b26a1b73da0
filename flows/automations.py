"""What the Prefect server does by itself: mark dead runs as crashed, notify people of a version.

`prefect deploy --all` and `make up` create the automations, the same ones however often. The
triggers that start a retraining stand in prefect.yaml, with their deployment. Notices go to every
notification block (Slack, Sendgrid e-mail, Teams, a webhook, …) that is saved on the server under
the name ``commerce-clip``.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.cli.terminal import print_line
from model.errors import ServiceError
from tasks.promotion.promote import HELD_BACK, PROMOTED
from tasks.runtime.environment import HEARTBEAT_S

NAME_PREFIX = "commerce-clip: "
BLOCK_NAME = "commerce-clip"
MISSED_BEATS = 3
FLOW_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
VERSIONS = {"prefect.resource.id": "commerce-clip.model.*"}
OUR_RUNS = {"prefect.resource.role": "work-pool", "prefect.resource.name": "commerce-clip"}
ENDS = {
    f"prefect.flow-run.{state}"
    for state in ("Completed", "Failed", "Crashed", "Cancelled", "Skipped")
}
WAITS = {f"prefect.flow-run.{state}" for state in ("Paused", "Suspended", "AwaitingRetry")}
VERDICT = (
    "{{ event.resource.name }} version {{ event.payload.version }}: {{ event.payload.reason }}"
)
FAILURE = (
    "{{ flow.name }} {{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}"
)


def automate() -> None:
    """Create the automations on the Prefect server again, after a notification block was added.

    Raises:
        ServiceError: no Prefect server is named.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise ServiceError(
            "there is no Prefect server to automate; start one with `make up`, "
            "or set PREFECT_API_URL"
        )

    for name in create_automations()["automations"]:
        print_line(name)


def create_automations() -> dict[str, list[str]]:
    """Create or renew our automations and return their names: a build step of prefect.yaml."""
    with get_client(sync_client=True) as client:
        # Blocks of our name, of whatever type that can notify.
        blocks = [
            block.id
            for block in client.read_block_documents(include_secrets=False)
            if block.name == BLOCK_NAME
            and block.block_schema
            and "notify" in block.block_schema.capabilities
        ]
        wanted = [crash_zombies(), *_notifications(blocks)]

        for old in client.read_automations():
            if old.name.startswith(NAME_PREFIX):
                client.delete_automation(old.id)
        for automation in wanted:
            client.create_automation(automation)
    return {"automations": [automation.name for automation in wanted]}


def crash_zombies(silence_s: int = MISSED_BEATS * HEARTBEAT_S) -> AutomationCore:
    """Return the automation that marks a silent run, one without a heartbeat or end, as crashed."""
    trigger = EventTrigger(
        match=FLOW_RUNS,
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *ENDS, *WAITS},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=silence_s),
    )

    crash = ChangeFlowRunState(
        state=StateType.CRASHED,
        message=f"no heartbeat for {silence_s} s: its process or machine is gone; "
        "the next run goes on from there",
    )
    return AutomationCore(
        name=f"{NAME_PREFIX}crash zombies",
        description="A run whose process is gone is marked as crashed.",
        trigger=trigger,
        actions=[crash],
    )


def _notifications(blocks: list[UUID]) -> Iterator[AutomationCore]:
    """Return the automations that send notices to blocks; none where there are no blocks."""
    if not blocks:
        return

    # What became of a version, and of a run.
    failures = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
    for what, about, expected, match, related, body in (
        ("promoted", "A version was promoted.", {PROMOTED}, VERSIONS, {}, VERDICT),
        ("held back", "A version was held back.", {HELD_BACK}, VERSIONS, {}, VERDICT),
        ("failed", "A run failed or crashed.", failures, FLOW_RUNS, OUR_RUNS, FAILURE),
    ):
        trigger = EventTrigger(
            match=match,
            match_related=related,
            expect=expected,
            posture=Posture.Reactive,
            threshold=1,
        )
        notices: list[ActionTypes] = [
            SendNotification(block_document_id=block, subject=f"commerce-clip: {what}", body=body)
            for block in blocks
        ]
        yield AutomationCore(
            name=f"{NAME_PREFIX}tell of {what}",
            description=about,
            trigger=trigger,
            actions=notices,
        )
