"""AdamW as a stage uses it: parameter groups, the learning rate of each step, its state as plain tensors."""

import math

import torch

from model.checkpoint import Checkpoint
from model.sections import StageConfig

ADAM_BETA1 = 0.9
ADAM_EPS = 1e-6


def make_optimizer(clip: torch.nn.Module, objective: torch.nn.Module, config: StageConfig) -> torch.optim.AdamW:
    """Return AdamW over towers and objective; norms, biases and scales (fewer than two dimensions) do not decay."""
    trained = [p for module in (clip, objective) for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(ADAM_BETA1, config.beta2), eps=ADAM_EPS, foreach=True)


def learning_rate(step: int, steps: int, config: StageConfig) -> float:
    """Return the rate of a 0-based step: linear warm-up to ``lr``, then half a cosine down to ``min_lr``."""
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def optimizer_tensors(optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Return the optimiser's state as named tensors, for a checkpoint."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.AdamW, checkpoint: Checkpoint) -> None:
    """Put the optimiser's state of a checkpoint in place; rates and decays stay the config's."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in checkpoint.tensors["optimizer"].items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
