"""The local stand-in for production: real Prefect and MLflow servers and a worker, driven as a person drives them."""

import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.runtime.environment import ROOT
from tests.integration.stack import Stack, running_stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

LISTENING = "0A"
LINEAGE = (
    "base_weights", "base_weights_sha256", "code_version", "config", "config_sha256", "data_is_tracked", "data_version",
    "fingerprint", "git_commit", "git_is_dirty", "prefect_flow_run", "promotion", "test_mean_recall", "validation",
    "weights_sha256",
)  # fmt: skip


def listening(port: int) -> set[str]:
    """The local addresses, as the kernel writes them, on which a port is listened on."""
    found = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            local, state = line.split()[1], line.split()[3]
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                found.add(local.rpartition(":")[0])
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="module")
def flow_run(stack: Stack, miniature_config: Path, miniature: Path) -> dict[str, Any]:
    """The flow run of a first `prefect deployment run 'retrain/sample' --watch`."""
    done = stack.run_deployment("retrain/sample", config=str(miniature_config), data=str(miniature))
    assert done.returncode == 0, done.stdout + worker_log(stack)
    return stack.flow_runs()[-1]


def worker_log(stack: Stack) -> str:
    return (stack.shell.state / "stack" / "worker.log").read_text()


def artifacts(stack: Stack, flow_run: dict[str, Any]) -> dict[str, Any]:
    """The data of a flow run's artifacts by key, tables parsed."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [flow_run["id"]]}}}
    found = stack.prefect_api("artifacts/filter", wanted)
    return {a["key"]: json.loads(a["data"]) if a["type"] == "table" else a["data"] for a in found}


def champion(stack: Stack) -> dict[str, Any]:
    found = stack.mlflow_api("registered-models/alias", name="commerce-clip", alias="champion")
    version: dict[str, Any] = found["model_version"]
    return version


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_the_servers_listen_on_loopback_only(stack: Stack) -> None:
    for address in (stack.prefect, stack.mlflow):
        assert listening(int(address.rpartition(":")[2])) == {"0100007F"}


def test_the_deployments_of_prefect_yaml_exist(stack: Stack) -> None:
    found = {(d["entrypoint"], d["name"]) for d in stack.prefect_api("deployments/filter", {})}
    promised = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert found == {(deployment["entrypoint"], deployment["name"]) for deployment in promised}
    assert all(
        d["work_pool_name"] == "commerce-clip" for d in stack.prefect_api("deployments/filter", {})
    )


def test_the_weekly_schedule_is_active_and_runs_one_at_a_time(stack: Stack) -> None:
    weekly = stack.prefect_api("deployments/name/retrain/weekly")
    (schedule,) = weekly["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["cron"] == "0 4 * * 1"
    assert schedule["schedule"]["timezone"] == "UTC"
    assert weekly["global_concurrency_limit"]["limit"] == 1
    assert weekly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_the_weekly_check_of_drift_is_an_rrule_with_its_time_zone_named(stack: Stack) -> None:
    (schedule,) = stack.prefect_api("deployments/name/drift-check/champion")["schedules"]
    assert schedule["active"] and schedule["schedule"]["timezone"] == "UTC"
    assert "FREQ=WEEKLY;BYDAY=SU" in schedule["schedule"]["rrule"]


def test_the_scheduler_plans_the_weekly_runs(stack: Stack, flow_run: dict[str, Any]) -> None:
    wanted = {
        "deployments": {"name": {"any_": ["weekly"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    planned = [run["expected_start_time"] for run in stack.prefect_api("flow_runs/filter", wanted)]
    assert planned
    for moment in map(datetime.fromisoformat, planned):
        assert (moment.weekday(), moment.hour, moment.minute) == (0, 4, 0)


def test_the_form_shows_defaults_and_choices(stack: Stack) -> None:
    form = stack.prefect_api("deployments/name/retrain/sample")["parameter_openapi_schema"][
        "properties"
    ]
    assert list(form) == [
        "config",
        "data",
        "device",
        "precision",
        "finetune_epochs",
        "overrides",
        "when_busy",
    ]
    assert form["config"]["default"] == "configs/sample.yaml"
    assert form["device"]["enum"] == ["config", "auto", "cpu", "cuda", "mps"]
    assert form["overrides"]["type"] == "array"
    assert form["when_busy"]["enum"] == ["skip", "wait"]
    assert all(field.get("description") for field in form.values())


def test_a_deployment_run_completes_and_is_named_after_config_and_data(
    stack: Stack, flow_run: dict[str, Any], miniature: Path
) -> None:
    assert flow_run["state_name"] == "Completed"
    assert flow_run["name"] == f"miniature-{miniature.name}"
    tasks = stack.prefect_api(
        "task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [flow_run["id"]]}}}
    )
    assert {task["state_name"] for task in tasks} == {"Completed"}
    names = {task["name"].rpartition("-")[0] for task in tasks}
    assert names >= {
        "validate",
        "pretrain",
        "finetune",
        "evaluate",
        "register",
        "promote",
        "export",
    }


def test_the_page_of_a_run_shows_what_was_found(stack: Stack, flow_run: dict[str, Any]) -> None:
    shown = artifacts(stack, flow_run)
    assert [row["split"] for row in shown["validation"]] == [
        "pretrain-products-1", "pretrain-products-2", "train", "valid", "test",
    ]  # fmt: skip
    assert [row["measure"] for row in shown["rank-at-k"]] == ["Rank@1", "Rank@5", "Rank@10"] * 3
    assert shown["retrain-report"].startswith("# commerce-clip version 1\n")
    assert {row["check"] for row in shown["gate"]} == {"expectations", "base weights"}
    assert champion(stack)["run_id"] in shown["mlflow-run"]


def test_the_registered_version_is_champion_and_carries_its_lineage(
    stack: Stack, flow_run: dict[str, Any]
) -> None:
    version = champion(stack)
    tags = {tag["key"].removeprefix("commerce_clip."): tag["value"] for tag in version["tags"]}
    assert version["version"] == "1"
    assert [name for name in LINEAGE if not tags.get(name)] == []
    assert tags["prefect_flow_run"] == flow_run["id"]
    assert tags["config"] == "miniature"


def test_the_champion_in_a_fresh_process_gives_the_table_s_rank_at_1(
    stack: Stack, flow_run: dict[str, Any], miniature: Path
) -> None:
    split = miniature / "finetune" / "test.tsv"
    used = stack.shell.use_champion(split, stack.mlflow)
    assert (
        f"{100 * used['rank_at_1']:.1f}" == artifacts(stack, flow_run)["rank-at-k"][0]["new model"]
    )
    assert used["norm_error"] < 1e-5
    assert used["shape"][0] == len(split.read_bytes().splitlines())


def test_the_command_line_reports_to_the_servers_and_finds_nothing_new(
    stack: Stack, flow_run: dict[str, Any], miniature_config: Path, miniature: Path
) -> None:
    done = stack.shell.flows("retrain", "--config", miniature_config, "--data", miniature)
    assert done.returncode == 0, done.stderr
    assert "nothing new: commerce-clip version 1" in done.stdout
    second = stack.flow_runs()[-1]
    assert second["id"] != flow_run["id"]
    assert second["state_name"] == "Completed"
    found = stack.mlflow_api("model-versions/search", filter="name = 'commerce-clip'")
    assert len(found["model_versions"]) == 1


def test_an_unknown_config_fails_the_run_with_its_sentence(
    stack: Stack, flow_run: dict[str, Any]
) -> None:
    done = stack.run_deployment("retrain/sample", config="configs/smaple.yaml")
    assert done.returncode == 1
    failed = stack.flow_runs()[-1]
    assert failed["state_type"] == "FAILED"
    assert (
        "configs/smaple.yaml: no such config file; did you mean 'configs/sample.yaml'?"
        in failed["state"]["message"]
    )
    assert "Traceback" not in worker_log(stack)


def test_other_hosts_names_are_refused_by_mlflow(stack: Stack) -> None:
    asked = urllib.request.Request(
        f"{stack.mlflow}/api/2.0/mlflow/experiments/list", headers={"Host": "evil.example"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=30)
    assert refused.value.code == 403
    refused.value.close()


def test_down_ends_everything_and_frees_the_ports(stack: Stack) -> None:
    done = stack.shell.flows("down")
    assert done.returncode == 0, done.stderr
    assert "stopped worker, mlflow, prefect" in done.stdout
    for address in (stack.prefect, stack.mlflow):
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
            pass
    assert list(stack.shell.home.rglob("*")) == []
