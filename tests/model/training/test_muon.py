"""Muon steps equally far along every singular direction of a matrix; the rest is AdamW."""

import pytest
import torch

from model.config.sections import ModelConfig
from model.towers.create import create_towers
from model.training.muon import ADAM_RMS, MOMENTUM, Muon, orthogonalise
from model.training.optimizer import OptimizerState, make_optimizer
from tests.tiny import tiny_stage_config, write_model


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_orthogonalising_keeps_the_singular_vectors_and_evens_the_values_out(
    shape: tuple[int, int],
) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left, _, right = torch.linalg.svd(drawn, full_matrices=False)
    matrix = (left * torch.logspace(-2, 0, left.shape[1], dtype=torch.float64) @ right).float()
    turned = left.T @ orthogonalise(matrix).double() @ right.T
    diagonal = turned.diagonal()
    assert 0.78 < float(diagonal.min()) <= float(diagonal.max()) < 1.22
    torch.testing.assert_close(turned, torch.diag(diagonal), rtol=0, atol=1e-5)


def slow_step(
    weight: torch.Tensor, gradients: list[torch.Tensor], lr: float, decay: float
) -> torch.Tensor:
    """Repeat the updates in float64 with the momentum written out."""
    weight, momentum = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient.double()
        ahead = (1 - MOMENTUM) * gradient.double() + MOMENTUM * momentum
        parts = ahead.chunk(3) if weight.shape[0] == 3 * weight.shape[1] else (ahead,)
        steps = [
            orthogonalise(part.float()).double() * ADAM_RMS * max(part.shape) ** 0.5
            for part in parts
        ]
        weight = weight * (1 - lr * decay) - lr * torch.cat(steps)
    return weight


@pytest.mark.parametrize("shape", [(5, 8), (12, 4)])
def test_a_matrix_follows_its_momentum_and_stacked_ones_each_their_own(
    shape: tuple[int, int],
) -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(3)]
    weight = torch.nn.Parameter(start.clone())
    optimizer = Muon([{"params": [weight], "is_matrix": True, "weight_decay": 0.1}], lr=0.01)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(
        weight.detach().double(), slow_step(start, gradients, 0.01, 0.1), rtol=0, atol=1e-5
    )


def test_what_is_no_matrix_of_a_layer_is_updated_as_adamw_does(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = write_model(tmp_path_factory.mktemp("muon"))
    ends = [trained(model, name) for name in ("adamw", "muon")]
    differs = {name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])}
    matrices = {name for name, value in ends[0].items() if "resblocks" in name and value.ndim == 2}
    assert matrices and differs == matrices


def trained(model: ModelConfig, optimizer: str) -> dict[str, torch.Tensor]:
    """Return the weights after two steps along gradients that do not depend on them."""
    clip = create_towers(model, "cpu").clip
    stepper = make_optimizer(
        clip, torch.nn.Module(), tiny_stage_config(optimizer=optimizer, matrix_lr=1e-3)
    )
    for group in stepper.param_groups:
        group["lr"] = 1e-3 * group["lr_share"]
    for _ in range(2):
        for number, parameter in enumerate(clip.parameters()):
            parameter.grad = torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(number)
            )
        stepper.step()
    return {name: value.detach().clone() for name, value in clip.named_parameters()}


def two_parameters() -> tuple[list[torch.nn.Parameter], Muon]:
    """Return a matrix and a bias as they are before the first step."""
    matrix, bias = torch.nn.Parameter(torch.eye(4, 6)), torch.nn.Parameter(torch.ones(5))
    groups = [
        {"params": [matrix], "is_matrix": True, "weight_decay": 0.1},
        {"params": [bias], "is_matrix": False, "weight_decay": 0.0},
    ]
    return [matrix, bias], Muon(groups, lr=0.01, fused=True)


def walk(parameters: list[torch.nn.Parameter], optimizer: Muon, steps: range) -> None:
    for step in steps:
        for number, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(10 * step + number)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_an_optimiser_read_back_goes_on_with_the_same_bits() -> None:
    parameters, optimizer = two_parameters()
    walk(parameters, optimizer, range(3))
    kept = {name: value.clone() for name, value in OptimizerState(optimizer).state_dict().items()}
    again, resumed = two_parameters()
    for copy, parameter in zip(again, parameters, strict=True):
        copy.data.copy_(parameter.data)
    OptimizerState(resumed).load_state_dict(kept)
    walk(parameters, optimizer, range(3, 6))
    walk(again, resumed, range(3, 6))
    assert all(
        torch.equal(copy, parameter) for copy, parameter in zip(again, parameters, strict=True)
    )
