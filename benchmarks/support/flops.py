"""The floating-point operations that a training step of a vision transformer and a causal text
tower needs.

Counted are the products of the passes in `model.towers.passes` at the tokens that they compute, a
multiply-add as two; three times the forward pass, as each product has two backwards. Norms, softmax
and the optimiser are left out, so the share of a machine's peak that follows is on the low side.
"""

from typing import Any

import torch


def step_flops(clip: Any, pairs: int, text_groups: list[torch.Tensor]) -> float:
    """Return the operations of one step on so many pairs, whose captions are cut as ``text_groups``."""
    visual = clip.visual
    patches = visual.grid_size[0] * visual.grid_size[1]
    side = visual.conv1.kernel_size[0]
    # The pixels get no gradient, so the patches' product has one backwards.
    patch_flops = pairs * patches * 3 * side**2 * visual.conv1.out_channels * 2 * 2
    image_flops = pairs * _tower_flops(visual.transformer, patches + 1)
    text_flops = sum(
        len(group) * _tower_flops(clip.transformer, group.shape[1]) for group in text_groups
    )
    return float(patch_flops + 3 * (image_flops + text_flops))


def _tower_flops(transformer: Any, tokens: int) -> int:
    """Return the operations of one row's forward pass."""
    return sum(
        _block_flops(block, tokens) for block in transformer.resblocks[:-1]
    ) + _last_block_flops(transformer.resblocks[-1], tokens)


def _block_flops(block: Any, tokens: int) -> int:
    width, hidden = block.attn.embed_dim, block.mlp.c_fc.out_features
    return 2 * tokens * (4 * width**2 + 2 * width * hidden + 2 * tokens * width)


def _last_block_flops(block: Any, tokens: int) -> int:
    width, hidden = block.attn.embed_dim, block.mlp.c_fc.out_features
    return 2 * (4 * width**2 + 2 * width * hidden + 2 * tokens * width * block.attn.num_heads)
