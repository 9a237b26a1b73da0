"""The service alone on one stack: a schedule, failures, deaths of every part, and nobody to help.

The tests build on each other, in the order in which they stand.
"""

import json
import os
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model.training.checkpoint import load_latest, newest_checkpoint
from tests.integration.servers import Stack, wait_for
from tests.integration.sink import Sink
from tests.integration.stack.conftest import Shop

pytestmark = [
    pytest.mark.integration,
    pytest.mark.faults,
    pytest.mark.full,
    pytest.mark.timeout(900),
]

OUTAGES = 5


def figures(shop: Shop, model: str) -> Any:
    """What the evaluation of a model's only version measured."""
    fingerprint = shop.tags(model)["fingerprint"][:12]
    (path,) = shop.stack.shell.state.glob(f"runs/sample-{fingerprint}/evaluate/result.json")
    return json.loads(path.read_text())["metrics"]


def test_a_schedule_fires_by_itself(shop: Shop, stack: Stack) -> None:
    deployment = stack.prefect_api("deployments/name/retrain/weekly")
    soon = {"interval": 15, "anchor_date": datetime.now(UTC).isoformat(), "timezone": "UTC"}
    address = f"deployments/{deployment['id']}/schedules"
    (made,) = stack.prefect_api(address, [{"schedule": soon, "active": True}])
    # On a busy machine the next one comes due while the first works, and is cancelled.
    run = wait_for(lambda: stack.ended_by("COMPLETED", "retrain/weekly"), "a run on schedule")
    assert run["auto_scheduled"]
    done = stack.shell.python(
        "-m", "prefect", "deployment", "schedule", "pause", "retrain/weekly", made["id"]
    )
    assert done.returncode == 0, done.stderr


def test_people_hear_of_a_run_that_failed(shop: Shop, stack: Stack, sink: Sink) -> None:
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
    shop: Shop, stack: Stack
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
    assert figures(shop, "other") == figures(shop, "commerce-clip")
    assert len(shop.versions("other")) == 1


@pytest.mark.faults(kind="S3: Prefect killed during training", trials=OUTAGES)
def test_training_outlives_every_death_of_the_prefect_server_and_is_still_reported(
    shop: Shop, stack: Stack
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


@pytest.mark.faults(kind="X5: secrets", trials=5)
def test_no_planted_secret_is_found_after_all_that(stack: Stack) -> None:
    found = [
        path
        for path in stack.shell.state.rglob("*")
        if path.is_file() and b"CANARY-" in path.read_bytes()
    ]
    assert found == []
