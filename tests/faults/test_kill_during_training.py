"""Killed or stopped at any point and run again, a training ends with the bits of one that nobody
disturbed."""

import json
import multiprocessing
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from model.storage.sealed import verify_sealed
from model.training.checkpoint import load_latest
from tests.faults.killed_stage import BAD_INPUT, EPOCHS, INTERRUPTED, Ended, Trial, digests, serve
from tests.gears import first_of, rounds
from tests.tiny import tiny_stage_config, write_data, write_model

pytestmark = pytest.mark.faults

POINTS = ("before_write", "mid_write", "before_rename", "after_rename", "purge")
STEPS = 4 * EPOCHS
KILLS = rounds(5, 25)
KILLS_A_RUN = 5
ORPHAN_ROUNDS = rounds(3, 10)
LIMIT_S = 60

# The process that forks the trials forks itself from a server that has imported torch once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.killed_stage"])


@dataclass(frozen=True)
class Trainings:
    """Runs trials, and knows what a training that nobody disturbs leaves and how long its steps
    take."""

    connection: Connection
    digests: dict[str, str]
    seconds: float

    def run(self, trial: Trial) -> Ended:
        self.connection.send(trial)
        if not self.connection.poll(LIMIT_S):
            pytest.fail(f"{trial} was still running after {LIMIT_S} s")
        ended: Ended = self.connection.recv()
        return ended

    def assert_ends_as_unbroken(self, folder: Path, share: float = 1.0) -> None:
        assert_nothing_is_unreadable(folder)
        assert self.run(Trial(folder, share)).code == 0
        assert digests(folder).items() >= self.digests.items()
        assert list(folder.rglob("*.tmp")) == []
        assert_nothing_is_unreadable(folder)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    folder = tmp_path_factory.mktemp("unbroken")
    data = write_data(folder)
    ours, theirs = CONTEXT.Pipe()
    arguments = (
        theirs,
        write_model(folder),
        tiny_stage_config(epochs=EPOCHS),
        (data.train, data.valid),
    )
    process = CONTEXT.Process(target=serve, args=arguments, daemon=True)
    process.start()
    assert ours.recv() is None, "it has imported torch, which takes as long as it takes"
    ended = Trainings(ours, {}, 0.0).run(Trial(folder / "stage"))
    assert ended.code == 0
    left = digests(folder / "stage")
    assert any("optimizer" in name for name in left) and any("best" in name for name in left)
    yield Trainings(ours, left, ended.seconds)
    ours.send(None)
    process.join(LIMIT_S)


def assert_nothing_is_unreadable(folder: Path) -> None:
    """Check what a kill left: the two newest checkpoints are whole, and so are the best weights
    that they name.

    An older one may be cut, because a kill can hit the middle of a purge.
    """
    for checkpoint in sorted((folder / "checkpoints").glob("step-?????????"))[-2:]:
        verify_sealed(checkpoint)
        best = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["best_folder"]
        if best:
            verify_sealed(folder / best)


def newest_step(folder: Path) -> int:
    checkpoint = load_latest(folder / "checkpoints")
    return 0 if checkpoint is None else checkpoint.step


@pytest.mark.faults(kind="K1", trials=1)
@pytest.mark.parametrize("armed_after", first_of([2, 0]))
@pytest.mark.parametrize("point", POINTS)
def test_killed_inside_a_save_and_run_again_ends_with_the_same_bits(
    trainings: Trainings, tmp_path: Path, point: str, armed_after: int
) -> None:
    folder = tmp_path / "stage"
    assert trainings.run(Trial(folder, 0.0, f"save:{point}", armed_after)).code == -signal.SIGKILL
    assert newest_step(folder) >= STEPS // EPOCHS * armed_after, "at most one interval is lost"
    trainings.assert_ends_as_unbroken(folder)


@pytest.mark.faults(kind="K1", trials=KILLS)
def test_killed_at_any_step_again_and_again_ends_with_the_same_bits(
    trainings: Trainings, tmp_path: Path
) -> None:
    rng = random.Random(0)
    for number in range(KILLS // KILLS_A_RUN):
        folder = tmp_path / f"stage-{number}"
        for step in sorted(rng.sample(range(1, STEPS + 1), KILLS_A_RUN)):
            assert trainings.run(Trial(folder, fault=f"step:{step}")).code == -signal.SIGKILL
            # The step before it was saved, if it was not an epoch's last one, which is saved when
            # it was validated.
            assert newest_step(folder) == step - 1
            assert_nothing_is_unreadable(folder)
        trainings.assert_ends_as_unbroken(folder)


@pytest.mark.faults(kind="K1", trials=KILLS)
def test_killed_at_any_time_again_and_again_ends_with_the_same_bits(
    trainings: Trainings, tmp_path: Path
) -> None:
    rng, killed, number = random.Random(1), 0, 0
    while killed < KILLS:
        folder, number = tmp_path / f"stage-{number}", number + 1
        for _ in range(KILLS_A_RUN):
            after_s = rng.uniform(0, trainings.seconds / KILLS_A_RUN)
            killed += (
                trainings.run(Trial(folder, number=signal.SIGKILL, after_s=after_s)).code
                == -signal.SIGKILL
            )
            assert_nothing_is_unreadable(folder)
        trainings.assert_ends_as_unbroken(folder)


@pytest.mark.faults(kind="K2", trials=1)
@pytest.mark.parametrize("at_call", first_of([5, 1, 3, 9, 18]))
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, INTERRUPTED)],
    ids=["SIGTERM", "SIGINT"],
)
def test_stopped_by_a_signal_it_loses_no_step_and_ends_with_the_same_bits(
    trainings: Trainings, tmp_path: Path, number: signal.Signals, code: int, at_call: int
) -> None:
    folder = tmp_path / "stage"
    assert trainings.run(Trial(folder, 0.0, number=number, at_call=at_call)).code == code
    # It is asked after each of an epoch's four steps, and once in its validation.
    assert newest_step(folder) == at_call - at_call // 5
    trainings.assert_ends_as_unbroken(folder, share=0.0)


@pytest.mark.faults(kind="K4: training's threads end with it", trials=ORPHAN_ROUNDS)
def test_a_killed_training_leaves_no_process_and_no_shared_memory(
    trainings: Trainings, tmp_path: Path
) -> None:
    rng = random.Random(2)
    for trial in range(ORPHAN_ROUNDS):
        after_s = rng.uniform(0, trainings.seconds / 2)
        ended = trainings.run(
            Trial(tmp_path / str(trial), number=signal.SIGKILL, after_s=after_s, workers=2)
        )
        assert ended.started == [], (
            "batches are decoded in threads, which no kill can part from their process"
        )
        assert ended.shared == []


@pytest.mark.faults(kind="K5", trials=1)
def test_memory_that_runs_out_is_a_sentence_and_leaves_nothing_half_written(
    trainings: Trainings, tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    assert trainings.run(Trial(folder, spare_bytes=2**21, workers=0)).code == BAD_INPUT
    sentence = folder.with_suffix(".error").read_text()
    assert sentence.startswith(
        "step 1: memory ran out with 16 pairs at a time; try batch_size 8, or keep batch_size 16"
    )
    assert newest_step(folder) == 0 and list(tmp_path.rglob("*.tmp")) == []
    trainings.assert_ends_as_unbroken(folder)


def test_a_fault_that_is_not_named_kills_nobody(trainings: Trainings, tmp_path: Path) -> None:
    assert trainings.run(Trial(tmp_path / "stage", fault="save:elsewhere")).code == 0
    assert digests(tmp_path / "stage") == trainings.digests
