"""A data version becomes a champion on real servers, without a person; then a person looks at
it."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from tasks.runtime.environment import ROOT
from tests.integration.servers import Stack, wait_for
from tests.integration.sink import Sink
from tests.integration.stack.conftest import Shop

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(900)]

LISTENING = "0A"
LINEAGE = (
    "base_weights", "base_weights_sha256", "code_version", "config", "config_sha256",
    "data_is_tracked", "data_version", "fingerprint", "git_commit", "git_is_dirty",
    "prefect_flow_run", "promotion", "test_mean_recall", "validation", "weights_sha256",
)  # fmt: skip
STAGES = {"validate", "pretrain", "finetune", "evaluate", "register", "promote", "export"}
NOTHING_NEW = """
import sys
from flows.__main__ import main

assert main(["retrain"]) == 0
heavy = {"torch", "open_clip", "transformers", "great_expectations"} & set(sys.modules)
print("imported:", sorted(heavy))
"""


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


def worker_log(stack: Stack) -> str:
    return (stack.shell.state / "stack" / "worker.log").read_text()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_the_servers_listen_on_loopback_only(stack: Stack) -> None:
    for address in (stack.prefect, stack.mlflow):
        assert listening(int(address.rpartition(":")[2])) == {"0100007F"}


def test_the_deployments_of_prefect_yaml_exist(stack: Stack) -> None:
    found = stack.prefect_api("deployments/filter", {})
    promised = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {(each["entrypoint"], each["name"]) for each in found} == {
        (deployment["entrypoint"], deployment["name"]) for deployment in promised
    }
    assert all(each["work_pool_name"] == "commerce-clip" for each in found)


def test_deploying_made_the_automations(stack: Stack) -> None:
    names = {automation["name"] for automation in stack.prefect_api("automations/filter", {})}
    assert {"commerce-clip: crash zombies", "retrain on new data"} <= names


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


def test_the_form_shows_defaults_and_choices(stack: Stack) -> None:
    schema = stack.prefect_api("deployments/name/retrain/sample")["parameter_openapi_schema"]
    form = schema["properties"]
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


def test_an_ingest_trains_evaluates_registers_and_promotes_without_a_person(shop: Shop) -> None:
    assert shop.run["state_name"] == "Completed", shop.run["state"]["message"]
    assert shop.run["auto_scheduled"] or shop.run["created_by"]["type"] == "AUTOMATION"
    tags = shop.tags()
    assert tags["data_version"] in (shop.stack.shell.root / "data.dvc").read_text()
    assert "first champion" in tags["promotion"]


def test_the_scheduler_plans_the_weekly_runs(shop: Shop) -> None:
    wanted = {
        "deployments": {"name": {"any_": ["weekly"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    found = shop.stack.prefect_api("flow_runs/filter", wanted)
    planned = [datetime.fromisoformat(run["expected_start_time"]) for run in found]
    assert planned
    assert {(at.weekday(), at.hour, at.minute) for at in planned} == {(0, 4, 0)}


def test_a_run_is_named_after_config_and_data_and_every_task_completed(shop: Shop) -> None:
    assert shop.run["name"].startswith("sample-")
    wanted = {"task_runs": {"flow_run_id": {"any_": [shop.run["id"]]}}}
    tasks = shop.stack.prefect_api("task_runs/filter", wanted)
    assert {task["state_name"] for task in tasks} == {"Completed"}
    assert {task["name"].rpartition("-")[0] for task in tasks} >= STAGES


def test_the_page_of_a_run_shows_what_was_found(shop: Shop) -> None:
    shown = shop.artifacts()
    assert [row["split"] for row in shown["validation"]] == [
        "pretrain-products-1", "pretrain-products-2", "train", "valid", "test",
    ]  # fmt: skip
    assert [row["measure"] for row in shown["rank-at-k"]] == ["Rank@1", "Rank@5", "Rank@10"] * 3
    assert shown["retrain-report"].startswith("# commerce-clip version 1\n")
    checks = {row["check"] for row in shown["gate"]}
    assert {"expectations", "base weights", "unseen pairs", "difference", "chance"} <= checks
    (version,) = shop.versions()
    assert version["run_id"] in shown["mlflow-run"]


def test_the_registered_version_is_champion_and_carries_its_lineage(shop: Shop) -> None:
    found = shop.stack.mlflow_api("registered-models/alias", name="commerce-clip", alias="champion")
    assert found["model_version"]["version"] == "1"
    tags = shop.tags()
    assert [name for name in LINEAGE if not tags.get(name)] == []
    assert (tags["prefect_flow_run"], tags["config"]) == (shop.run["id"], "sample")


@pytest.mark.faults(kind="notifications", trials=1)
def test_saved_notification_blocks_hear_of_the_champion(shop: Shop, sink: Sink) -> None:
    wait_for(
        lambda: sink.got("commerce-clip: promoted", "version 1: first champion"), "the notification"
    )
    wait_for(lambda: sink.got("/slack"), "Slack's notification")


def test_the_champion_in_a_fresh_process_gives_the_table_s_rank_at_1(shop: Shop) -> None:
    used = shop.stack.shell.use_champion(shop.test_tsv, **shop.stack.environment)
    assert f"{100 * used['rank_at_1']:.1f}" == shop.artifacts()["rank-at-k"][0]["new model"]
    assert used["norm_error"] < 1e-5
    assert used["shape"][0] == len(shop.test_tsv.read_bytes().splitlines())


def test_a_run_with_nothing_new_imports_nothing_heavy(shop: Shop) -> None:
    done = shop.stack.shell.python("-c", NOTHING_NEW)
    assert done.returncode == 0, done.stderr
    assert "nothing new: commerce-clip version 1" in done.stdout and "imported: []" in done.stdout
    latest = shop.stack.flow_runs()[-1]
    assert latest["id"] != shop.run["id"] and latest["state_name"] == "Completed"
    assert len(shop.versions()) == 1


def test_a_person_s_deployment_run_is_watched_to_its_end(shop: Shop) -> None:
    done = shop.stack.run_deployment("retrain/sample")
    assert done.returncode == 0, done.stdout + worker_log(shop.stack)
    assert "Completed" in done.stdout
    assert len(shop.versions()) == 1


def test_an_unknown_config_fails_the_run_with_its_sentence(shop: Shop) -> None:
    done = shop.stack.run_deployment("retrain/sample", config="configs/smaple.yaml")
    assert done.returncode == 1
    failed = shop.stack.flow_runs()[-1]
    assert failed["state_type"] == "FAILED"
    expected = "configs/smaple.yaml: no such config file; did you mean 'configs/sample.yaml'?"
    assert expected in failed["state"]["message"]
    assert "Traceback" not in worker_log(shop.stack)


def test_a_rollback_without_previous_is_refused_and_the_history_has_every_champion(
    shop: Shop,
) -> None:
    done = shop.stack.shell.flows("rollback")
    assert done.returncode == 1 and "no version has the alias previous" in done.stderr
    done = shop.stack.shell.flows("history")
    assert done.returncode == 0 and "none → 1" in done.stdout


@pytest.mark.faults(kind="X5: secrets", trials=5)
def test_no_planted_secret_is_found_in_databases_logs_reports_and_artifacts(shop: Shop) -> None:
    files = [path for path in shop.stack.shell.state.rglob("*") if path.is_file()]
    assert files and [path for path in files if b"CANARY-" in path.read_bytes()] == []


def test_the_tables_of_the_version_are_beside_its_run(shop: Shop) -> None:
    fingerprint = shop.tags()["fingerprint"][:12]
    (path,) = shop.stack.shell.state.glob(f"runs/sample-{fingerprint}/evaluate/result.json")
    assert json.loads(path.read_text())["metrics"]["text_to_image_rank_at_1"] > 0
