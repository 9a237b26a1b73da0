import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows import stack
from flows.__main__ import main
from flows.processes import Process, is_running, load, save, start, stop
from flows.servers import addresses
from model.errors import ServiceError
from tasks.runtime.environment import ROOT, prepare

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
ADDRESSES = {
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
    "PREFECT_API_AUTH_STRING": "commerce-clip:secret",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    "MLFLOW_TRACKING_USERNAME": "commerce-clip",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "COMMERCE_CLIP_PAGES_URL": "http://127.0.0.1:8600",
}
HOLD_LOCK = """
import os, sys
os.environ["COMMERCE_CLIP_STATE"] = sys.argv[1]
from tasks.runtime.locks import locked
with locked("stack", "`make up`"):
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_DATABASE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""
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


@contextmanager
def other_process(code: str, *arguments: object) -> Iterator[None]:
    """A process that holds something for the block; it says when it does."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"held\n"
        yield
        process.stdin.close()


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


@pytest.mark.faults(kind="P5: two at once, stale records, locked databases", trials=1)
@pytest.mark.parametrize("command", ["up", "down"])
def test_of_two_that_are_typed_at_once_one_wins_and_the_other_says_so(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with other_process(HOLD_LOCK, folder.parent):
        assert main([command]) == 1
    said = capsys.readouterr()
    assert "`make up` (process " in said.err and "run the command again" in said.err
    assert said.out == ""
    assert not folder.exists()


@pytest.mark.faults(kind="P5: two at once, stale records, locked databases", trials=2)
@pytest.mark.parametrize("name", ["mlflow.db", "prefect/prefect.db"])
def test_a_database_that_another_program_holds_is_a_sentence(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = folder.parent / name
    database.parent.mkdir(exist_ok=True)
    monkeypatch.setattr(stack, "LOCK_PATIENCE_S", 0.1)
    with other_process(HOLD_DATABASE, database):
        assert main(["up"]) == 1
        said = capsys.readouterr().err
        with pytest.raises(ServiceError, match="database is locked"):
            stack.require_running()
    assert said.count("\n") == 1
    assert f"{database}: database is locked; `fuser {database}` names the program" in said
    stack.require_running()


@pytest.mark.faults(kind="P5: two at once, stale records, locked databases", trials=1)
def test_records_of_before_a_power_cut_are_no_servers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_stack(folder, Process(pid=os.getpid(), started=1.0))
    begun = []
    monkeypatch.setattr(stack, "_start_all", begun.append)
    with pytest.raises(KeyError):  # nothing was recorded anew
        stack.up()
    assert len(begun) == 1 and PROFILES == [None]


def test_the_password_outlives_the_servers_and_is_its_owner_s_alone(folder: Path) -> None:
    first = addresses.choose_addresses()
    addresses.record_addresses(first)
    assert addresses.recorded_addresses() == first == addresses.choose_addresses()
    private = [folder / "password", folder / "addresses.json", addresses.login_file()]
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600] * 3
    addresses.forget_addresses()
    assert [path.exists() for path in private] == [True, False, False]


def test_our_password_is_never_put_beside_the_address_of_another_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_stack(folder, Process(pid=os.getpid(), started=1.0))
    for name in ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "of:somebody")
    prepare()
    assert os.environ["PREFECT_API_AUTH_STRING"] == ADDRESSES["PREFECT_API_AUTH_STRING"]
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
    for name in ADDRESSES:
        os.environ.pop(name, None)


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
        ServiceError, match="prefect, mlflow, pages, worker: started by `make up`, but gone since"
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


def test_a_deployment_works_in_the_checkout_of_its_code_and_in_our_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", "prefect")  # what the template of the pool says
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    assert stack.enter_checkout() == {"directory": str(ROOT)}
    assert Path.cwd() == ROOT
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
