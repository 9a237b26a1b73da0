"""AdamW or Muon as a stage uses it: groups of parameters, the rate of each step, a plain state."""

import math
from collections import defaultdict
from typing import NamedTuple

import torch

from model.config.sections import StageConfig
from model.towers.layers import is_in_layer, place_parameters, tower_modules
from model.towers.towers import NamedTensors
from model.training.muon import Muon


class _Group(NamedTuple):
    """What the parameters of an optimiser's group have in common.

    ``lr_share`` is the part of the learning rate that its layer gets; a frozen group belongs to the
    tower that the stage freezes; Muon updates the matrices of numbered layers.
    """

    lr_share: float
    decays: bool
    is_frozen: bool
    is_matrix: bool = False


def make_optimizer(
    clip: torch.nn.Module, objective: torch.nn.Module, config: StageConfig
) -> torch.optim.AdamW:
    """Make the stage's optimiser over towers and objective, and freeze the tower that it names.

    Norms, biases and scales (fewer than two dimensions) do not decay. A checkpoint numbers the
    parameters by this order of groups, frozen ones included.
    """
    grouped = defaultdict[_Group, list[torch.nn.Parameter]](list)
    places = place_parameters(clip)
    for name, parameter in clip.named_parameters():
        if parameter.requires_grad:
            tower, layers_above = places[name]
            is_matrix = config.optimizer == "muon" and parameter.ndim == 2 and is_in_layer(name)
            rate = config.matrix_lr / config.lr if is_matrix else 1
            share = config.layer_decay**layers_above * rate
            key = _Group(share, parameter.ndim >= 2, tower == config.freeze, is_matrix)
            grouped[key].append(parameter)
            parameter.requires_grad_(not key.is_frozen)
    for parameter in objective.parameters():
        grouped[_Group(1.0, parameter.ndim >= 2, is_frozen=False)].append(parameter)

    groups = [
        {
            **key._asdict(),
            "params": grouped[key],
            "weight_decay": config.weight_decay if key.decays else 0.0,
        }
        for key in sorted(grouped, reverse=True)
    ]
    kind = Muon if config.optimizer == "muon" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=(0.9, config.beta2), eps=1e-6, fused=True)


def set_learning_rate(optimizer: torch.optim.AdamW, lr: float) -> None:
    """Give each group its layer's share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_share"]


def set_training(clip: torch.nn.Module, config: StageConfig) -> None:
    """Put the towers in training mode; a frozen one stays in eval mode, so it counts no batches."""
    clip.train()
    if config.freeze != "none":
        for module in tower_modules(clip, config.freeze):
            module.eval()


def learning_rate(step: int, steps: int, config: StageConfig) -> float:
    """Return the rate of a 0-based step: linear warm-up to ``lr``, half a cosine to ``min_lr``."""
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


class OptimizerState:
    """An optimiser's state as a checkpoint holds it, in named tensors; rates are the config's."""

    def __init__(self, optimizer: torch.optim.AdamW) -> None:
        """View an optimiser."""
        self._optimizer = optimizer

    def state_dict(self) -> NamedTensors:
        """Collect each parameter's moments and step count by the parameter's number."""
        state = self._optimizer.state_dict()["state"]
        return {
            f"{number}.{name}": value
            for number, values in state.items()
            for name, value in values.items()
        }

    def load_state_dict(self, tensors: NamedTensors, /) -> None:
        """Put the state of a checkpoint in place."""
        state: dict[int, NamedTensors] = {}
        for key, value in tensors.items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
        self._optimizer.load_state_dict(
            {"state": state, "param_groups": self._optimizer.state_dict()["param_groups"]}
        )
