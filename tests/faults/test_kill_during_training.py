"""Killed at any point and run again, a training ends with the bits of one that nobody killed."""

import json
import multiprocessing
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from model.checkpoint import load_latest, verify_sealed
from model.sections import ModelConfig
from tests.faults.killed_stage import EPOCHS, digests, run_stage
from tests.tiny import TinyData, tiny_stage_config, write_data, write_model

pytestmark = pytest.mark.faults

POINTS = ("before_write", "mid_write", "before_rename", "after_rename", "purge")
RANDOM_KILLS = 6
CHILD_LIMIT_S = 60

# Children fork from a server that has imported torch once, seconds that each would spend otherwise.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.killed_stage"])


@dataclass(frozen=True)
class Unbroken:
    """A stage that ran through, what it left, and how long it took from its first step."""

    model: ModelConfig
    data: TinyData
    digests: dict[str, str]
    seconds: float

    def start(self, folder: Path, fault: str | None = None, armed_after: int = 0) -> tuple[ForkServerProcess, Event]:
        config, started = tiny_stage_config(epochs=EPOCHS), CONTEXT.Event()
        pairs = (self.data.train, self.data.valid)
        child = CONTEXT.Process(target=run_stage, args=(self.model, config, pairs, folder, fault, armed_after, started))
        child.start()
        return child, started

    def run(self, folder: Path, fault: str | None = None, armed_after: int = 0) -> int:
        """Run to the end and return the exit code."""
        child, _ = self.start(folder, fault, armed_after)
        return ended(child)


def ended(child: ForkServerProcess) -> int:
    child.join(CHILD_LIMIT_S)
    code = child.exitcode
    if code is None:
        child.kill()
        child.join()
        pytest.fail(f"the child was still running after {CHILD_LIMIT_S} s")
    child.close()
    return code


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """Return the run that nobody killed."""
    folder = tmp_path_factory.mktemp("unbroken")
    run = Unbroken(write_model(folder), write_data(folder), {}, 0.0)
    child, started = run.start(folder / "stage")
    assert started.wait(CHILD_LIMIT_S)
    begin = time.monotonic()
    assert ended(child) == 0
    left = digests(folder / "stage")
    assert any("optimizer" in name for name in left) and any("best" in name for name in left)
    return Unbroken(run.model, run.data, left, time.monotonic() - begin)


def assert_nothing_is_unreadable(folder: Path) -> None:
    """Check what a kill left: the two newest checkpoints are whole, and so are the best weights that they name.

    An older one may be cut, because a kill can hit the middle of a purge.
    """
    for checkpoint in sorted((folder / "checkpoints").glob("step-?????????"))[-2:]:
        verify_sealed(checkpoint)
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        verify_sealed(folder / state["best_folder"])


def assert_ends_as_unbroken(unbroken: Unbroken, folder: Path) -> None:
    assert_nothing_is_unreadable(folder)
    assert unbroken.run(folder) == 0
    assert unbroken.digests.items() <= digests(folder).items()
    assert list(folder.rglob("*.tmp")) == []
    assert_nothing_is_unreadable(folder)


@pytest.mark.parametrize("armed_after", [0, 2])
@pytest.mark.parametrize("point", POINTS)
def test_killed_inside_a_save_and_run_again_ends_with_the_same_bits(
    unbroken: Unbroken, tmp_path: Path, point: str, armed_after: int
) -> None:
    assert unbroken.run(tmp_path / "stage", f"save:{point}", armed_after) == -signal.SIGKILL
    newest = load_latest(tmp_path / "stage" / "checkpoints")
    assert (0 if newest is None else newest.state["epoch"]) >= armed_after, "at most one epoch is lost"
    assert_ends_as_unbroken(unbroken, tmp_path / "stage")


def test_killed_at_any_time_again_and_again_ends_with_the_same_bits(unbroken: Unbroken, tmp_path: Path) -> None:
    rng, killed = random.Random(0), 0
    for _ in range(RANDOM_KILLS):
        child, started = unbroken.start(tmp_path / "stage")
        assert started.wait(CHILD_LIMIT_S)
        time.sleep(rng.uniform(0, unbroken.seconds / 3))
        child.kill()
        killed += ended(child) == -signal.SIGKILL
        assert_nothing_is_unreadable(tmp_path / "stage")
    assert killed > 0
    assert_ends_as_unbroken(unbroken, tmp_path / "stage")


def test_a_fault_that_is_not_named_kills_nobody(unbroken: Unbroken, tmp_path: Path) -> None:
    assert unbroken.run(tmp_path / "stage", "save:elsewhere") == 0
    assert digests(tmp_path / "stage") == unbroken.digests
