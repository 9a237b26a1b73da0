"""Training steps on one ready batch: ours, and that of open_clip's trainer, written after its description."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from open_clip.loss import ClipLoss

from benchmarks.support import peers
from benchmarks.support.pictures import captioned_pictures, lines_of
from model.batches.loading import Batch
from model.concepts.labels import ConceptLabels
from model.concepts.mining import mine_concepts
from model.config.sections import ModelConfig, StageConfig
from model.towers.create import create_towers
from model.towers.passes import cut_tokens, image_features, text_features
from model.towers.towers import TEXT_GROUPS, Towers, compile_towers
from model.training.losses import MAX_LOG_SCALE
from model.training.meter import Hollow
from model.training.objective import Objective
from model.training.optimizer import make_optimizer
from model.training.update import Updater

VOCABULARY_CAPTIONS = 1000

Step = Callable[[], object]


class Ready(NamedTuple):
    """A batch as our step takes it, the same pixels normalised as open_clip's loader hands them over, and captions."""

    batch: Batch
    pixels: torch.Tensor
    captions: list[str]


def ready_batch(towers: Towers, pairs: int) -> Ready:
    """Return the first pairs of the real test split, or drawn ones, at the towers' size."""
    pictures = captioned_pictures(VOCABULARY_CAPTIONS)
    captions = [caption for caption, _ in pictures]
    chosen = [pictures[row % len(pictures)] for row in range(pairs)]
    images = torch.stack([peers.our_input(line) for line in lines_of(chosen, peers.SIDE)])
    tokens = towers.tokenizer([caption for caption, _ in chosen])
    ids = torch.arange(2 * pairs).reshape(pairs, 2)
    normalised = (images.float() / 255 - peers.MEAN_C11) / peers.STD_C11
    return Ready(
        Batch(np.arange(pairs), images, tokens, ids), normalised.to(towers.device), captions
    )


def text_groups(towers: Towers, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Return the token ids as our step cuts them on a CPU, or whole batches at once on a GPU."""
    groups = TEXT_GROUPS if towers.device.type == "cpu" and len(tokens) >= 8 * TEXT_GROUPS else 1
    return cut_tokens(towers.clip, tokens, groups, towers.token_multiple)[0]


def step_flops(towers: Towers, pairs: int, text_groups: list[torch.Tensor]) -> int:
    """Count the FLOPs of a step on so many pairs, whose captions are cut as ``text_groups``.

    Counted are the products of our passes, forward and backward, at the tokens that they compute.
    Norms, softmax and the optimiser are left out, so the share of a machine's peak that follows is
    on the low side.
    """
    side, lengths = towers.image_size, [tuple(group.shape) for group in text_groups]

    def step(clip: Any) -> None:
        features = [image_features(clip, torch.empty(pairs, 3, side, side))]
        features += [text_features(clip, torch.ones(n, dtype=torch.int64)) for n in lengths]
        torch.autograd.backward(torch.cat(features).sum())

    return Hollow(towers.clip).flops(step)


def our_step(towers: Towers, ready: Ready, config: StageConfig) -> Step:
    """Return the step of our training loop, with the terms that the config names."""
    vocabulary, labels = None, None
    if config.concept_weight or config.nearest_weight:
        vocabulary = mine_concepts(ready.captions, config.min_concept_count)
        labels = _labels(vocabulary.label(ready.captions), len(ready.batch.rows))
    objective = Objective(towers, config, vocabulary)
    update = Updater(towers, objective, make_optimizer(towers.clip, objective, config), config)
    return partial(update, ready.batch, labels)


def _labels(labels: ConceptLabels, pairs: int) -> ConceptLabels:
    return labels[np.arange(pairs) % len(labels)]


def open_clip_step(towers: Towers, ready: Ready, config: StageConfig) -> Step:
    """Return a step of open_clip's trainer: its loss, its groups, its AdamW, precision that of the towers."""
    clip, loss = towers.clip, ClipLoss()
    clip.output_dict = True
    named = [
        (name, parameter) for name, parameter in clip.named_parameters() if parameter.requires_grad
    ]
    is_plain = {
        name: parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name
        for name, parameter in named
    }
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [parameter for name, parameter in named if is_plain[name]],
                "weight_decay": 0.0,
            },
            {
                "params": [parameter for name, parameter in named if not is_plain[name]],
                "weight_decay": 0.2,
            },
        ],
        lr=config.lr,
        betas=(0.9, config.beta2),
        eps=1e-6,
    )

    def step() -> Any:
        tokens = ready.batch.tokens.to(towers.device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(towers.device.type, torch.bfloat16, enabled=towers.precision == "bf16"):
            total = loss(**clip(ready.pixels, tokens), output_dict=True)["contrastive_loss"]
        total.backward()
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, MAX_LOG_SCALE)
        return total

    return step


def make_towers(
    name: str, precision: str, device: str = "cpu", is_compiled: bool = False
) -> Towers:
    """Return towers with random weights, in training."""
    towers = create_towers(ModelConfig(name=name), device, precision)
    towers.clip.train()
    return compile_towers(towers) if is_compiled else towers
