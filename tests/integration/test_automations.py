"""What the Prefect server does by itself after `prefect deploy --all`: a real server, no worker, no
training."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.integration.conftest import Shell
from tests.integration.servers import free_ports, request, wait_for
from tests.integration.sink import Sink

pytestmark = [
    pytest.mark.integration,
    pytest.mark.faults,
    pytest.mark.full,
    pytest.mark.timeout(900),
]

IN_SERVER = "import sys\nfrom tasks.runtime.environment import prepare\n\nprepare()\n"
BLOCKS = """
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SendgridEmail, SlackWebhook

url, token = sys.argv[1:]
CustomWebhookNotificationBlock(
    name="sink", url=url, json_data={"subject": "{{subject}}", "body": "{{body}}"},
    headers={"X-Token": "{{token}}"}, secrets={"token": token},
).save("commerce-clip")
SlackWebhook(url=url.replace("http:", "json:") + "slack").save("commerce-clip")
SendgridEmail(
    api_key=token, sender_email="clip@shop.example", to_emails=["team@shop.example"]
).save("commerce-clip")
"""
# The e-mail service's address stands in the library that Prefect sends by; this server is given the
# sink's instead.
MAIL_SERVICE = """
import os
from apprise.plugins.sendgrid import NotifySendGrid

NotifySendGrid.notify_url = os.environ["MAIL_SERVICE"]
"""
EVENTS = """
from prefect.events import emit_event
from tasks.ingest.ingest import EVENT, RESOURCE
from tasks.promotion.promote import announce_decision
from tasks.runtime.records import Decision

held = Decision(version=4, is_promoted=False, aliases=[], reason="not better: a tie", champion=3)
announce_decision("commerce-clip", held)
promoted = {"version": 5, "is_promoted": True, "reason": "better: by far"}
announce_decision("commerce-clip", held.model_copy(update=promoted))
emit_event(EVENT, resource={"prefect.resource.id": RESOURCE})
"""
# A run that sends one heartbeat and is never heard of again; the automation has no minute and a
# half of patience here.
ZOMBIE = """
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.states import Running
from flows.automations import crash_zombies

@flow
def gone() -> None: ...

with get_client(sync_client=True) as client:
    client.create_automation(crash_zombies(silence_s=10))
    runs = [client.create_flow_run(gone, state=Running()) for _ in range(3)]
for run in runs:
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    emit_event("prefect.flow-run.heartbeat", resource=resource)
print("runs", *(run.id for run in runs))
"""


class Server:
    """A Prefect server with our deployments."""

    def __init__(self, shell: Shell, address: str) -> None:
        self.shell, self.address = shell, address

    def api(self, path: str, body: Any = None) -> Any:
        return request(f"{self.address}/api/{path}", body)

    def python(self, code: str, *arguments: str) -> str:
        done = self.shell.python("-c", IN_SERVER + code, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, sink: Sink) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("automations")
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    shell = Shell(
        folder, {"PREFECT_API_URL": f"{address}/api", "PREFECT_HOME": f"{folder}/state/prefect"}
    )
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    (folder / "state" / "prefect").mkdir(parents=True)
    own = {"PREFECT_HOME": f"{folder}/state/prefect", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(MAIL_SERVICE)
    own |= {"PYTHONPATH": f"{folder}/site", "MAIL_SERVICE": f"{sink.url}mail"}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: request(f"{address}/api/health"), "the server")
        # Prefect's own command makes nothing on a fresh server, ours does.
        alone = shell.python("-m", "prefect", "--no-prompt", "deploy", "--all")
        assert alone.returncode == 1 and "work pool 'commerce-clip'" in alone.stdout
        done = shell.flows("deploy")
        assert done.returncode == 0, done.stdout + done.stderr
        yield Server(shell, address)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def told(server: Server, sink: Sink) -> Sink:
    """A sink that three notification blocks of our name point to, after versions were decided on
    and data changed."""
    server.python(BLOCKS, sink.url, "CANARY-webhook")
    done = server.shell.flows("automate")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("commerce-clip: ")] == [
        "commerce-clip: crash zombies", "commerce-clip: tell of promoted",
        "commerce-clip: tell of held back", "commerce-clip: tell of failed",
    ]  # fmt: skip
    server.python(EVENTS)
    return sink


def runs_of(server: Server, deployment: str) -> list[dict[str, Any]]:
    found = server.api(f"deployments/name/{deployment}")
    runs: list[dict[str, Any]] = server.api(
        "flow_runs/filter",
        {"deployments": {"id": {"any_": [found["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"},
    )
    return runs


def test_deploying_made_the_automations_once(server: Server) -> None:
    names = sorted(automation["name"] for automation in server.api("automations/filter", {}))
    assert names == ["commerce-clip: crash zombies", "retrain on new data"]


def test_prefect_s_own_command_may_be_typed_afterwards(server: Server) -> None:
    before = server.api("work_pools/commerce-clip")["base_job_template"]
    done = server.shell.python("-m", "prefect", "--no-prompt", "deploy", "--name", "retrain/sample")
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.api("work_pools/commerce-clip")["base_job_template"] == before


def test_the_deployments_refuse_parameters_that_do_not_fit_their_form(server: Server) -> None:
    deployment = server.api("deployments/name/retrain/sample")
    for wrong in ({"when_busy": "maybe"}, {"finetune_epochs": -1}):
        with pytest.raises(OSError, match="HTTP Error 4"):
            server.api(f"deployments/{deployment['id']}/create_flow_run", {"parameters": wrong})


def test_new_data_starts_a_retraining_without_a_person(server: Server, told: Sink) -> None:
    (run,) = wait_for(lambda: runs_of(server, "retrain/on-new-data"), "the retraining")
    assert run["parameters"] == {"config": "configs/sample.yaml", "when_busy": "wait"}
    assert run["created_by"]["type"] == "AUTOMATION"


@pytest.mark.faults(kind="notifications", trials=3)
def test_people_are_told_what_became_of_a_version(server: Server, told: Sink) -> None:
    wait_for(
        lambda: told.got("commerce-clip: held back", "commerce-clip version 4: not better: a tie"),
        "one message",
    )
    wait_for(lambda: told.got("commerce-clip: promoted", "version 5: better: by far"), "the other")
    wait_for(lambda: told.got("/slack", "version 5"), "Slack's")
    wait_for(
        lambda: told.got("/mail", "team@shop.example", "commerce-clip: promoted", "version 5"),
        "the e-mail",
    )
    assert told.got("CANARY-webhook")


@pytest.mark.faults(kind="K3: zombies", trials=3)
def test_runs_that_send_no_heartbeat_any_more_are_marked_as_crashed(server: Server) -> None:
    runs = server.python(ZOMBIE).split()[-3:]
    for run in runs:
        wait_for(
            lambda run=run: server.api(f"flow_runs/{run}")["state_type"] == "CRASHED",
            "the automation",
        )
        assert (
            "the next run goes on from there" in server.api(f"flow_runs/{run}")["state"]["message"]
        )


def test_a_schedule_plans_its_runs(server: Server) -> None:
    deployment = server.api("deployments/name/retrain/weekly")
    soon = {"interval": 30, "anchor_date": datetime.now(UTC).isoformat(), "timezone": "UTC"}
    before = len(runs_of(server, "retrain/weekly"))
    server.api(f"deployments/{deployment['id']}/schedules", [{"schedule": soon, "active": True}])
    wait_for(lambda: len(runs_of(server, "retrain/weekly")) > before, "the scheduler")


@pytest.mark.faults(kind="X5: secrets", trials=1)
def test_a_secret_of_a_block_is_in_no_file_of_the_server(server: Server, told: Sink) -> None:
    files = [path for path in server.shell.folder.rglob("*") if path.is_file()]
    assert files and [path for path in files if b"CANARY-webhook" in path.read_bytes()] == []


def test_the_weekly_check_of_drift_is_an_rrule_with_its_time_zone_named(server: Server) -> None:
    (schedule,) = server.api("deployments/name/drift-check/champion")["schedules"]
    assert schedule["schedule"]["timezone"] == "UTC"
    assert json.dumps(schedule).count("FREQ=WEEKLY;BYDAY=SU") == 1
