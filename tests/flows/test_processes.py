import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.processes import Process, is_running, load, save, start, stop

SLEEP = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"]
WITH_A_CHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(child.pid, flush=True); time.sleep(600)",
]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); time.sleep(600)",
]

Starter = Callable[[list[str]], Process]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "service.log"


@pytest.fixture
def started(tmp_path: Path, log: Path) -> Iterator[Starter]:
    """Start a command that is stopped after the test, once it has said something."""
    running = []

    def begin(command: list[str]) -> Process:
        running.append(start(command, tmp_path, os.environ, log))
        wait_until(lambda: log.stat().st_size > 0)
        return running[-1]

    yield begin
    for process in running:
        stop(process, timeout_s=0)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for what must come; the test's own timeout ends a wait in vain."""
    while not is_so():
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    """Return whether a process is there and not merely waiting to be collected."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_started_process_runs_until_it_is_stopped(started: Starter) -> None:
    process = started(SLEEP)
    assert is_running(process)
    assert stop(process)
    assert not is_running(process)
    assert not stop(process)


def test_the_children_of_a_process_end_with_it(started: Starter, log: Path) -> None:
    process = started(WITH_A_CHILD)
    child = int(log.read_text())
    assert is_there(child)
    stop(process)
    assert not is_there(child)


def test_a_process_that_ignores_the_polite_signal_is_killed(started: Starter) -> None:
    process = started(DEAF)
    assert stop(process, timeout_s=0.2)
    assert not is_running(process)


def test_an_id_that_another_process_has_now_is_not_signalled(started: Starter) -> None:
    stranger = started(SLEEP)
    gone = Process(pid=stranger.pid, started=1.0)
    assert not is_running(gone)
    assert not stop(gone)
    assert is_running(stranger)


def test_a_clock_that_is_set_leaves_a_process_recognisable(
    started: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(SLEEP)
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: 1_000_000.0)
    assert is_running(process)


def test_a_zombie_is_not_running(tmp_path: Path, log: Path) -> None:
    process = start([sys.executable, "-c", ""], tmp_path, os.environ, log)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_running(process)
    os.waitpid(process.pid, 0)


def test_a_process_is_recognised_by_a_later_command(started: Starter, tmp_path: Path) -> None:
    save(started(SLEEP), tmp_path / "service.json")
    later = (
        "from pathlib import Path; from flows.processes import *; "
        "print(is_running(load(Path('service.json'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", later],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "True"


def test_a_damaged_or_missing_record_is_no_process(tmp_path: Path) -> None:
    record = tmp_path / "service.json"
    assert load(record) is None
    record.write_text('{"pid": 1')
    assert load(record) is None
