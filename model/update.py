"""One optimiser update: a batch's embeddings, the losses on them, their gradients, the step."""

import torch

from model.batches import Batch
from model.distillation import Teacher
from model.loss import MAX_LOG_SCALE
from model.objective import Embedded, Labels, Objective
from model.towers import Towers, encode_images, encode_tokens


class Updater:
    """Updates the towers by a batch at a time; what a step measured stays on the device."""

    def __init__(
        self,
        towers: Towers,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        grad_clip: float,
        teacher: Teacher | None = None,
    ) -> None:
        """Take what is trained, what for, the largest global gradient norm, and what the towers shall stay near to."""
        self._towers, self._objective, self._optimizer, self._grad_clip = towers, objective, optimizer, grad_clip
        self._teacher = teacher
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, batch: Batch, concepts: Labels | None) -> dict[str, torch.Tensor]:
        """Return each loss term by name with ``loss``, ``logit_scale`` and ``grad_norm``, before clipping."""
        clip, device = self._towers.clip, self._towers.device
        named = None if concepts is None else torch.from_numpy(concepts).to(device, torch.int64)
        image_BD, text_BD = encode_images(self._towers, batch.images), encode_tokens(self._towers, batch.tokens)
        taught = None if self._teacher is None else self._teacher(batch)
        pairs = Embedded(image_BD, text_BD, batch.ids.to(device), named)
        terms = self._objective(pairs, clip.logit_scale.exp(), taught)
        self._optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self._grad_clip)
        self._optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, MAX_LOG_SCALE)
        scale = clip.logit_scale.detach().exp()
        return {**{name: term.detach() for name, term in terms.items()}, "logit_scale": scale, "grad_norm": norm}
