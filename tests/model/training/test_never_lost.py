"""Stopped, diverged or out of memory: no step is lost, and a sentence says how to go on."""

import json
import logging
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model.batches.loading import pair_input
from model.config.sections import ModelConfig
from model.errors import CheckpointError, OutOfMemory, TrainingDiverged, TrainingStopped
from model.towers.create import create_towers
from model.towers.towers import Towers
from model.training import loop as training
from model.training import objective as objectives
from model.training.checkpoint import load_latest
from model.training.loop import train
from model.training.optimizer import learning_rate
from model.training.stage import Callbacks, Stage, StepRecord
from model.training.state import Keeper, TrainState
from tests.tiny import TINY_MODEL, TinyData, names, tiny_stage_config

RANDOM_DROPS = {
    "image_size": 16,
    "patch_size": 4,
    "width": 32,
    "layers": 1,
    "head_width": 16,
    "patch_dropout": 0.5,
}
EVERY_PART: dict[str, object] = {
    "checkpoint_share": 1.0,
    "ema_decay": 0.9,
    "distill_weight": 0.5,
    "nearest_weight": 0.2,
    "optimizer": "muon",
}


class Interrupted(Exception):
    """What a callback raises in the place of a kill."""


@dataclass
class Trainer:
    """Trains fresh towers of one seed on the tiny pairs; their patches are dropped at random."""

    model: ModelConfig
    data: TinyData
    folder: Path

    def stage(self, name: str, **changes: object) -> Stage:
        pairs, config = (
            pair_input(self.towers().input_spec, self.data.train_index()),
            tiny_stage_config(**changes),
        )
        return Stage(
            config,
            pairs,
            lambda towers: {"mean_recall": 0.5},
            self.folder / name,
            seed=0,
            workers=0,
        )

    def towers(self) -> Towers:
        return create_towers(self.model, "cpu", seed=3)

    def run(self, stage: Stage, **callbacks: Callable[..., object]) -> TrainState:
        return train(self.towers(), stage, Callbacks(**callbacks))  # type: ignore[arg-type]


@pytest.fixture
def trainer(tmp_path: Path, tiny_data: TinyData) -> Trainer:
    path = tmp_path / "dropping-test-model.json"
    path.write_text(json.dumps(TINY_MODEL | {"vision_cfg": RANDOM_DROPS}), encoding="utf-8")
    return Trainer(ModelConfig(name=str(path)), tiny_data, tmp_path)


def checkpoints(stage: Stage) -> list[str]:
    return names(stage.folder / "checkpoints")


def assert_same_end(one: Stage, other: Stage) -> None:
    """Compare every part and number of the last checkpoints, to the bit."""
    ours, theirs = (load_latest(stage.folder / "checkpoints") for stage in (one, other))
    assert ours is not None and theirs is not None
    assert (ours.step, ours.state) == (theirs.step, theirs.state)
    assert ours.tensors.keys() == theirs.tensors.keys()
    for part, tensors in ours.tensors.items():
        assert tensors.keys() == theirs.tensors[part].keys()
        for name, value in tensors.items():
            assert torch.equal(value, theirs.tensors[part][name]), f"{part} {name}"


def asked(times: int) -> Callable[[], bool]:
    """Return a wish to stop that comes when it was asked for so often."""
    calls = iter(range(1, 1000))
    return lambda: next(calls) == times


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: set[int], bad: float = math.nan) -> None:
    """Let the loss of some steps, counted over all runs, be no number."""
    honest, calls = objectives.info_nce, iter(range(1, 1000))

    def loss(*arguments: object) -> torch.Tensor:
        value: torch.Tensor = honest(*arguments)  # type: ignore[arg-type]
        return value * (bad if next(calls) in steps else 1)

    monkeypatch.setattr(objectives, "info_nce", loss)


# --- checkpoints within an epoch ---


@pytest.mark.parametrize("step", [2, 5, 7])
def test_interrupted_within_an_epoch_every_part_goes_on_from_the_step_before(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(training, "FETCH_EVERY", 1)
    unbroken, broken = (
        trainer.stage("unbroken", **EVERY_PART),
        trainer.stage("broken", **EVERY_PART),
    )
    whole: list[StepRecord] = []
    trainer.run(unbroken, on_step=whole.append)

    def interrupt(record: StepRecord) -> None:
        if record.step == step:
            raise Interrupted

    with pytest.raises(Interrupted):
        trainer.run(broken, on_step=interrupt)
    rest: list[StepRecord] = []
    trainer.run(broken, on_step=rest.append)
    assert [record.step for record in rest] == list(range(step, 9))
    assert [record.losses for record in rest] == [record.losses for record in whole[step - 1 :]]
    assert_same_end(unbroken, broken)


def test_how_often_is_saved_changes_no_bit(trainer: Trainer) -> None:
    ends, every = (
        trainer.stage("ends", **EVERY_PART | {"checkpoint_share": 0.0}),
        trainer.stage("every", **EVERY_PART),
    )
    trainer.run(ends)
    trainer.run(every)
    assert checkpoints(ends) == ["step-000000004", "step-000000008"]
    assert checkpoints(every) == ["step-000000007", "step-000000008"]
    assert_same_end(ends, every)


def test_random_numbers_of_a_step_leave_those_of_others_alone(trainer: Trainer) -> None:
    before = torch.get_rng_state()
    trainer.run(trainer.stage("run", epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


class Clock:
    """Stands where it is put."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(
            "model.training.state.time", SimpleNamespace(monotonic=lambda: self.now)
        )


@pytest.mark.parametrize(
    ("share", "waits"), [(1.0, 0.0), (0.5, 4.0), (0.02, 196.0), (0.0, math.inf)]
)
def test_a_save_is_due_when_it_keeps_to_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, waits: float
) -> None:
    clock = Clock(monkeypatch)
    keeper = Keeper(tmp_path, {"weights": torch.nn.Linear(2, 2)}, share)
    monkeypatch.setattr(
        "model.training.state.save_checkpoint",
        lambda *arguments: setattr(clock, "now", clock.now + 3),
    )
    clock.now += 500
    keeper.save(TrainState(), begin=clock.now - 1)  # it held training up for 4 s
    saved = clock.now
    clock.now = saved + min(waits, 1e9)
    assert keeper.is_due() == (share > 0)
    clock.now = saved + max(0.0, min(waits, 1e9) - 0.01)
    assert keeper.is_due() == (share == 1)


def test_saves_leave_room_for_the_one_at_the_end_of_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    keeper = Keeper(tmp_path, {"weights": torch.nn.Linear(2, 2)}, share=0.02)
    monkeypatch.setattr(
        "model.training.state.save_checkpoint",
        lambda *arguments: setattr(clock, "now", clock.now + 1),
    )
    begin, saves = clock.now, 0
    while clock.now < begin + 240:
        clock.now += 0.5
        if keeper.is_due():
            keeper.save(TrainState())
            saves += 1
    keeper.save(TrainState())
    assert saves and (saves + 1) / (clock.now - begin) <= 0.02


def test_of_several_processes_only_the_writer_saves(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "stage", {"weights": torch.nn.Linear(2, 2)}, 1.0, is_writer=False)
    assert not keeper.is_due()
    keeper.save(TrainState())
    assert not (tmp_path / "stage").exists()


# --- stopping ---


@pytest.mark.parametrize("times", [1, 4, 6])
def test_asked_to_stop_it_ends_the_step_saves_it_and_goes_on_to_the_same_bits(
    trainer: Trainer, times: int
) -> None:
    unbroken, stopped = trainer.stage("unbroken"), trainer.stage("stopped")
    trainer.run(unbroken)
    seen: list[StepRecord] = []
    with pytest.raises(
        TrainingStopped, match=f"stopped after step {times} of 8; run again to go on"
    ):
        trainer.run(stopped, on_step=seen.append, should_stop=asked(times))
    assert [record.step for record in seen] == list(range(1, times + 1)), (
        "what was measured is told"
    )
    assert checkpoints(stopped)[-1] == f"step-{times:09d}"
    trainer.run(stopped, on_step=seen.append)
    assert [record.step for record in seen] == list(range(1, 9))
    assert_same_end(unbroken, stopped)


def test_stopped_in_its_validation_it_validates_when_it_goes_on(trainer: Trainer) -> None:
    unbroken, stopped = trainer.stage("unbroken"), trainer.stage("stopped")
    trainer.run(unbroken)

    def stop(towers: Towers) -> dict[str, float]:
        raise TrainingStopped("stopped during validation")

    with pytest.raises(TrainingStopped):
        trainer.run(replace(stopped, validate=stop))
    checkpoint = load_latest(stopped.folder / "checkpoints")
    assert checkpoint is not None and (checkpoint.step, checkpoint.state["epoch"]) == (4, 0)
    trainer.run(stopped)
    assert_same_end(unbroken, stopped)


# --- divergence ---


def test_divergence_names_the_step_the_lines_of_its_batch_and_the_last_good_checkpoint(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, {7})
    stage = trainer.stage("run", checkpoint_share=1.0)
    with pytest.raises(TrainingDiverged) as caught:
        trainer.run(stage)
    lines = r"train\.tsv lines \d+, \d+, \d+, \d+, \d+ and 11 more"
    pattern = rf"step 7: the loss is nan \(gradient norm nan\); its batch is .*{lines}; "
    pattern += "the last good checkpoint is "
    assert re.match(pattern, str(caught.value))
    assert "step-000000006; lower lr" in str(caught.value)
    assert checkpoints(stage)[-1] == "step-000000006", "what is no number is never saved"


@pytest.mark.faults(kind="T1", trials=1)
def test_rewinding_goes_back_once_with_half_the_rate(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poisoned(monkeypatch, {7})
    stage, starts, seen = (
        trainer.stage("run", on_divergence="rewind"),
        list[int](),
        list[StepRecord](),
    )
    with caplog.at_level(logging.WARNING):
        state = trainer.run(
            stage, on_step=seen.append, on_start=lambda first, steps: starts.append(first)
        )
    assert "going back to step 4 with half the rate" in caplog.text
    assert starts == [0, 4] and state.rewinds == 1 and state.step == 8
    rates = [learning_rate(step, 8, stage.config) for step in range(8)]
    assert [record.lr for record in seen] == rates[:6] + [rate / 2 for rate in rates[4:]]


def test_a_kill_after_the_rewind_does_not_forget_it(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, {7})
    unbroken, broken = (
        trainer.stage(name, on_divergence="rewind") for name in ("unbroken", "broken")
    )
    trainer.run(unbroken)
    poisoned(monkeypatch, {7})

    def interrupt(first: int, steps: int) -> None:
        if first == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        trainer.run(broken, on_start=interrupt)
    trainer.run(broken)
    assert_same_end(unbroken, broken)


@pytest.mark.faults(kind="T1", trials=1)
def test_a_second_divergence_stops(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, {1, 10})
    stage, starts = trainer.stage("run", on_divergence="rewind"), list[int]()
    with pytest.raises(TrainingDiverged, match="the loss is nan"):
        trainer.run(stage, on_start=lambda first, steps: starts.append(first))
    assert starts == [0, 0], "before its first epoch ends it goes back to the start weights"


@pytest.mark.faults(kind="T1", trials=1)
def test_images_that_are_all_the_same_have_a_defined_end(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = training.load_batch
    monkeypatch.setattr(
        training,
        "load_batch",
        lambda *arguments: (batch := honest(*arguments))._replace(
            images=batch.images[:1].expand_as(batch.images)
        ),
    )
    seen: list[StepRecord] = []
    trainer.run(trainer.stage("run"), on_step=seen.append)
    assert all(math.isfinite(record.losses["loss"]) for record in seen)


@pytest.mark.faults(kind="T1", trials=1)
def test_a_concept_loss_without_a_known_concept_is_zero(trainer: Trainer) -> None:
    stage, seen = trainer.stage("run", queue_size=1, epochs=1), list[StepRecord]()
    trainer.run(
        stage, on_step=seen.append
    )  # a queue of one pair knows no concept: two must name it
    assert [record.losses["concept"] for record in seen] == [0.0] * 4
    assert all(math.isfinite(record.losses["loss"]) for record in seen)


# --- memory ---


@pytest.mark.faults(kind="K5", trials=1)
@pytest.mark.parametrize(
    ("error", "micro", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            None,
            (16, 8, 8),
        ),
        (MemoryError(), 4, (4, 2, 2)),
    ],
    ids=["CUDA", "CPU"],
)
def test_memory_that_runs_out_is_a_sentence_with_what_to_try(
    trainer: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    micro: int | None,
    said: tuple[int, int, int],
) -> None:
    def fail(*arguments: object) -> torch.Tensor:
        raise error

    stage = trainer.stage("run", epochs=3)
    trainer.run(replace(stage, config=tiny_stage_config(epochs=1)))
    monkeypatch.setattr(objectives, "info_nce", fail)
    with pytest.raises(OutOfMemory) as caught:
        trainer.run(replace(stage, config=tiny_stage_config(epochs=3, micro_batch_size=micro)))
    at_once, batch_size, micro_batch_size = said
    assert str(caught.value).startswith(
        f"step 5: memory ran out with {at_once} pairs at a time; try batch_size {batch_size}, "
        f"or keep batch_size 16 with micro_batch_size {micro_batch_size}; "
        "the last good checkpoint is "
    )
    assert checkpoints(stage) == ["step-000000004"]


def test_other_errors_of_torch_stay_bugs(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(objectives, "info_nce", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        trainer.run(trainer.stage("run"))


# --- the folder while training goes on ---


@pytest.mark.faults(kind="D2: checkpoints", trials=1)
@pytest.mark.parametrize("is_file", [False, True])
def test_a_folder_that_vanishes_is_made_again_and_one_that_cannot_be_is_a_sentence(
    trainer: Trainer, is_file: bool
) -> None:
    stage = trainer.stage("run", epochs=2)

    def vanish(record: object) -> None:
        shutil.rmtree(stage.folder / "checkpoints")
        if is_file:
            (stage.folder / "checkpoints").touch()

    once = iter([vanish])

    def on_epoch(record: object) -> None:
        next(once, lambda record: None)(record)

    if is_file:
        with pytest.raises(
            CheckpointError, match=r"cannot be written \(.*\); check .* and run again"
        ):
            trainer.run(stage, on_epoch=on_epoch)
    else:
        trainer.run(stage, on_epoch=on_epoch)
        assert checkpoints(stage) == ["step-000000008"]
