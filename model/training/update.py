"""One optimiser update: a batch's embeddings, the losses on them, their gradients, the step."""

from typing import cast

import torch

from model.batches.loading import Batch
from model.concepts.mining import ConceptLabels
from model.config.sections import StageConfig
from model.errors import ConfigError
from model.towers.towers import Towers, encode_images, encode_tokens
from model.training.distillation import Teacher
from model.training.distributed import average_, rank_of_world
from model.training.gradient_caching import backward_in_parts
from model.training.losses import MAX_LOG_SCALE
from model.training.objective import EmbeddedPairs, Objective
from model.training.optimizer import counts_batches


class Updater:
    """Updates the towers by a batch at a time; what a step measured stays on the device."""

    def __init__(
        self,
        towers: Towers,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        config: StageConfig,
        teacher: Teacher | None = None,
    ) -> None:
        """Take what is trained, what is minimised and how, and what the towers stay near.

        Raises:
            ConfigError: the towers have batch norm, which makes a batch in parts another than the
            whole.
        """
        self._towers, self._objective = towers, objective
        self._optimizer, self._teacher = optimizer, teacher
        self._grad_clip, self._micro_batch_size = config.grad_clip, config.micro_batch_size
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

        is_in_parts = config.micro_batch_size is not None or rank_of_world()[1] > 1
        if is_in_parts and counts_batches(towers.clip, config):
            raise ConfigError(
                "the model has batch norm, whose statistics want the whole batch at once; set "
                "keep_batch_norm to true, or micro_batch_size to null and train in one process, or "
                "choose a ViT"
            )
        if config.checkpoint_activations:
            towers.clip.set_grad_checkpointing(True)

    def __call__(self, batch: Batch, concepts: ConceptLabels | None) -> dict[str, torch.Tensor]:
        """Take a step; return each loss term by name, ``loss``, ``logit_scale`` and ``grad_norm``.

        The norm is that before clipping. All processes of a launched group call it at once, with
        their parts of the batch, and get the same.
        """
        clip = self._towers.clip
        self._optimizer.zero_grad(set_to_none=True)
        terms = {name: term.detach() for name, term in self._backward(batch, concepts).items()}

        # Means over the processes, before the norm: all clip by the same one.
        average_([*(p.grad for p in self.parameters if p.grad is not None), *terms.values()])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self._grad_clip)
        self._optimizer.step()

        # SigLIP's scales are larger, and published ones stay as they are.
        if not self._objective.is_sigmoid:
            with torch.no_grad():
                clip.logit_scale.clamp_(0, MAX_LOG_SCALE)
        return {**terms, "logit_scale": clip.logit_scale.detach().exp(), "grad_norm": norm}

    def _backward(self, batch: Batch, concepts: ConceptLabels | None) -> dict[str, torch.Tensor]:
        """Add the gradient of the batch's loss to the parameters and return the loss terms."""
        device, clip = self._towers.device, self._towers.clip
        ids = batch.ids.to(device, non_blocking=True)
        named = (
            None
            if concepts is None
            else torch.from_numpy(concepts).to(device, torch.int64, non_blocking=True)
        )

        # The teacher, too, reads a micro-batch at a time.
        taught, size = None, self._micro_batch_size or len(ids)
        if self._teacher is not None:
            parts = zip(
                torch.split(batch.images, size), torch.split(batch.tokens, size), strict=True
            )
            embedded = [
                self._teacher(batch._replace(images=images, tokens=tokens))
                for images, tokens in parts
            ]
            image, text = map(torch.cat, zip(*embedded, strict=True))
            taught = image, text

        def losses(image_BD: torch.Tensor, text_BD: torch.Tensor) -> dict[str, torch.Tensor]:
            pairs = EmbeddedPairs(image_BD, text_BD, ids, named)
            bias = getattr(clip, "logit_bias", None)
            terms = self._objective(pairs, clip.logit_scale.exp(), taught, bias)
            return cast("dict[str, torch.Tensor]", terms)

        if size < len(ids):
            return backward_in_parts(self._embed, losses, batch.images, batch.tokens, size, device)
        terms = losses(*self._embed(batch.images, batch.tokens))
        torch.autograd.backward(terms["loss"])
        return terms

    def _embed(
        self, images: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return encode_images(self._towers, images), encode_tokens(self._towers, tokens)
