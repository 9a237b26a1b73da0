"""One stack of real servers for every test that asks one: a shop of its own, driven as a person
drives it.

Starting it takes 30 s on two cores, its first retraining a minute and a half; both happen once a
session.
"""

import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.project import make_shop
from tests.integration.servers import Stack, running_stack, wait_for
from tests.integration.sink import Sink
from tests.integration.worker import DEPLOY, POOL, SLOW, PlainWorker, plain_worker

BLOCKS = """
import sys
from tasks.runtime.environment import prepare

prepare()
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook

message = {"subject": "{{subject}}", "body": "{{body}}"}
url, token, path = sys.argv[1:]
CustomWebhookNotificationBlock(
    name="sink", url=url, json_data=message,
    headers={"X-Token": "{{token}}"}, secrets={"token": token},
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
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
SLOW_S = 120  # longer than a run may be silent


@dataclass(frozen=True)
class Shop:
    """A stack whose first champion came of an ingest, without a person."""

    stack: Stack
    run: dict[str, Any]
    test_tsv: Path

    def artifacts(self) -> dict[str, Any]:
        """The data of the run's artifacts by key, tables parsed."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [self.run["id"]]}}}
        found = self.stack.prefect_api("artifacts/filter", wanted)
        return {
            each["key"]: json.loads(each["data"]) if each["type"] == "table" else each["data"]
            for each in found
        }

    def versions(self, model: str = "commerce-clip") -> list[dict[str, Any]]:
        found = self.stack.mlflow_api("model-versions/search", filter=f"name = '{model}'")
        versions: list[dict[str, Any]] = found.get("model_versions", [])
        return versions

    def tags(self, model: str = "commerce-clip") -> dict[str, str]:
        """The tags of a model's only version, without their prefix."""
        (version,) = self.versions(model)
        return {tag["key"].removeprefix("commerce_clip."): tag["value"] for tag in version["tags"]}


@pytest.fixture(scope="session")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Iterator[Stack]:
    """Servers and a worker for a checkout of its own; in the end `make down` frees the ports and
    HOME is empty."""
    folder = tmp_path_factory.mktemp("stack")
    project = make_shop(folder, miniature)
    with running_stack(folder, project, PYTHONPATH=str(project), **SECRETS) as stack:
        yield stack
        done = stack.shell.flows("down")
        assert done.returncode == 0, done.stderr
        assert "stopped worker, pages, mlflow, prefect" in done.stdout
    for address in (stack.prefect, stack.mlflow):
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            pass
    assert list(stack.shell.home.rglob("*")) == []


@dataclass(frozen=True)
class Plain:
    """A plain worker, and the slow run that it was given when the tests began."""

    stack: Stack
    worker: PlainWorker
    run: str

    def begin(self, seconds: float, mark: str) -> str:
        """Have a slow run started that touches a file when it is at work; return its id."""
        deployment = self.stack.prefect_api(f"deployments/name/slow/{POOL}")["id"]
        parameters = {"seconds": seconds, "started": str(self.worker.folder / mark)}
        wanted = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        made = self.stack.prefect_api(f"deployments/{deployment}/create_flow_run", wanted)
        return str(made["id"])

    def state(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.stack.prefect_api(f"flow_runs/{run}")["state"]
        return found


@pytest.fixture(scope="session")
def plain(stack: Stack) -> Iterator[Plain]:
    """A worker beside the stack's on a pool of its own, whose slow run passes while other tests
    do."""
    (stack.shell.root / "slow.py").write_text(SLOW)
    done = stack.shell.python("-c", DEPLOY)
    assert done.returncode == 0, done.stderr
    folder = stack.shell.folder / "plain"
    with plain_worker(folder, stack.shell.root, stack.environment) as worker:
        begun = Plain(stack, worker, "")
        yield Plain(stack, worker, begun.begin(SLOW_S, "slow"))


@pytest.fixture(scope="session")
def shop(stack: Stack, sink: Sink, miniature: Path, plain: Plain) -> Shop:
    """The stack after two notification blocks were saved and a drop was ingested, and its
    automation has retrained."""
    done = stack.shell.python("-c", BLOCKS, sink.url, *BLOCK_SECRETS)
    assert done.returncode == 0, done.stderr
    done = stack.shell.flows("automate")
    assert done.returncode == 0, done.stderr
    assert "promoted" in done.stdout and "failed" in done.stdout

    shutil.copytree(miniature / "finetune", stack.shell.folder / "drop")
    test = stack.shell.folder / "drop" / "test.tsv"
    test.write_bytes(test.read_bytes().replace(b"\t", b" now\t"))
    done = stack.shell.flows("ingest", "--name", "autumn", "--test", test)
    assert done.returncode == 0, done.stderr
    return Shop(stack, ended(stack, "retrain/on-new-data"), test)


def ended(stack: Stack, deployment: str) -> dict[str, Any]:
    """The first run of a deployment, once it has ended."""

    def first() -> dict[str, Any] | None:
        runs = stack.runs_of(deployment)
        return runs[0] if runs and runs[0]["state_type"] in ENDED else None

    found: dict[str, Any] = wait_for(first, f"the end of a run of {deployment}")
    return found
