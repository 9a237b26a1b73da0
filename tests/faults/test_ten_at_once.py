"""Runs of the main job at once, by schedule, by event and by hand: one trains, the others say who
does."""

import threading
from pathlib import Path

import pytest
from prefect.client.schemas.objects import State

from flows import retrain as main_job
from flows.report import Report
from flows.retrain import retrain
from model.config.load import RunConfig
from tasks.runtime.environment import ROOT
from tasks.runtime.records import DataVersion, Lineage, Version
from tests.gears import first_of

pytestmark = [
    pytest.mark.faults,
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.timeout(300),
]

ROUNDS = (3, 10, *[2] * 18)


class Trained(Exception):
    """The point at which a run has found that it is new, and would begin to train."""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Job":
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path))
    return Job(monkeypatch, tmp_path)


class Job:
    """The main job as far as its lock reaches; the one that trains waits for the others to end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.trained, self.registered = 0, False
        self.others_ended = threading.Event()
        self.ended: list[State[Report]] = []
        self.folder = folder
        monkeypatch.setattr(main_job, "materialise_data", self.materialise)
        monkeypatch.setattr(main_job, "find_registered", self.find_registered)
        monkeypatch.setattr(main_job, "begin_run", self.train)
        monkeypatch.setattr("flows.report.aliases_of", lambda version: ["champion"])

    def materialise(self, config: RunConfig) -> DataVersion:
        return DataVersion(folder=self.folder, version="v" * 32, is_tracked=False, file_md5={})

    def find_registered(self, config: RunConfig, mark: str) -> Version | None:
        return (
            Version(name="commerce-clip", number=1, mlflow_run_id="") if self.registered else None
        )

    def train(self, config: RunConfig, data: DataVersion, lineage: Lineage) -> None:
        self.trained += 1
        assert self.others_ended.wait(200)
        self.registered = True
        raise Trained

    def start(self, when_busy: str) -> threading.Thread:
        def run() -> None:
            sample = str(ROOT / "configs/sample.yaml")
            self.ended.append(retrain(config=sample, when_busy=when_busy, return_state=True))  # type: ignore[arg-type]

        thread = threading.Thread(target=run)
        thread.start()
        return thread


@pytest.mark.faults(kind="S4: runs at once", trials=1)
@pytest.mark.parametrize("runs", first_of(ROUNDS))
def test_of_runs_at_once_one_trains_and_the_others_say_who_holds_the_lock(
    job: Job, runs: int
) -> None:
    threads = [job.start("skip") for _ in range(runs)]
    while sum(thread.is_alive() for thread in threads) > 1:
        threads[0].join(0.05)
    job.others_ended.set()
    for thread in threads:
        thread.join()
    skipped = [state for state in job.ended if state.name == "Skipped"]
    assert (job.trained, len(skipped)) == (1, runs - 1)
    for state in skipped:
        assert state.is_completed()
        assert "holds the lock of commerce-clip" in str(state.message) and "run sample-" in str(
            state.message
        )
        assert "holds the lock" in state.result().headline


def test_a_run_that_waits_starts_after_the_other_and_finds_nothing_new(job: Job) -> None:
    first = job.start("skip")
    while job.trained == 0:
        first.join(0.05)
    waiting = job.start("wait")
    waiting.join(2)
    assert waiting.is_alive()
    job.others_ended.set()
    waiting.join()
    first.join()
    (report,) = [state.result() for state in job.ended if state.is_completed()]
    assert job.trained == 1 and report.headline.startswith("nothing new: commerce-clip version 1")
