"""Locked towers: features computed once give the training of features computed each time."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.batches.loading import PairInput, pair_input
from model.config.sections import ModelConfig, StageConfig
from model.embeddings.features import Locked, features_layout, lock_input
from model.evaluation.split import evaluate_split
from model.towers.create import create_towers
from model.towers.folder import load_towers
from model.towers.towers import NamedTensors, Towers
from model.training.locking import locked_in, present_input
from model.training.loop import train
from model.training.optimizer import (
    batch_norms,
    counts_batches,
    make_optimizer,
    set_learning_rate,
    set_training,
)
from model.training.stage import Callbacks, EpochRecord, Stage
from tests.tiny import TinyData, tiny_stage_config

BOTH = Locked(image=True, text=True)


class Interrupted(Exception):
    """What a callback raises in the place of a kill."""


@dataclass(frozen=True)
class Locking:
    """A stage of tiny towers, with features or without."""

    model: ModelConfig
    data: TinyData
    folder: Path

    def towers(self) -> Towers:
        return create_towers(self.model, "cpu")

    def pairs(self, towers: Towers, locked: Locked, split: str = "train") -> PairInput:
        index = self.data.train_index() if split == "train" else self.data.valid_index()
        plain = pair_input(towers.input_spec, index)
        return lock_input(towers, plain, locked, self.folder / "cache")

    def run(
        self, name: str, locked: Locked, callbacks: Callbacks | None = None, **changes: Any
    ) -> NamedTensors:
        towers = self.towers()
        train_pairs = self.pairs(towers, locked)
        valid = self.pairs(towers, locked, "valid")

        def validate(towers: Towers) -> dict[str, float]:
            present = present_input(towers.clip, valid)
            return evaluate_split(towers, present, 16, 16, 0).metrics()

        config: StageConfig = tiny_stage_config(**changes)
        stage = Stage(config, train_pairs, validate, self.folder / name, 0, 0)
        state = train(towers, stage, callbacks or Callbacks())
        return load_towers(stage.folder / state.best_folder, "cpu").clip.state_dict()


@pytest.fixture
def locking(tiny_model: ModelConfig, tiny_data: TinyData, tmp_path: Path) -> Locking:
    return Locking(tiny_model, tiny_data, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"locked_image_epochs": 2, "locked_text_epochs": 2},
        {"locked_image_epochs": 2, "freeze": "image", "ema_decay": 0.9},
        {"locked_text_epochs": 1, "distill_weight": 0.5, "crop_scale": 1.0},
        {"locked_image_epochs": 1, "micro_batch_size": 4},
    ],
    ids=["both", "LiT", "text, then all", "image, then all"],
)
def test_features_computed_once_train_as_features_computed_each_time_do(
    locking: Locking, changes: dict[str, Any]
) -> None:
    locked = locked_in(tiny_stage_config(**changes), 0)
    once = locking.run("once", locked, **changes)
    each = locking.run("each", Locked(), **changes)
    for name, value in once.items():
        torch.testing.assert_close(value, each[name], rtol=1e-3, atol=1e-4, msg=name)


def test_what_is_locked_stays_to_the_bit_and_its_projection_learns(locking: Locking) -> None:
    start = locking.towers().clip.state_dict()
    after = locking.run("run", BOTH, locked_image_epochs=2, locked_text_epochs=2, epochs=2)
    moved = {name for name, value in after.items() if not torch.equal(value, start[name])}
    assert moved == {"visual.proj", "text_projection", "logit_scale"}


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_stage_stopped_around_its_unlocking_ends_with_the_bits_of_an_unbroken_one(
    locking: Locking, stop_after: int
) -> None:
    changes = {"locked_image_epochs": 3, "locked_text_epochs": 1, "epochs": 3, "queue_size": 40}
    whole = locking.run("whole", BOTH, **changes)

    def stop(record: EpochRecord) -> None:
        if record.epoch == stop_after:
            raise Interrupted

    with pytest.raises(Interrupted):
        locking.run("broken", BOTH, Callbacks(on_epoch=stop), **changes)
    resumed = locking.run("broken", BOTH, **changes)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_features_are_found_again_and_made_anew_for_other_weights_or_pixels(
    locking: Locking, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers, made = locking.towers(), list[str]()
    plain = pair_input(towers.input_spec, locking.data.train_index())

    def lock(towers: Towers) -> PairInput:
        return lock_input(
            *(towers, plain, BOTH, locking.folder / "cache"),
            on_rows=lambda what, rows: made.append(what),
        )

    first = lock(towers)
    assert set(made) == {"image features", "text features"}
    assert first.image_features is not None and first.text_features is not None
    assert first.image_features.shape == (64, 32) and first.text_features.shape == (64, 16)
    made.clear()
    assert np.array_equal(lock(towers).image_features, first.image_features) and not made

    # A projection is none of the trunk; a weight of the trunk is, and so is what is fed to it.
    keys = {tower: features_layout(towers, plain, tower).key for tower in ("image", "text")}
    with torch.no_grad():
        towers.clip.visual.proj += 1
        assert features_layout(towers, plain, "image").key == keys["image"]
        towers.clip.visual.conv1.weight[0, 0, 0, 0] += 1e-3
    assert features_layout(towers, plain, "image").key != keys["image"]
    assert features_layout(towers, plain, "text").key == keys["text"]
    other = replace(towers, config={**towers.config, "preprocess_cfg": {"mean": [0, 0, 0]}})
    assert features_layout(other, plain, "image").key != features_layout(towers, plain, "image").key


def test_features_of_bf16_towers_take_half_the_disk(locking: Locking) -> None:
    towers = locking.towers()
    plain = pair_input(towers.input_spec, locking.data.train_index())
    half = replace(towers, precision="bf16")
    whole = features_layout(towers, plain, "image").bytes
    assert features_layout(half, plain, "image").bytes == whole / 2
    locked = lock_input(half, plain, BOTH, locking.folder / "cache")
    assert locked.image_features is not None and locked.image_features.dtype == np.float16


def test_each_tower_has_its_rate_and_warms_up_when_it_is_unlocked(towers: Towers) -> None:
    config = tiny_stage_config(lr=1e-2, image_lr=1e-3, text_lr=1e-4, locked_text_epochs=1)
    optimizer = make_optimizer(towers.clip, torch.nn.Module(), config)
    set_learning_rate(optimizer, 1e-2, lambda locked_epochs: 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rate = {name: rates[id(p)] for name, p in towers.clip.named_parameters()}
    assert rate["visual.proj"] == rate["text_projection"] == rate["logit_scale"] == 1e-2
    assert rate["visual.conv1.weight"] == pytest.approx(1e-3)
    assert rate["transformer.resblocks.0.ln_1.bias"] == pytest.approx(0.5e-4)


def test_layers_below_those_that_learn_keep_still(locking: Locking) -> None:
    start = locking.towers().clip.state_dict()
    after = locking.run("run", Locked(), learning_layers=1)
    moved = {name for name, value in after.items() if not torch.equal(value, start[name])}
    assert {"visual.proj", "transformer.resblocks.0.mlp.c_fc.weight"} <= moved
    assert not moved & {"visual.conv1.weight", "token_embedding.weight", "positional_embedding"}


def test_batch_norms_keep_their_statistics_where_they_shall(tmp_path: Path) -> None:
    clip = torch.nn.Module()
    clip.visual = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout())
    for keeps in (False, True):
        set_training(clip, tiny_stage_config(keep_batch_norm=keeps))
        assert [norm.training for norm in batch_norms(clip).values()] == [not keeps]
    set_training(clip, tiny_stage_config(), ["image"])
    assert not any(module.training for module in clip.visual.modules())

    # Batches may be taken in parts where none is counted.
    assert counts_batches(clip, tiny_stage_config(epochs=2, locked_image_epochs=1))
    for config in (
        tiny_stage_config(epochs=2, locked_image_epochs=2),
        tiny_stage_config(freeze="image"),
        tiny_stage_config(keep_batch_norm=True),
    ):
        assert not counts_batches(clip, config)
