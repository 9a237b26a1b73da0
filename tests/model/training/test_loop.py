"""Training lowers the loss and keeps the best epoch; interrupted, it ends with the same bits."""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batches.loading import pair_input
from model.config.sections import ModelConfig, StageConfig
from model.errors import CheckpointError, ConfigError, DataError, TrainingDiverged
from model.evaluation.split import evaluate_split
from model.storage.sealed import WEIGHTS_FILE, weights_sha256
from model.towers.create import create_towers
from model.towers.folder import load_towers
from model.towers.towers import Towers
from model.training import loop as training
from model.training import objective as objectives
from model.training.checkpoint import Checkpoint, load_latest
from model.training.loop import train
from model.training.optimizer import learning_rate, make_optimizer
from model.training.stage import Callbacks, EpochRecord, Stage, StepRecord
from model.training.state import TrainState
from tests.tiny import TinyData, tiny_stage_config

Validate = Callable[[Towers], dict[str, float]]


class Interrupted(Exception):
    """What a callback raises in the place of a kill."""


@dataclass
class Log:
    """Everything that a run told its callbacks; can stop it after an epoch."""

    stop_after: int = 0
    starts: list[tuple[int, int]] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)

    def callbacks(self) -> Callbacks:
        return Callbacks(
            lambda first, steps: self.starts.append((first, steps)),
            self.steps.append,
            self._on_epoch,
        )

    def _on_epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)
        if record.epoch == self.stop_after:
            raise Interrupted


@dataclass
class Bench:
    """Makes stages on the tiny pairs and trains fresh towers on them."""

    model: ModelConfig
    data: TinyData
    folder: Path

    def stage(
        self, name: str = "run", validate: Validate | None = None, seed: int = 0, **changes: object
    ) -> Stage:
        towers, config = create_towers(self.model, "cpu"), tiny_stage_config(**changes)
        train, valid = (
            pair_input(towers.input_spec, index)
            for index in (self.data.train_index(), self.data.valid_index())
        )
        validated = validate or (
            lambda towers: evaluate_split(towers, valid, 32, 32, workers=0).metrics()
        )
        return Stage(config, train, validated, self.folder / name, seed, workers=0)

    def run(self, stage: Stage, log: Log | None = None, precision: str = "fp32") -> TrainState:
        towers = create_towers(self.model, "cpu", precision, seed=3)
        return train(towers, stage, (log or Log()).callbacks())

    def latest(self, stage: Stage) -> Checkpoint:
        checkpoint = load_latest(stage.folder / "checkpoints")
        assert checkpoint is not None
        return checkpoint


@pytest.fixture
def bench(tiny_model: ModelConfig, tiny_data: TinyData, tmp_path: Path) -> Bench:
    return Bench(tiny_model, tiny_data, tmp_path)


def assert_same_end(bench: Bench, one: Stage, other: Stage) -> None:
    """Compare weights, objective, optimiser, state and the best weights, to the bit."""
    ours, theirs = bench.latest(one), bench.latest(other)
    assert ours.state == theirs.state and ours.step == theirs.step
    assert ours.tensors.keys() == theirs.tensors.keys() == {"weights", "objective", "optimizer"}
    for group, tensors in ours.tensors.items():
        assert tensors.keys() == theirs.tensors[group].keys()
        for name, value in tensors.items():
            assert torch.equal(value, theirs.tensors[group][name]), f"{group} {name}"
    best = str(ours.state["best_folder"])
    assert weights_sha256(one.folder / best) == weights_sha256(other.folder / best)


def scripted(recalls: list[float], seen: list[dict[str, torch.Tensor]] | None = None) -> Validate:
    """Return a validation whose mean recalls are given, keeping the weights that it saw."""
    left = iter(recalls)

    def validate(towers: Towers) -> dict[str, float]:
        if seen is not None:
            seen.append({name: value.clone() for name, value in towers.clip.state_dict().items()})
        return {"mean_recall": next(left)}

    return validate


@given(
    st.integers(1, 300),
    st.integers(0, 400),
    st.floats(1e-6, 1.0),
    st.floats(0, 1e-6),
)
@settings(deadline=None, max_examples=60)
def test_the_learning_rate_equals_a_slow_twin(
    steps: int, warmup_steps: int, lr: float, min_lr: float
) -> None:
    config = StageConfig(lr=lr, min_lr=min_lr, warmup_steps=warmup_steps)
    warmup = min(warmup_steps, steps - 1)
    ramp = np.linspace(0, lr, warmup + 1, dtype=np.float64)[1:]
    half_circle = np.linspace(0, np.pi, steps - warmup + 1, dtype=np.float64)[:-1]
    expected = np.concatenate([ramp, min_lr + (lr - min_lr) * (1 + np.cos(half_circle)) / 2])
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    # Near the cosine's end 1 + cos loses the digits that cancel.
    np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-15 * lr)
    assert max(rates) == pytest.approx(lr) and min(rates[warmup:]) >= min_lr
    assert all(rate > 0 for rate in rates), "no step is wasted"


def test_the_learning_rate_ends_near_the_least() -> None:
    config = StageConfig(lr=1.0, min_lr=0.25, warmup_steps=0)
    assert learning_rate(9_999, 10_000, config) == pytest.approx(0.25, abs=1e-6)
    assert learning_rate(0, 1, replace_config(config, warmup_steps=50)) == 1.0


def replace_config(config: StageConfig, **changes: object) -> StageConfig:
    return StageConfig.model_validate(config.model_dump() | changes)


def test_norms_biases_and_scales_do_not_decay_and_every_other_weight_does(towers: Towers) -> None:
    objective = torch.nn.Module()
    objective.log_scale = torch.nn.Parameter(torch.tensor(2.3))
    optimizer = make_optimizer(
        towers.clip, objective, tiny_stage_config(weight_decay=0.3, beta2=0.9)
    )
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    named = dict(towers.clip.named_parameters()) | {"objective.log_scale": objective.log_scale}
    without = {name for name, parameter in named.items() if decay[id(parameter)] == 0}
    assert len(decay) == len(named) and set(decay.values()) == {0.0, 0.3}
    assert {
        "logit_scale",
        "objective.log_scale",
        "visual.class_embedding",
        "ln_final.weight",
    } <= without
    assert {name for name in named if name.endswith("bias") or ".ln_" in name} <= without
    assert {
        "positional_embedding",
        "visual.positional_embedding",
        "token_embedding.weight",
        "text_projection",
        "visual.proj",
        "visual.conv1.weight",
        "transformer.resblocks.0.attn.in_proj_weight",
    } <= set(named) - without
    assert optimizer.defaults["betas"] == (0.9, 0.9)


@pytest.mark.faults(kind="T1", trials=1)
@pytest.mark.parametrize(("start", "end"), [(9.0, 100.0), (-3.0, 1.0)])
def test_the_logit_scale_stays_between_1_and_100(bench: Bench, start: float, end: float) -> None:
    towers = create_towers(bench.model, "cpu")
    with torch.no_grad():
        towers.clip.logit_scale.fill_(start)
    log = Log()
    train(towers, bench.stage(epochs=1, lr=1e-6), log.callbacks())
    assert [record.logit_scale for record in log.steps] == pytest.approx([end] * 4, rel=1e-3)
    assert 1 <= float(towers.clip.logit_scale.detach().exp()) <= 100 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("precision", "epochs", "left", "gain"), [("fp32", 14, 0.6, 0.2), ("bf16", 5, 0.9, 0.0)]
)
def test_training_lowers_the_loss_and_finds_images_it_has_not_seen(
    bench: Bench, precision: str, epochs: int, left: float, gain: float
) -> None:
    stage, log = bench.stage(epochs=epochs, lr=5e-3), Log()
    before = stage.validate(create_towers(bench.model, "cpu", precision, seed=3))
    state = bench.run(stage, log, precision)
    losses = [record.losses["info_nce"] for record in log.steps]
    concept = [record.losses["concept"] for record in log.steps]
    assert np.mean(losses[-4:]) < left * np.mean(losses[:4]) and np.mean(concept[-4:]) < np.mean(
        concept[1:4]
    )
    assert state.best_mean_recall > before["mean_recall"] + gain
    best = load_towers(stage.folder / state.best_folder, "cpu", precision)
    assert stage.validate(best)["mean_recall"] == state.best_mean_recall
    assert all(value.dtype == torch.float32 for value in best.clip.state_dict().values())


def test_callbacks_hear_of_every_step_and_every_epoch(bench: Bench) -> None:
    stage, log = bench.stage(epochs=3, warmup_steps=3, concept_weight=0.5), Log()
    state = bench.run(stage, log)
    assert log.starts == [(0, 12)]
    assert [record.step for record in log.steps] == list(range(1, 13))
    assert [record.lr for record in log.steps] == [
        learning_rate(step, 12, stage.config) for step in range(12)
    ]
    assert [(record.epoch, record.step) for record in log.epochs] == [(1, 4), (2, 8), (3, 12)]
    assert [entry["mean_recall"] for entry in state.history] == [
        r.metrics["mean_recall"] for r in log.epochs
    ]
    for record in log.steps:
        terms = record.losses
        assert terms["loss"] == pytest.approx(terms["info_nce"] + 0.5 * terms["concept"], rel=1e-5)
        assert record.grad_norm > 0 and record.pairs_per_s > 0


def test_the_best_epoch_is_kept_and_not_the_last(bench: Bench) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    log, stage = Log(), bench.stage(validate=scripted([0.1, 0.5, 0.3, 0.5], seen), epochs=4)
    state = bench.run(stage, log)
    assert (state.best_epoch, state.best_mean_recall) == (2, 0.5), "of equals the earlier"
    assert [record.is_best for record in log.epochs] == [True, True, False, False]
    best = load_towers(stage.folder / state.best_folder, "cpu").clip.state_dict()
    assert all(torch.equal(value, best[name]) for name, value in seen[1].items())
    assert sorted(path.name for path in stage.folder.iterdir()) == ["best-000000008", "checkpoints"]


def test_a_batch_larger_than_the_split_is_refused(bench: Bench) -> None:
    with pytest.raises(
        ConfigError, match="batch_size is 65, but there are only 64 train pairs; lower it"
    ):
        bench.run(bench.stage(batch_size=65))
    bench.run(bench.stage(batch_size=64, epochs=1))


def test_captions_without_a_concept_are_a_sentence(bench: Bench) -> None:
    with pytest.raises(
        DataError, match="no concept is named by 60 train captions; lower min_concept_count or set"
    ):
        bench.run(bench.stage(min_concept_count=60))


def test_missing_disk_space_is_said_before_the_first_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(bench.folder)._replace(free=30_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    log, stage = Log(), bench.stage()
    with pytest.raises(
        CheckpointError, match=r"30 MB free, but checkpoints need \d+ MB; free some space"
    ):
        bench.run(stage, log)
    assert log.steps == [] and not stage.folder.exists()


def test_what_a_run_leaves_at_its_fullest_fits_into_what_it_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    fullest = [0]
    monkeypatch.setattr(training, "require_space", lambda folder, needed: asked.append(needed))
    purge = shutil.rmtree

    def measured(folder: Path, **options: Any) -> None:
        files = [path for path in bench.folder.rglob("*.safetensors") if path.exists()]
        fullest[0] = max(fullest[0], sum(path.stat().st_size for path in files))
        purge(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", measured)
    bench.run(bench.stage(validate=scripted([0.1, 0.2, 0.3, 0.4]), epochs=4))
    assert 0.6 * asked[0] < fullest[0] <= 1.01 * asked[0]


def test_two_runs_of_one_seed_end_with_the_same_bits_and_another_seed_does_not(
    bench: Bench,
) -> None:
    stages = [bench.stage(name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    for stage in stages:
        bench.run(stage)
    assert_same_end(bench, stages[0], stages[1])
    with pytest.raises(AssertionError):
        assert_same_end(bench, stages[0], stages[2])


@pytest.mark.parametrize("concept_weight", [0.0, 1.0])
def test_a_run_interrupted_after_an_epoch_ends_with_the_bits_of_an_unbroken_one(
    bench: Bench, concept_weight: float
) -> None:
    changes: dict[str, object] = {
        "epochs": 3,
        "crop_scale": 0.5,
        "flip": True,
        "patch_dropout": 0.5,
    }
    changes["concept_weight"] = concept_weight
    unbroken, broken = bench.stage("unbroken", **changes), bench.stage("broken", **changes)
    whole, first, rest = Log(), Log(stop_after=1), Log()
    state = bench.run(unbroken, whole)
    with pytest.raises(Interrupted):
        bench.run(broken, first)
    assert bench.run(broken, rest) == state
    assert_same_end(bench, unbroken, broken)
    assert rest.starts == [(4, 12)], "no step is done twice"
    told = [
        (record.step, record.losses, record.lr, record.grad_norm)
        for record in [*first.steps, *rest.steps]
    ]
    assert told == [
        (record.step, record.losses, record.lr, record.grad_norm) for record in whole.steps
    ]


def test_a_run_interrupted_within_an_epoch_ends_with_the_bits_of_an_unbroken_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "FETCH_EVERY", 1)
    unbroken, broken = bench.stage("unbroken"), bench.stage("broken")
    bench.run(unbroken)

    def stop(record: StepRecord) -> None:
        if record.step == 6:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(create_towers(bench.model, "cpu", seed=3), broken, Callbacks(on_step=stop))
    bench.run(broken)
    assert_same_end(bench, unbroken, broken)


def test_a_finished_run_that_is_run_again_does_nothing(bench: Bench) -> None:
    stage, log = bench.stage(), Log()
    state = bench.run(stage)
    before = {path: path.stat().st_mtime_ns for path in stage.folder.rglob("*")}
    assert bench.run(stage, log) == state
    assert log.starts == [(8, 8)] and log.steps == [] and log.epochs == []
    assert {path: path.stat().st_mtime_ns for path in stage.folder.rglob("*")} == before


def test_after_damage_to_the_newest_checkpoint_the_one_before_ends_with_the_same_bits(
    bench: Bench,
) -> None:
    recalls = [0.1, 0.2, 0.3]
    unbroken = bench.stage("unbroken", validate=scripted(recalls), epochs=3)
    damaged = bench.stage("damaged", validate=scripted([*recalls, *recalls[2:]]), epochs=3)
    bench.run(unbroken)
    bench.run(damaged)
    weights = bench.latest(damaged).folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    before = bench.latest(damaged)
    assert before.step == 8
    load_towers(damaged.folder / str(before.state["best_folder"]), "cpu")
    bench.run(damaged)
    assert_same_end(bench, unbroken, damaged)


@pytest.mark.faults(kind="T1", trials=1)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_last_good_checkpoint(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    steps, honest = [0], objectives.info_nce

    def poisoned(*arguments: torch.Tensor) -> torch.Tensor:
        steps[0] += 1
        return honest(*arguments) * (bad if steps[0] == 7 else 1)

    monkeypatch.setattr(objectives, "info_nce", poisoned)
    stage, log = bench.stage(epochs=3), Log()
    with pytest.raises(
        TrainingDiverged, match=r"step 7: the loss is .*; lower lr, lengthen warmup_steps"
    ) as caught:
        bench.run(stage, log)
    checkpoint = bench.latest(stage)
    assert str(checkpoint.folder) in str(caught.value) and checkpoint.step == 4
    assert [record.step for record in log.steps] == list(range(1, 7)), "what was still good is told"
    assert all(bool(value.isfinite().all()) for value in checkpoint.tensors["weights"].values())


def test_divergence_in_the_first_epoch_says_that_there_is_no_checkpoint_yet(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        objectives, "info_nce", lambda image, text, *others: (image * text).sum() * math.nan
    )
    with pytest.raises(TrainingDiverged, match=r"step 1: the loss is nan .* none yet"):
        bench.run(bench.stage())


@pytest.mark.faults(kind="T1", trials=1)
def test_weights_ruined_by_an_epoch_s_last_update_are_never_saved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = training.learning_rate
    monkeypatch.setattr(
        training,
        "learning_rate",
        lambda step, steps, config: math.inf if step == 7 else honest(step, steps, config),
    )
    stage = bench.stage(epochs=3)
    with pytest.raises(
        TrainingDiverged, match=r"step 8: the weights are NaN or infinite; .*step-000000004"
    ):
        bench.run(stage)
    assert bench.latest(stage).step == 4


def test_an_absurd_learning_rate_ends_in_a_result_or_in_a_sentence(bench: Bench) -> None:
    stage = bench.stage(lr=1e6, warmup_steps=0)
    try:
        state = bench.run(stage)
    except TrainingDiverged as error:
        assert "lower lr" in str(error)
    else:
        load_towers(stage.folder / state.best_folder, "cpu")


def test_the_stage_s_folder_holds_nothing_but_models_and_checkpoints(bench: Bench) -> None:
    stage = bench.stage(epochs=4)
    state = bench.run(stage)
    names = sorted(path.name for path in (stage.folder / "checkpoints").iterdir())
    assert names == ["step-000000012", "step-000000016"]
    bests = {path.name for path in stage.folder.glob("best-*")}
    assert state.best_folder in bests and len(bests) <= 2
    assert all((stage.folder / name / WEIGHTS_FILE).is_file() for name in bests)


def test_gradients_are_clipped_to_the_config_s_norm(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    honest = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: None = None) -> None:
        gradients = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        honest(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    log = Log()
    bench.run(bench.stage(epochs=1, grad_clip=0.01), log)
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)
    assert all(record.grad_norm > 0.01 for record in log.steps), (
        "the norm that is told is the one before clipping"
    )


@pytest.mark.parametrize(("crop_scale", "flip"), [(1.0, False), (1.0, True), (0.5, True)])
def test_training_from_caches_ends_with_the_bits_of_training_without(
    bench: Bench, tmp_path: Path, crop_scale: float, flip: bool
) -> None:
    plain = bench.stage("plain", crop_scale=crop_scale, flip=flip)
    cached = bench.stage("cached", crop_scale=crop_scale, flip=flip)
    towers = create_towers(bench.model, "cpu")
    pairs = pair_input(towers.input_spec, cached.train.index, tmp_path / "cache", is_decoded=True)
    bench.run(plain)
    bench.run(replace(cached, train=pairs))
    assert_same_end(bench, plain, cached)


def test_threads_that_decode_change_no_bit(bench: Bench) -> None:
    alone, helped = bench.stage("alone"), replace(bench.stage("helped"), workers=2)
    bench.run(alone)
    bench.run(helped)
    assert_same_end(bench, alone, helped)
