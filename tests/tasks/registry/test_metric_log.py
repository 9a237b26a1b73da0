"""Metrics reach MLflow in order, each once, whatever the server does; training never waits."""

import json
import random
import threading
import time
from pathlib import Path

import pytest

from model.errors import ServiceError
from tasks.registry import metric_log
from tasks.registry.metric_log import Measured, MetricLog, send_rest
from tasks.training.curves import read_series


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_log, "PAUSE_S", 0.01)
    monkeypatch.setattr(metric_log, "LONGEST_PAUSE_S", 0.02)


class Server:
    """Keeps what it is sent as MLflow does: equal name, step and time are one value."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int, int], float] = {}
        self.order: list[int] = []
        self.failures = 0
        self.drops_replies = False
        self.is_open = threading.Event()
        self.is_open.set()

    def __call__(self, group: list[Measured]) -> None:
        self.is_open.wait()
        if self.failures and not self.drops_replies:
            self.failures -= 1
            raise ServiceError("503")
        for measured in group:
            new = [(name, measured.step, measured.time_ms) for name in measured.values]
            self.order += [measured.step for key in new[:1] if key not in self.values]
            self.values |= dict(zip(new, measured.values.values(), strict=True))
        if self.failures:
            self.failures -= 1
            raise ServiceError("no reply")

    def series(self, name: str) -> list[tuple[int, float]]:
        return sorted((step, value) for (key, step, _), value in self.values.items() if key == name)


def spooled(folder: Path, name: str) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (folder / metric_log.SPOOL).read_bytes().splitlines()]
    return [(entry["step"], entry["values"][name]) for entry in entries if name in entry["values"]]


@pytest.mark.faults(kind="S2", trials=1)
@pytest.mark.parametrize("drops_replies", [False, True])
@pytest.mark.parametrize("failures", [0, 1, 7])
def test_the_series_equals_the_spool_without_a_gap_or_a_double(
    tmp_path: Path, failures: int, drops_replies: bool
) -> None:
    server = Server()
    server.failures, server.drops_replies = failures, drops_replies
    log = MetricLog("finetune", tmp_path, server)
    for step in range(1, 201):
        log.add(step, {"loss": 1 / step})
    log.add_epoch(200, {"mean_recall": 0.5})
    deadline = time.monotonic() + 20
    while server.failures and time.monotonic() < deadline:
        time.sleep(0.01)
    log.close()
    assert (
        server.series("finetune/loss")
        == spooled(tmp_path, "finetune/loss")
        == [(s, 1 / s) for s in range(1, 201)]
    )
    assert server.order == sorted(server.order)
    assert server.series("finetune/valid_mean_recall") == [(200, 0.5)]


@pytest.mark.faults(kind="S2", trials=1)
@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_server_does_to_each_request_the_series_equals_the_spool(
    tmp_path: Path, seed: int
) -> None:
    rng, server, lock = random.Random(seed), Server(), threading.Lock()
    faults = ["down", "error 500", "slow", "reply dropped", "half of it taken", "none", "none"]

    def send(group: list[Measured]) -> None:
        fault = rng.choice(faults)
        if fault in ("down", "error 500"):
            raise ServiceError(fault)
        if fault == "slow":
            time.sleep(0.005)
        with lock:
            server(group[: len(group) // 2] if fault == "half of it taken" else group)
        if fault in ("reply dropped", "half of it taken"):
            raise ServiceError(fault)

    log = MetricLog("finetune", tmp_path, send)
    for step in range(1, 301):
        log.add(step, {"loss": 1 / step})
    log.close()
    send_rest(tmp_path, server)
    assert (
        server.series("finetune/loss")
        == spooled(tmp_path, "finetune/loss")
        == [(s, 1 / s) for s in range(1, 301)]
    )
    assert server.order == sorted(server.order)


def test_training_does_not_wait_for_a_server_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_log, "CLOSE_TIMEOUT_S", 0.1)
    server = Server()
    server.is_open.clear()
    log = MetricLog("finetune", tmp_path, server)
    for step in range(1, 101):
        log.add(step, {"loss": 1.0})
    log.close()
    assert server.values == {} and len(spooled(tmp_path, "finetune/loss")) == 100
    server.is_open.set()


def log_in_vain(folder: Path) -> Server:
    """Log a step to a server that is away, and return it."""
    away = Server()
    away.failures = 1_000_000
    log = MetricLog("finetune", folder, away)
    log.add(1, {"loss": 2.0})
    log.close()
    assert away.values == {}
    return away


def test_what_waits_is_sent_when_the_run_goes_on(tmp_path: Path) -> None:
    back = Server()
    log_in_vain(tmp_path)
    second = MetricLog("finetune", tmp_path, back)
    second.add(2, {"loss": 1.0})
    second.close()
    assert back.series("finetune/loss") == [(1, 2.0), (2, 1.0)]


def test_what_waits_is_sent_when_the_run_ends(tmp_path: Path) -> None:
    away, back = log_in_vain(tmp_path), Server()
    with pytest.raises(ServiceError):
        send_rest(tmp_path, away)
    assert send_rest(tmp_path, back) == 1
    assert send_rest(tmp_path, back) == 0
    assert send_rest(tmp_path / "never", back) == 0


def test_a_step_that_a_killed_stage_repeats_is_logged_once(tmp_path: Path) -> None:
    server = Server()
    first = MetricLog("finetune", tmp_path, server)
    for step in (1, 2, 3):
        first.add(step, {"loss": float(step)})
    first.close()
    second = MetricLog("finetune", tmp_path, server)
    for step in (2, 3, 4):
        second.add(step, {"loss": float(10 * step)})
    second.close()
    assert server.series("finetune/loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_steps_that_training_goes_back_over_are_logged_anew(tmp_path: Path) -> None:
    server = Server()
    log = MetricLog("finetune", tmp_path, server)
    for step in (1, 2, 3):
        log.add(step, {"loss": 1.0})
    log.go_back(1)
    log.add(2, {"loss": 0.5})
    log.close()
    again = MetricLog("finetune", tmp_path, server)  # a kill, and the step that it repeats
    for step in (2, 3):
        again.add(step, {"loss": 0.4})
    again.close()
    assert read_series(tmp_path)["loss"] == ([1, 2, 3], [1.0, 0.5, 0.4])


@pytest.mark.parametrize("torn", [b'{"kind": "st', b'{"kind": "step", "step": 9}', b"\x00\x00"])
def test_a_line_torn_by_a_kill_is_cut(tmp_path: Path, torn: bytes) -> None:
    server = Server()
    log = MetricLog("finetune", tmp_path, server)
    log.add(1, {"loss": 2.0})
    log.close()
    with (tmp_path / metric_log.SPOOL).open("ab") as file:
        file.write(torn)
    again = MetricLog("finetune", tmp_path, server)
    again.add(2, {"loss": 1.0})
    again.close()
    assert server.series("finetune/loss") == [(1, 2.0), (2, 1.0)]


def test_what_is_not_finite_stays_out(tmp_path: Path) -> None:
    server = Server()
    log = MetricLog("finetune", tmp_path, server)
    log.add(1, {"loss": float("nan"), "lr": 0.1})
    log.close()
    assert list(server.values) == [("finetune/lr", 1, next(iter(server.values))[2])]


def test_mlflow_keeps_one_value_where_a_reply_was_lost(tmp_path: Path) -> None:
    from tasks.registry.tracking import begin_mlflow_run, metric_sender, tracking_client

    client = tracking_client()
    run_id = begin_mlflow_run(client, f"fingerprint of {tmp_path}", "metrics", {}, {})
    send, calls = metric_sender(run_id), iter(range(1_000_000))

    def unreliable(group: list[Measured]) -> None:
        call = next(calls) % 4
        if call == 0:
            raise ServiceError("the request was lost")
        send(group)
        if call == 1:
            raise ServiceError("the reply was lost")

    log = MetricLog("finetune", tmp_path, unreliable)
    for step in range(1, 301):
        log.add(step, {"loss": 1 / step})
    log.close()
    send_rest(tmp_path, send)
    logged = client.get_metric_history(run_id, "finetune/loss")
    assert [(metric.step, metric.value) for metric in logged] == [
        (step, 1 / step) for step in range(1, 301)
    ]
