import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import stack
from flows.__main__ import main
from flows.processes import Process, is_running, load, save, start, stop
from flows.servers import addresses
from model.errors import ServiceError
from tasks.runtime.environment import ROOT

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
ADDRESSES = {
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
    "PREFECT_API_AUTH_STRING": "commerce-clip:secret",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    "MLFLOW_TRACKING_USERNAME": "commerce-clip",
    "MLFLOW_TRACKING_PASSWORD": "secret",
}
PROFILES: list[addresses.Addresses | None] = []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own, with free ports and Prefect's profiles left alone."""
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path))
    for variable in addresses.PORTS:
        monkeypatch.setenv(variable, str(free_port()))
    monkeypatch.setattr(addresses, "_set_profile", PROFILES.append)
    monkeypatch.setattr(
        "flows.__main__.prepare", lambda: None
    )  # would leave variables to later tests
    PROFILES.clear()
    return tmp_path / "stack"


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = start(SLEEP, tmp_path, os.environ, tmp_path / "sleeper.log")
    yield process
    stop(process, timeout_s=0)


@pytest.fixture
def occupied() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def record_stack(folder: Path, process: Process) -> None:
    for name in stack.NAMES:
        save(process, folder / f"{name}.json")
    (folder / "addresses.json").write_text(json.dumps(ADDRESSES))


@pytest.mark.parametrize("variable", ["COMMERCE_CLIP_PREFECT_PORT", "COMMERCE_CLIP_MLFLOW_PORT"])
def test_a_port_in_use_is_named_before_anything_is_started(
    variable: str,
    occupied: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, str(occupied))
    assert main(["up"]) == 1
    said = capsys.readouterr()
    assert said.err == (
        f"error: port {occupied} on 127.0.0.1: in use by another program; "
        f"free it, or choose another port with {variable}={occupied + 1}\n"
    )
    assert said.out == ""
    assert not folder.exists()


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_an_impossible_port_is_refused(
    port: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMMERCE_CLIP_MLFLOW_PORT", port)
    assert main(["up"]) == 1
    assert (
        f"COMMERCE_CLIP_MLFLOW_PORT is '{port}'; expected a port, 1 to 65535"
        in capsys.readouterr().err
    )
    assert not folder.exists()


def test_one_port_for_two_servers_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMMERCE_CLIP_MLFLOW_PORT", os.environ["COMMERCE_CLIP_PREFECT_PORT"])
    assert main(["up"]) == 1
    assert "give each its own port" in capsys.readouterr().err


def test_what_a_failed_up_has_started_is_stopped_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = os.environ["COMMERCE_CLIP_MLFLOW_PORT"]
    servers = {
        "mlflow": ["http.server", "--bind", "127.0.0.1", port],
        "prefect": ["http.server", "--no-such-option"],
    }
    monkeypatch.setattr(stack, "_servers", lambda _: servers)
    started = []
    monkeypatch.setattr(
        stack, "save", lambda process, path: (started.append(process), save(process, path))
    )
    assert main(["up"]) == 1
    assert f"prefect ended at once; {folder / 'prefect.log'} says why" in capsys.readouterr().err
    assert "--no-such-option" in (folder / "prefect.log").read_text()
    assert len(started) == 2
    assert not any(is_running(process) for process in started)
    assert not list(folder.glob("*.json"))


def test_up_says_so_when_everything_is_up(
    folder: Path, sleeper: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    record_stack(folder, sleeper)
    assert main(["up"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("already up")
    assert "http://127.0.0.1:4200\n" in said
    assert "http://127.0.0.1:5000\n" in said


def test_down_ends_what_was_recorded_and_forgets_it(
    folder: Path, sleeper: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    record_stack(folder, sleeper)
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "stopped worker\n"
    assert not is_running(sleeper)
    assert not list(folder.glob("*.json"))
    assert PROFILES == [None]


def test_down_does_not_touch_a_process_that_has_a_recorded_id_by_chance(
    folder: Path, sleeper: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Process(pid=sleeper.pid, started=1.0), folder / "worker.json")
    assert main(["down"]) == 0
    assert "nothing to stop" in capsys.readouterr().out
    assert is_running(sleeper)
    assert load(folder / "worker.json") is None


def test_down_with_nothing_running_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert "nothing to stop" in capsys.readouterr().out


def test_flows_refuse_servers_that_are_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_stack(folder, Process(pid=os.getpid(), started=1.0))
    for name, value in ADDRESSES.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ServiceError, match="prefect, mlflow, worker: started by `make up`, but gone since"
    ):
        stack.require_running()


def test_flows_told_to_use_other_servers_do_not_mind_that_ours_are_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_stack(folder, Process(pid=os.getpid(), started=1.0))
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.com/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    stack.require_running()


def test_flows_without_servers_are_the_default() -> None:
    stack.require_running()


def test_a_deployment_works_in_the_checkout_of_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stack.enter_checkout() == {"directory": str(ROOT)}
    assert Path.cwd() == ROOT
