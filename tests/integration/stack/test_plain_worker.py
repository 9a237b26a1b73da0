"""A worker that a person started by hand runs flows as ours does, and ends when it is told to."""

import signal

import psutil
import pytest

from tests.integration.servers import Stack, wait_for
from tests.integration.stack.conftest import ENDED, SLOW_S, Plain
from tests.integration.worker import STOP_S

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.mark.faults(kind="P1: a plain worker", trials=1)
def test_a_run_longer_than_the_automation_s_patience_ends_completed(plain: Plain) -> None:
    silence = next(
        automation["trigger"]["within"]
        for automation in plain.stack.prefect_api("automations/filter", {})
        if automation["name"] == "commerce-clip: crash zombies"
    )
    assert silence < SLOW_S
    wait_for(lambda: plain.state(plain.run)["type"] in ENDED, "the slow run's end")
    assert plain.state(plain.run)["type"] == "COMPLETED", plain.state(plain.run)["message"]
    assert "Crashed" not in plain.worker.log()


@pytest.mark.faults(kind="P1: a plain worker", trials=1)
def test_its_runs_write_nothing_to_home_and_look_no_name_up(plain: Plain, stack: Stack) -> None:
    assert plain.state(plain.run)["type"] == "COMPLETED"
    assert list(plain.worker.home.rglob("*")) == []
    assert plain.worker.looked_up() == []
    assert "Traceback" not in plain.worker.log() and "Warning" not in plain.worker.log()


@pytest.mark.full
@pytest.mark.faults(kind="P1: a plain worker", trials=1)
def test_a_worker_ends_on_the_first_sigterm_and_its_run_is_no_zombie(plain: Plain) -> None:
    run = plain.begin(600, "stopped")
    wait_for((plain.worker.folder / "stopped").exists, "the run to begin")
    started = [
        process.pid for process in psutil.Process(plain.worker.process.pid).children(recursive=True)
    ]
    plain.worker.process.send_signal(signal.SIGTERM)
    plain.worker.process.wait(STOP_S)
    wait_for(lambda: not any(map(psutil.pid_exists, started)), "the run's process to end", STOP_S)
    wait_for(lambda: plain.state(run)["type"] in ENDED, "its end to be told")
    assert plain.state(run)["type"] == "CRASHED"
