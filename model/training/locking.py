"""Towers that are locked for the first epochs of a stage: below their projections nothing moves.

A locked trunk takes no gradient, keeps its running statistics, drops nothing out, and sees centre
crops alone, so its features are the same at every step: they are computed once
(`model.embeddings.features`). When an epoch unlocks it, images and captions come in their place.

Source: Zhai et al. 2022, LiT: Zero-Shot Transfer with Locked-image text Tuning.
"""

from collections.abc import Set
from dataclasses import replace

import torch

from model.batches.loading import PairInput
from model.config.sections import StageConfig
from model.embeddings.features import Locked
from model.towers.layers import Tower
from model.towers.passes import trunk_names


def locked_in(config: StageConfig, epoch: int) -> Locked:
    """Return the towers that a stage locks in a 0-based epoch."""
    return Locked(epoch < config.locked_image_epochs, epoch < config.locked_text_epochs)


def lock_towers(clip: torch.nn.Module, locked: Locked, learning: Set[str]) -> None:
    """Let the parameters that a stage trains learn, but for those of locked trunks."""
    still = {name for tower in locked.towers() for name in trunk_names(clip, tower)}
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(name in learning and name not in still)


def is_still(clip: torch.nn.Module, tower: Tower) -> bool:
    """Return whether nothing of a tower's trunk learns at present."""
    parameters = dict(clip.named_parameters())
    names = [name for name in trunk_names(clip, tower) if name in parameters]
    return not any(parameters[name].requires_grad for name in names)


def present_input(clip: torch.nn.Module, pairs: PairInput) -> PairInput:
    """Return the pairs with the features of those towers alone that keep still at present."""
    return replace(
        pairs,
        image_features=pairs.image_features if is_still(clip, "image") else None,
        text_features=pairs.text_features if is_still(clip, "text") else None,
    )
