"""A frozen copy of the start weights, and how far training has gone from what it says of the same
batch.

The teacher sees the crops and tokens that the towers see, in eval mode and without gradients: about
a third of a step's time more, and the weights once more in memory.
"""

import copy
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from model.batches.loading import Batch
from model.config.sections import StageConfig
from model.towers.towers import Towers, encode_images, encode_tokens
from model.training.losses import embedding_distance, similarity_divergence


class Taught(NamedTuple):
    """The teacher's embeddings of a batch, L2-normalised [B, D] each, and its logit scale; no gradient flows."""

    image: torch.Tensor
    text: torch.Tensor
    logit_scale: torch.Tensor


class Teacher:
    """Towers as they were when it was made."""

    def __init__(self, towers: Towers) -> None:
        """Copy the towers."""
        self._towers = replace(towers, clip=copy.deepcopy(towers.clip).eval().requires_grad_(False))

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Taught:
        """Return what the start weights say of a batch."""
        image_BD = encode_images(self._towers, batch.images)
        return Taught(
            image_BD, encode_tokens(self._towers, batch.tokens), self._towers.clip.logit_scale.exp()
        )


def make_teacher(towers: Towers, config: StageConfig) -> Teacher | None:
    """Return a teacher with the weights that the towers have now, None for a stage without distillation."""
    return Teacher(towers) if config.distill_weight else None


def distillation(
    image_LD: torch.Tensor,
    text_LD: torch.Tensor,
    logit_scale: torch.Tensor,
    taught: Taught,
    form: Literal["embedding", "similarity"],
    all_image_BD: torch.Tensor | None = None,
    all_text_BD: torch.Tensor | None = None,
    all_taught: Taught | None = None,
) -> torch.Tensor:
    """Return the distance of embeddings [L, D] from what the teacher says, in the stage's form.

    The pairs are the whole batch, or the part of it of which all is given, too.
    """
    if form == "embedding":
        return embedding_distance(image_LD, text_LD, taught.image, taught.text)
    all_of_teacher = all_taught[:2] if all_taught is not None else ()
    return similarity_divergence(
        image_LD, text_LD, logit_scale, *taught, all_image_BD, all_text_BD, *all_of_teacher
    )
