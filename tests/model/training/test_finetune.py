"""Layer-wise rates, frozen towers, averages, distillation and interpolation in the loop, and resumed in its middle."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from model.batches.loading import pair_input
from model.config.sections import ModelConfig
from model.storage.sealed import weights_sha256
from model.towers.create import create_towers
from model.towers.folder import load_towers
from model.towers.towers import Towers
from model.training.averaging import WeightAverage, copy_weights
from model.training.checkpoint import load_latest
from model.training.loop import train
from model.training.optimizer import make_optimizer, set_learning_rate
from model.training.stage import Callbacks, EpochRecord, Stage, StepRecord
from model.training.state import TrainState
from tests.tiny import TinyData, names, tiny_stage_config

Weights = dict[str, torch.Tensor]
EVERYTHING = {
    "layer_decay": 0.7,
    "freeze": "image",
    "ema_decay": 0.9,
    "distill_weight": 0.5,
    "interpolation": [0.3, 0.6],
}


class Interrupted(Exception):
    """What a callback raises in the place of a kill."""


@dataclass
class Tuning:
    """Fine-tunes fresh towers of one seed on the tiny pairs; the mean recalls that it finds may be given."""

    model: ModelConfig
    data: TinyData
    folder: Path

    def stage(self, name: str, recalls: list[float] | None = None, **changes: object) -> Stage:
        pairs = pair_input(self.start().input_spec, self.data.train_index())
        left = iter(recalls if recalls is not None else (0.1 * number for number in range(1, 99)))
        return Stage(
            tiny_stage_config(**changes),
            pairs,
            lambda towers: {"mean_recall": next(left)},
            self.folder / name,
            0,
            0,
        )

    def start(self) -> Towers:
        return create_towers(self.model, "cpu", seed=3)

    def run(self, stage: Stage, callbacks: Callbacks | None = None) -> tuple[TrainState, Weights]:
        towers = self.start()
        state = train(towers, stage, callbacks or Callbacks())
        return state, load_towers(stage.folder / state.best_folder, "cpu").clip.state_dict()


@pytest.fixture
def tuning(tiny_model: ModelConfig, tiny_data: TinyData, tmp_path: Path) -> Tuning:
    return Tuning(tiny_model, tiny_data, tmp_path)


def changed(weights: Weights, start: Weights) -> set[str]:
    return {name for name, value in weights.items() if not torch.equal(value, start[name])}


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and not changed(one, other)


def test_each_layer_learns_at_its_share_of_the_rate_and_without_decay_all_at_one(
    towers: Towers,
) -> None:
    objective = torch.nn.Module()
    optimizer = make_optimizer(towers.clip, objective, tiny_stage_config(layer_decay=0.5))
    set_learning_rate(optimizer, 0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rate = {name: rates[id(p)] for name, p in towers.clip.named_parameters()}
    assert rate["visual.conv1.weight"] == rate["token_embedding.weight"] == pytest.approx(0.025)
    assert rate["transformer.resblocks.0.ln_1.bias"] == pytest.approx(0.05)
    assert rate["visual.proj"] == rate["text_projection"] == rate["logit_scale"] == 0.1
    plain = make_optimizer(towers.clip, objective, tiny_stage_config())
    set_learning_rate(plain, 0.1)
    assert [group["lr"] for group in plain.param_groups] == [0.1, 0.1]


def test_a_lower_rate_below_moves_the_embeddings_less(tuning: Tuning) -> None:
    start = copy_weights(tuning.start().clip)
    moved = []
    for name, decay in (("flat", 1.0), ("steep", 0.1)):
        _, weights = tuning.run(tuning.stage(name, epochs=1, layer_decay=decay, concept_weight=0))
        moved.append(
            float((weights["visual.conv1.weight"] - start["visual.conv1.weight"]).abs().mean())
        )
    assert moved[1] < 0.1 * moved[0]


@pytest.mark.parametrize(("frozen", "prefix"), [("image", True), ("text", False)])
def test_a_frozen_tower_keeps_still_to_the_end_and_the_other_learns(
    tuning: Tuning, frozen: str, prefix: bool
) -> None:
    start, seen = copy_weights(tuning.start().clip), list[set[str]]()
    stage = tuning.stage("run", epochs=3, freeze=frozen)
    towers = tuning.start()
    train(
        towers,
        stage,
        Callbacks(on_epoch=lambda record: seen.append(changed(towers.clip.state_dict(), start))),
    )
    its = {name for name in start if name.startswith("visual.") == prefix and name != "logit_scale"}
    assert not its & set().union(*seen)
    assert set(start) - its - {"attn_mask"} <= seen[0]


def test_what_is_judged_and_kept_is_the_average_and_what_trains_on_are_the_weights(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages, honest = list[Weights](), WeightAverage.update

    def update(self: WeightAverage, step: int) -> None:
        honest(self, step)
        averages.append({name: value.clone() for name, value in self.state_dict().items()})

    monkeypatch.setattr(WeightAverage, "update", update)
    plain = tuning.stage("plain", epochs=1)
    tuning.run(plain)
    stage = tuning.stage("run", epochs=1, ema_decay=0.9)
    _, kept = tuning.run(stage)
    assert all(torch.equal(value, kept[name]) for name, value in averages[-1].items())
    checkpoints = [load_latest(each.folder / "checkpoints") for each in (stage, plain)]
    assert checkpoints[0] is not None and checkpoints[1] is not None
    assert equal(checkpoints[0].tensors["weights"], checkpoints[1].tensors["weights"])
    assert all(
        torch.equal(value, checkpoints[0].tensors["average"][name])
        for name, value in averages[-1].items()
    )


def test_distillation_is_a_term_of_the_loss_that_starts_at_nothing_and_holds_the_towers_back(
    tuning: Tuning,
) -> None:
    steps = dict[float, list[StepRecord]]()
    for weight in (1e-6, 30.0):
        told = steps.setdefault(weight, [])
        stage = tuning.stage(f"{weight}", concept_weight=0, distill_weight=weight)
        tuning.run(stage, Callbacks(on_step=told.append))
        for record in told:
            terms = record.losses
            assert terms["loss"] == pytest.approx(
                terms["info_nce"] + weight * terms["distill"], rel=1e-5, abs=1e-5
            )
    assert all(told[0].losses["distill"] == pytest.approx(0, abs=1e-5) for told in steps.values())
    assert steps[30.0][-1].losses["distill"] < 0.5 * steps[1e-6][-1].losses["distill"]


def test_without_the_options_no_term_and_no_group_is_there(tuning: Tuning) -> None:
    told, stage = list[StepRecord](), tuning.stage("run", epochs=1)
    state, _ = tuning.run(stage, Callbacks(on_step=told.append))
    checkpoint = load_latest(stage.folder / "checkpoints")
    assert checkpoint is not None and "average" not in checkpoint.tensors
    assert "distill" not in told[0].losses
    assert (state.coefficient, state.interpolations) == (1.0, [])


def test_the_mixture_that_valid_chooses_is_kept_beside_the_best_epoch(tuning: Tuning) -> None:
    stage = tuning.stage(
        "run", [0.3, 0.5, 0.2, 0.6], interpolation=[0.75, 0.5], interpolation_tolerance=0.05
    )
    state, mixed = tuning.run(stage)
    assert (state.coefficient, state.best_mean_recall, state.best_epoch) == (0.75, 0.6, 2)
    assert state.interpolations == [
        {"coefficient": 0.5, "mean_recall": 0.2},
        {"coefficient": 0.75, "mean_recall": 0.6},
        {"coefficient": 1.0, "mean_recall": 0.5},
    ]
    start = tuning.start().clip.state_dict()
    trained = load_towers(stage.folder / "best-000000008", "cpu").clip.state_dict()
    for name, value in mixed.items():
        torch.testing.assert_close(
            value, start[name] + 0.75 * (trained[name] - start[name]), rtol=1e-5, atol=1e-6
        )


def test_where_no_mixture_is_better_the_trained_weights_stay(tuning: Tuning) -> None:
    stage = tuning.stage("run", [0.3, 0.5, 0.2, 0.4], interpolation=[0.5, 0.75, 1.0])
    state, _ = tuning.run(stage)
    assert (state.coefficient, state.best_folder) == (1.0, "best-000000008")
    assert "interpolated" not in names(stage.folder)


def test_with_all_options_on_a_run_interrupted_in_any_phase_ends_with_the_bits_of_an_unbroken_one(
    tuning: Tuning,
) -> None:
    """After the first epoch, and before the mixtures."""
    changes = EVERYTHING | {"epochs": 2}
    recalls = [0.1, 0.3, 0.35, 0.2]
    unbroken = tuning.stage("unbroken", recalls, **changes)
    whole, _ = tuning.run(unbroken)
    assert whole.coefficient == 0.3
    for phase in (1, 2):
        broken = tuning.stage(f"broken-{phase}", recalls, **changes)
        with pytest.raises(Interrupted):
            tuning.run(broken, Callbacks(on_epoch=partial(stop_after, phase)))
        resumed, _ = tuning.run(broken)
        assert resumed == whole
        assert_same_end(unbroken, broken, whole.best_folder)


def stop_after(epoch: int, record: EpochRecord) -> None:
    if record.epoch == epoch:
        raise Interrupted


def assert_same_end(one: Stage, other: Stage, best: str) -> None:
    ends = [load_latest(stage.folder / "checkpoints") for stage in (one, other)]
    assert ends[0] is not None and ends[1] is not None and ends[0].state == ends[1].state
    assert all(equal(tensors, ends[1].tensors[group]) for group, tensors in ends[0].tensors.items())
    assert "average" in ends[0].tensors
    assert weights_sha256(one.folder / best) == weights_sha256(other.folder / best)
