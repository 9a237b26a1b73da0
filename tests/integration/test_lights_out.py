"""The service alone: real servers and a worker, an ingest, a schedule, deaths of every part, and
nobody to help.

The tests build on each other, in the order in which they stand.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model.training.checkpoint import load_latest, newest_checkpoint
from tests.integration.project import make_shop
from tests.integration.sink import Sink
from tests.integration.stack import Stack, request, running_stack, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(900)]

OUTAGES = 5
BLOCKS = """
import sys
from tasks.runtime.environment import prepare

prepare()
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook

message = {"subject": "{{subject}}", "body": "{{body}}"}
url, token, path = sys.argv[1:]
CustomWebhookNotificationBlock(
    name="sink", url=url, json_data=message, headers={"X-Token": "{{token}}"}, secrets={"token": token}
).save("commerce-clip")
SlackWebhook(url=url.replace("http:", "json:") + "slack/" + path).save("commerce-clip")
"""
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "CANARY-aws-4711",
    "GITHUB_TOKEN": "CANARY-git-4712",
    "MLFLOW_TRACKING_USERNAME": "ada",
    "MLFLOW_TRACKING_PASSWORD": "CANARY-mlflow-4713",
}
BLOCK_SECRETS = ("CANARY-webhook-4714", "CANARY-slack-4715")
NOTHING_NEW = """
import sys
from flows.__main__ import main

assert main(["retrain"]) == 0
heavy = {"torch", "open_clip", "transformers", "great_expectations"} & set(sys.modules)
print("imported:", sorted(heavy))
"""


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("lights-out")
    project = make_shop(folder, miniature)
    with running_stack(folder, project, PYTHONPATH=str(project), **SECRETS) as stack:
        yield stack


def ended(stack: Stack, deployment: str, number: int = 1) -> dict[str, Any]:
    """The so-manieth run of a deployment, once it has ended."""

    def look() -> dict[str, Any] | None:
        runs = stack.runs_of(deployment)[number - 1 :]
        return (
            runs[0]
            if runs and runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
            else None
        )

    found: dict[str, Any] = wait_for(look, f"the end of run {number} of {deployment}")
    return found


def versions(stack: Stack, model: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.mlflow_api(
        "model-versions/search", filter=f"name = '{model}'"
    ).get("model_versions", [])
    return found


def table(stack: Stack, model: str) -> Any:
    (version,) = versions(stack, model)
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    (path,) = stack.shell.state.glob(
        f"runs/sample-{tags['commerce_clip.fingerprint'][:12]}/evaluate/figures.json"
    )
    return json.loads(path.read_text())


def test_deploying_made_the_automations(stack: Stack) -> None:
    names = {automation["name"] for automation in stack.prefect_api("automations/filter", {})}
    assert {"commerce-clip: crash zombies", "retrain on new data"} <= names


@pytest.mark.faults(kind="notifications", trials=1)
def test_a_saved_notification_block_is_told_of_versions_and_failures(
    stack: Stack, sink: Sink
) -> None:
    done = stack.shell.python("-c", BLOCKS, sink.url, *BLOCK_SECRETS)
    assert done.returncode == 0, done.stderr
    done = stack.shell.flows("automate")
    assert done.returncode == 0, done.stderr
    assert "tell of promoted" in done.stdout and "tell of failed" in done.stdout


def test_an_ingest_trains_judges_registers_and_promotes_without_a_person(
    stack: Stack, sink: Sink, miniature: Path
) -> None:
    shutil.copytree(miniature / "finetune", stack.shell.folder / "drop")
    test = stack.shell.folder / "drop" / "test.tsv"
    test.write_bytes(test.read_bytes().replace(b"\t", b" now\t"))
    done = stack.shell.flows("ingest", "--name", "autumn", "--test", test)
    assert done.returncode == 0, done.stderr
    run = ended(stack, "retrain/on-new-data")
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert run["auto_scheduled"] or run["created_by"]["type"] == "AUTOMATION"
    (version,) = versions(stack, "commerce-clip")
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags["commerce_clip.data_version"] in (stack.shell.root / "data.dvc").read_text()
    assert "first champion" in tags["commerce_clip.promotion"]
    wait_for(
        lambda: sink.got("commerce-clip: promoted", "version 1: first champion"), "the notification"
    )
    assert sink.got("/slack")


def test_a_run_with_nothing_new_imports_nothing_heavy(stack: Stack) -> None:
    done = stack.shell.python("-c", NOTHING_NEW)
    assert done.returncode == 0, done.stderr
    assert "nothing new: commerce-clip version 1" in done.stdout and "imported: []" in done.stdout


def test_a_schedule_fires_by_itself(stack: Stack) -> None:
    deployment = stack.prefect_api("deployments/name/retrain/weekly")
    soon = {"interval": 15, "anchor_date": datetime.now(UTC).isoformat(), "timezone": "UTC"}
    address = f"{stack.prefect}/api/deployments/{deployment['id']}/schedules"
    (made,) = request(address, [{"schedule": soon, "active": True}])  # type: ignore[arg-type]
    # On a busy machine the next one comes due while the first works, and is cancelled.
    run = wait_for(lambda: stack.ended_by("COMPLETED", "retrain/weekly"), "a run on schedule")
    assert run["auto_scheduled"]
    done = stack.shell.python(
        "-m", "prefect", "deployment", "schedule", "pause", "retrain/weekly", made["id"]
    )
    assert done.returncode == 0, done.stderr


def test_people_are_told_of_a_run_that_failed(stack: Stack, sink: Sink) -> None:
    wrong = json.dumps(["data.min_rows=100000"])
    command = (
        "-m",
        "prefect",
        "deployment",
        "run",
        "validate/sample",
        "--param",
        f"overrides={wrong}",
    )
    assert stack.shell.python(*command).returncode == 0
    wait_for(lambda: sink.got("commerce-clip: failed", "is Failed"), "the notification")


@pytest.mark.faults(kind="K3, S1, S2, S3: servers, worker and run killed", trials=4)
def test_a_run_whose_servers_and_worker_are_killed_ends_with_the_same_table_and_one_version(
    stack: Stack,
) -> None:
    shutil.rmtree(stack.shell.state / "results")
    known = set(stack.shell.state.glob("runs/*"))
    other = json.dumps(["registered_model=other"])
    command = (
        "-m",
        "prefect",
        "deployment",
        "run",
        "retrain/sample",
        "--param",
        f"overrides={other}",
    )
    assert stack.shell.python(*command).returncode == 0

    def checkpoint(name: str) -> list[Path]:
        return [
            path
            for run in set(stack.shell.state.glob("runs/*")) - known
            for path in run.glob(f"{name}/checkpoints/step-*")
        ]

    wait_for(lambda: checkpoint("pretrain"), "a checkpoint")
    for name in ("mlflow", "prefect"):
        stack.kill(name)
    time.sleep(3)
    for name in ("mlflow", "prefect"):
        stack.start_again(name)
    wait_for(lambda: stack.prefect_api("health"), "the server")
    wait_for(lambda: checkpoint("finetune") or stack.ended_by("CRASHED"), "the run to go on")
    stack.kill("worker")
    stack.start_again("worker")
    run = wait_for(lambda: stack.ended_by("CRASHED"), "the automation to find the dead run")
    assert run["state_type"] == "CRASHED"
    assert stack.shell.python(*command, "--watch").returncode == 0
    assert table(stack, "other") == table(stack, "commerce-clip")
    assert len(versions(stack, "other")) == 1


@pytest.mark.faults(kind="S3: Prefect killed during training", trials=OUTAGES)
def test_training_outlives_every_death_of_the_prefect_server_and_is_still_reported(
    stack: Stack,
) -> None:
    known = set(stack.shell.state.glob("runs/*"))
    run = stack.start(
        "retrain/sample", "registered_model=patient", "pretrain.epochs=0", "finetune.epochs=400"
    )

    def newest() -> Path | None:
        new = set(stack.shell.state.glob("runs/*")) - known
        return next(
            filter(
                None, (newest_checkpoint(folder / "finetune" / "checkpoints") for folder in new)
            ),
            None,
        )

    last = wait_for(newest, "a checkpoint")
    for _ in range(OUTAGES):
        stack.kill("prefect")
        at_death = newest()
        last = wait_for(
            lambda at_death=at_death: newest() != at_death and newest(), "training to go on alone"
        )
        stack.start_again("prefect")
        wait_for(lambda: stack.prefect_api("health"), "the server")
    os.kill(stack.processes("worker")[-1], signal.SIGTERM)
    wait_for(
        lambda: stack.prefect_api(f"flow_runs/{run}")["state_type"] == "CRASHED",
        "the server to hear of the end",
    )
    kept = load_latest(last.parent)
    assert kept is not None and kept.step >= int(last.name.removeprefix("step-"))


def test_a_rollback_without_previous_says_so_and_the_history_tells_every_champion(
    stack: Stack,
) -> None:
    done = stack.shell.flows("rollback")
    assert done.returncode == 1 and "no version has the alias previous" in done.stderr
    done = stack.shell.flows("history")
    assert done.returncode == 0 and "none → 1" in done.stdout


@pytest.mark.faults(kind="X5: secrets", trials=5)
def test_no_planted_secret_is_found_in_databases_logs_reports_and_artifacts(stack: Stack) -> None:
    found = [
        path
        for path in stack.shell.state.rglob("*")
        if path.is_file() and b"CANARY-" in path.read_bytes()
    ]
    assert found == []
