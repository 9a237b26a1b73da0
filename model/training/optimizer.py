"""AdamW or Muon as a stage uses it: groups of parameters, the rate of each step, a plain state."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from model.config.sections import StageConfig
from model.embeddings.features import TOWERS
from model.towers.layers import Tower, is_in_layer, place_parameters, tower_modules, tower_of
from model.towers.passes import trunk_names
from model.towers.towers import NamedTensors
from model.training.muon import Muon


class _Group(NamedTuple):
    """What the parameters of an optimiser's group have in common.

    ``lr_share`` is the part of the learning rate that its layer gets; a frozen group belongs to the
    tower that the stage freezes, or lies below its learning layers; Muon updates the matrices of
    numbered layers. What is locked at first warms up anew when it is unlocked.
    """

    lr_share: float
    decays: bool
    is_frozen: bool
    is_matrix: bool = False
    locked_epochs: int = 0


def make_optimizer(
    clip: torch.nn.Module, objective: torch.nn.Module, config: StageConfig
) -> torch.optim.AdamW:
    """Make the stage's optimiser over towers and objective, and freeze what it does not train.

    Norms, biases and scales (fewer than two dimensions) do not decay. A checkpoint numbers the
    parameters by this order of groups, frozen ones included.
    """
    grouped = defaultdict[_Group, list[torch.nn.Parameter]](list)
    places = place_parameters(clip)
    rates = {"image": config.image_lr, "text": config.text_lr}
    locked = {"image": config.locked_image_epochs, "text": config.locked_text_epochs}
    trunks = {name: tower for tower in TOWERS for name in trunk_names(clip, tower)}
    for name, parameter in clip.named_parameters():
        if parameter.requires_grad:
            tower, layers_above = places[name]
            is_matrix = config.optimizer == "muon" and parameter.ndim == 2 and is_in_layer(name)
            own = rates.get(trunks.get(name, "")) or config.lr
            rate = (config.matrix_lr if is_matrix else own) / config.lr
            share = config.layer_decay**layers_above * rate
            is_frozen = tower == config.freeze or _lies_below(layers_above, config)
            late = locked.get(trunks.get(name, ""), 0)
            key = _Group(share, parameter.ndim >= 2, is_frozen, is_matrix, late)
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


def _lies_below(layers_above: int, config: StageConfig) -> bool:
    return config.learning_layers is not None and layers_above > config.learning_layers


def set_learning_rate(
    optimizer: torch.optim.AdamW, lr: float, warmth: Callable[[int], float] | None = None
) -> None:
    """Give each group its layer's share of the rate.

    ``warmth`` returns how far, from 0 to 1, what was locked for so many epochs has warmed
    up.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_share"]
        if warmth is not None and group["locked_epochs"]:
            group["lr"] *= warmth(group["locked_epochs"])


def set_training(
    clip: torch.nn.Module, config: StageConfig, still_towers: Iterable[Tower] = ()
) -> None:
    """Put the towers in training mode; a frozen one stays in eval mode, so it counts no batches.

    So do towers that keep still for the epoch, and batch norms that keep their statistics or do not
    learn.
    """
    clip.train()
    still = {*still_towers}
    if config.freeze != "none":
        still.add(config.freeze)
    for tower in still:
        for module in tower_modules(clip, tower):
            module.eval()
    for norm in batch_norms(clip).values():
        if config.keep_batch_norm or not _learns(norm):
            norm.eval()


def batch_norms(clip: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the modules whose training counts batches, by name."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    return {name: module for name, module in clip.named_modules() if isinstance(module, kind)}


def counts_batches(clip: torch.nn.Module, config: StageConfig) -> bool:
    """Return whether a batch norm counts batches in any epoch of a stage."""
    locked = {"image": config.locked_image_epochs, "text": config.locked_text_epochs}
    still = {config.freeze, *(tower for tower, epochs in locked.items() if epochs >= config.epochs)}
    names = () if config.keep_batch_norm else batch_norms(clip)
    return any(tower_of(name) not in still for name in names)


def _learns(norm: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in norm.parameters())


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
