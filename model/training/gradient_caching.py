"""Gradient caching: the losses of a whole batch in the memory of a micro-batch.

The batch is embedded by micro-batches without a graph, the losses of all embeddings give the
gradient of each, and each micro-batch is embedded once more, now with a graph, to carry its part of
that gradient into the towers. The gradient is that of the whole batch, the scales' too, because
they meet the losses once. A third of a step's time more is the price: one forward pass beside one
and a backward pass of two.

Source: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup.
Shapes: B pairs of the batch, D embedding width.
"""

from collections.abc import Callable
from functools import partial

import torch

# The batch's images and tokens in, float32 embeddings [B, D] of both out.
Embed = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
# Embeddings of the whole batch in, loss terms by name out; the one named ``loss`` is minimised.
Losses = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]


def backward_in_parts(
    embed: Embed,
    losses: Losses,
    images: torch.Tensor,
    tokens: torch.Tensor,
    micro_batch_size: int,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Add the gradient of the whole batch's loss to the parameters and return the loss terms.

    ``device`` is the towers'. Both passes over a micro-batch draw the same random numbers, so what
    dropout leaves out is left out twice.
    """
    split = partial(torch.split, split_size_or_sections=micro_batch_size)
    parts = list(zip(split(images), split(tokens), strict=True))

    # Forward without a graph: embeddings alone, and where the random numbers stood.
    states, embedded = list[_RandomState](), list[tuple[torch.Tensor, torch.Tensor]]()
    with torch.no_grad():
        for part in parts:
            states.append(_RandomState(device))
            embedded.append(embed(*part))

    # The losses of the whole batch, and the gradient of each embedding.
    image_BD, text_BD = (torch.cat(side).requires_grad_() for side in zip(*embedded, strict=True))
    terms = losses(image_BD, text_BD)
    torch.autograd.backward(terms["loss"])

    # Forward again with a graph, which carries each part's gradients into the towers.
    after = _RandomState(device)
    gradients = (
        split(torch.zeros_like(side) if side.grad is None else side.grad)
        for side in (image_BD, text_BD)
    )
    for part, state, gradient in zip(parts, states, zip(*gradients, strict=True), strict=True):
        state.restore()
        # A frozen tower's embeddings have no graph.
        both = zip(embed(*part), gradient, strict=True)
        learning = [(made, grad) for made, grad in both if made.requires_grad]
        torch.autograd.backward([made for made, _ in learning], [grad for _, grad in learning])
    after.restore()
    return terms


class _RandomState:
    """Where the generators stand that towers draw from: the CPU's and that of their device."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._module = None if device.type == "cpu" else torch.get_device_module(device)
        self._device = None if self._module is None else self._module.get_rng_state()

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._module is not None:
            self._module.set_rng_state(self._device)
