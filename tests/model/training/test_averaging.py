"""The average against a slow twin, its place in the model, and mixtures of weights."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.towers.towers import Towers
from model.training.averaging import (
    WeightAverage,
    choose_coefficient,
    copy_weights,
    interpolate,
)


def disturb(clip: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_equals_a_slow_twin_in_float64(decay: float) -> None:
    model, twin = torch.nn.Linear(3, 2), dict[str, torch.Tensor]()
    average = WeightAverage(model, decay)
    for name, value in model.state_dict().items():
        twin[name] = value.double()
    for step in range(30):
        disturb(model, step)
        average.update(step)
        kept = min(decay, (1 + step) / (10 + step))
        twin = {
            name: kept * twin[name] + (1 - kept) * value.double()
            for name, value in model.state_dict().items()
        }
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value.double(), twin[name], rtol=1e-5, atol=1e-5)


def test_torch_s_averaged_model_of_the_same_update_has_the_same_bits_resumed_or_not() -> None:
    """So ours may change into it; its own decay, one from the first step on, gives other weights."""

    def warm(averages: list[torch.Tensor], weights: list[torch.Tensor], averaged: int) -> None:
        decay = min(0.9, int(averaged) / (9 + int(averaged)))
        get_ema_multi_avg_fn(decay)(averages, weights, None)

    model = torch.nn.Linear(3, 2)
    ours = WeightAverage(model, 0.9)
    torchs = {
        "same": AveragedModel(model, multi_avg_fn=warm),
        "own": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    }
    torchs["same"].n_averaged.fill_(1)  # else the first step's weights take the start's place
    for step in range(30):
        disturb(model, step)
        ours.update(step)
        for averaged_model in torchs.values():
            averaged_model.update_parameters(model)
        if step == 12:  # both go on from what a checkpoint holds
            state = {name: value.clone() for name, value in ours.state_dict().items()}
            ours = WeightAverage(model, 0.9)
            ours.load_state_dict(state)
            state = copy.deepcopy(torchs["same"].state_dict())
            torchs["same"] = AveragedModel(model, multi_avg_fn=warm)
            torchs["same"].load_state_dict(state)

    for name, value in torchs["same"].module.named_parameters():
        assert torch.equal(ours.state_dict()[name], value)
        assert not torch.equal(torchs["own"].module.get_parameter(name), value)


def test_the_model_has_the_average_for_its_weights_within_the_block_alone_and_nothing_is_copied() -> (
    None
):
    model = torch.nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    disturb(model, 0)
    own, mean = (
        copy_weights(model),
        {name: value.clone() for name, value in average.state_dict().items()},
    )
    storages = {value.data_ptr() for value in (*model.parameters(), *average.state_dict().values())}
    with pytest.raises(RuntimeError, match="half-way"), average.in_place():
        assert all(torch.equal(value, mean[name]) for name, value in model.state_dict().items())
        raise RuntimeError("half-way")
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, mean[name]) for name, value in average.state_dict().items())
    assert {
        value.data_ptr() for value in (*model.parameters(), *average.state_dict().values())
    } == storages


def test_a_mixture_is_the_start_at_0_the_trained_weights_at_1_and_between_them_otherwise(
    towers: Towers,
) -> None:
    start = copy_weights(towers.clip)
    disturb(towers.clip, 1)
    trained = copy_weights(towers.clip)
    for coefficient, expected in ((0.0, start), (1.0, trained)):
        mixed = interpolate(start, trained, coefficient)
        assert all(torch.equal(mixed[name], value) for name, value in expected.items())
    for name, value in interpolate(start, trained, 0.3).items():
        twin = 0.7 * start[name].double() + 0.3 * trained[name].double()
        torch.testing.assert_close(value.double(), twin, rtol=1e-6, atol=1e-6)


def test_counters_of_a_mixture_are_the_trained_ones() -> None:
    start, trained = {"batches": torch.tensor(3)}, {"batches": torch.tensor(8)}
    assert interpolate(start, trained, 0.5) == trained


@pytest.mark.parametrize(
    ("tolerance", "chosen"),
    [(0.0, 0.8), (0.01, 0.6), (0.1, 0.5), (1.0, 0.0)],
    ids=["best", "near", "farther", "any"],
)
def test_the_smallest_coefficient_that_is_near_enough_to_the_best_is_chosen(
    tolerance: float, chosen: float
) -> None:
    recalls = {0.0: 0.1, 0.5: 0.45, 0.6: 0.5 - 0.01, 0.8: 0.5, 0.9: 0.5, 1.0: 0.4}
    assert choose_coefficient(recalls, tolerance) == chosen
