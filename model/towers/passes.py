"""The towers' passes from pixels and token ids to features, computing what the features depend on
and no more.

The values are those of open_clip's ``encode_image`` and ``encode_text`` within float32 rounding,
gradients too, in 0.7 of their time for small towers (DECISIONS 21):

- token ids stop at the last one that matters, by groups of captions of similar length: of 77, about
  11 are left for product titles;
- the last block of a tower works for the pooled token alone: a twelfth of ViT-B-32, a quarter of a
  tower of 4 layers;
- queries, keys and values are views of one product, where ``nn.MultiheadAttention`` copies them.

Towers of another make (timm, ResNet, Hugging Face, other blocks or poolings) go open_clip's own
way.

Shapes: B batch, L tokens of a tower, E width of a tower, H its heads, K width of a head, D
embedding.
"""

from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from model.errors import ConfigError
from model.towers.bert import BertTower, HeadedImageTower
from model.towers.layers import Tower, is_projection, tower_of


def image_features(clip: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the image tower's features [B, D] of normalised pixels [B, 3, side, side].

    They are not yet L2-normalised.
    """
    return project_image(clip, image_trunk(clip, pixels))


def image_trunk(clip: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the image tower's features [B, E] below its projection.

    A tower that has none of the known form is its own trunk.
    """
    visual = clip.visual
    if _pools_class_token(visual):
        x_BLE = visual._embeds(pixels)
        first_B = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
        pooled_BE: torch.Tensor = visual.ln_post(
            _run_blocks(visual.transformer, x_BLE, first_B, is_causal=False)
        )
        return pooled_BE
    features: torch.Tensor = (
        visual.trunk(pixels) if has_projection(clip, "image") else clip.encode_image(pixels)
    )
    return features


def project_image(clip: Any, features_BE: torch.Tensor) -> torch.Tensor:
    """Return the features [B, D] that the image tower makes of those of its trunk."""
    visual = clip.visual
    if _pools_class_token(visual):
        return features_BE if visual.proj is None else features_BE @ visual.proj
    if has_projection(clip, "image"):
        projected: torch.Tensor = visual.head(features_BE)
        return projected
    return features_BE


def text_features(clip: Any, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Return the text tower's features [B, D] of token ids, as `cut_tokens` leaves them.

    They are not yet L2-normalised.
    """
    return project_text(clip, text_trunk(clip, tokens_BL))


def text_trunk(clip: Any, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Return the text tower's features [B, E] below its projection, as `image_trunk` does."""
    tower = _text_tower(clip)
    if _pools_last_token(tower):
        x_BLE = tower.token_embedding(tokens_BL) + tower.positional_embedding[: tokens_BL.shape[1]]
        pooled_BE: torch.Tensor = tower.ln_final(
            _run_blocks(tower.transformer, x_BLE, _ends(tower, tokens_BL), is_causal=True)
        )
        return pooled_BE
    features: torch.Tensor = (
        pooled_states(tower, tokens_BL)
        if has_projection(clip, "text")
        else clip.encode_text(tokens_BL)
    )
    return features


def project_text(clip: Any, features_BE: torch.Tensor) -> torch.Tensor:
    """Return the features [B, D] that the text tower makes of those of its trunk."""
    tower = _text_tower(clip)
    if _pools_last_token(tower):
        if isinstance(tower.text_projection, torch.nn.Linear):
            return linear(features_BE, tower.text_projection.weight, tower.text_projection.bias)
        return features_BE if tower.text_projection is None else features_BE @ tower.text_projection
    if has_projection(clip, "text"):
        projected: torch.Tensor = tower.proj(features_BE)
        return projected
    return features_BE


def has_projection(clip: Any, tower: Tower) -> bool:
    """Return whether a tower's last step is a projection that can be taken apart from its trunk.

    timm's towers may pool in theirs, which then belongs to the trunk.
    """
    if tower == "image":
        visual = clip.visual
        is_headed = isinstance(visual, TimmModel | HeadedImageTower)
        return _pools_class_token(visual) or (is_headed and not hasattr(visual.head, "pool"))
    text = _text_tower(clip)
    return _pools_last_token(text) or isinstance(text, HFTextEncoder | BertTower)


def trunk_names(clip: Any, tower: Tower) -> list[str]:
    """Return the names of a tower's weights and buffers below its projection."""
    can_part = has_projection(clip, tower)
    return [
        name
        for name in clip.state_dict()
        if tower_of(name) == tower and not (can_part and is_projection(name))
    ]


def pooled_states(tower: HFTextEncoder | BertTower, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Pool the hidden states of a text tower of Hugging Face's form, [B, E], padding left out."""
    if isinstance(tower, BertTower):
        return tower.pool(tokens_BL)
    mask_BL = tokens_BL.ne(tower.config.pad_token_id).long()
    output = tower.transformer(input_ids=tokens_BL, attention_mask=mask_BL)
    pooled_BE: torch.Tensor = tower.pooler(output, mask_BL)
    return pooled_BE


def cut_tokens(
    clip: Any, tokens_BL: torch.Tensor, groups: int = 1, multiple: int = 1
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the token ids in groups of captions of similar length, and where each row lies.

    Each group is cut to its longest caption; lengths are rounded up to a ``multiple``, so that
    compiled code meets few. ``torch.cat(groups)[where]`` has the rows in their old order.
    """
    needed_B = _needed_lengths(clip, tokens_BL)
    rows_B = torch.arange(len(tokens_BL), device=tokens_BL.device)
    order_B = needed_B.argsort(stable=True) if groups > 1 else rows_B

    cut = []
    for rows in order_B.chunk(groups):
        length = -(-int(needed_B[rows].max()) // multiple) * multiple
        cut.append(tokens_BL[rows, :length])
    return cut, order_B.argsort()


class PatchDropout(torch.nn.Module):
    """Leaves out a share of each image's patches in training.

    They are drawn from the default generator of their device.

    Source: Li et al. 2023, Scaling Language-Image Pre-training via Masking.
    """

    def __init__(self, share: float) -> None:
        """Take the share that is left out, at least 0 and less than 1."""
        super().__init__()
        self.share = share

    def forward(self, x_BLE: torch.Tensor) -> torch.Tensor:
        """Return the class token and the patches that stay, in random order.

        Their positions are in them already.
        """
        if not self.training or self.share == 0:
            return x_BLE

        patches, width = x_BLE.shape[1] - 1, x_BLE.shape[2]
        stay = max(1, round(patches * (1 - self.share)))
        kept = _draw(len(x_BLE), patches, x_BLE.device).argsort(dim=1)[:, :stay, None]
        return torch.cat([x_BLE[:, :1], x_BLE[:, 1:].gather(1, kept.expand(-1, -1, width))], dim=1)


def set_patch_dropout(clip: Any, share: float | None) -> None:
    """Let the image tower leave out so many of its patches in training; None leaves it as it is.

    Raises:
        ConfigError: the image tower is none of open_clip's own vision transformers.
    """
    if share is None:
        return
    if type(clip.visual) is not VisionTransformer:
        raise ConfigError(
            f"patch_dropout is {share}, but the image tower is a {type(clip.visual).__name__}; "
            "set it to null"
        )
    clip.visual.patch_dropout = PatchDropout(share)


def last_block(
    block: Any, x_BLE: torch.Tensor, pooled_B: torch.Tensor, is_causal: bool
) -> torch.Tensor:
    """Return a residual block's output [B, E] at one position of each row.

    It costs about that position: one query needs no keys and no values of the others, for
    q·(W x) = (qᵀW)·x, and a mean of W x is W times a mean of x. The keys' bias adds the same to all
    scores of a row, so it falls out of the softmax.
    """
    attention, row_B = block.attn, torch.arange(len(x_BLE), device=x_BLE.device)
    query_HKE, key_HKE, value_HKE = attention.in_proj_weight.view(
        3, attention.num_heads, -1, x_BLE.shape[-1]
    )
    query_HK, _, value_HK = attention.in_proj_bias.view(3, attention.num_heads, -1)

    # The score of each position for the pooled one's query.
    context_BLE = block.ln_1(x_BLE)
    query_BHK = torch.einsum("be,hke->bhk", context_BLE[row_B, pooled_B], query_HKE) + query_HK
    sought_BHE = torch.einsum("bhk,hke->bhe", query_BHK * query_BHK.shape[-1] ** -0.5, key_HKE)
    score_BHL = sought_BHE @ context_BLE.mT
    if is_causal:
        position_L = torch.arange(x_BLE.shape[1], device=x_BLE.device)
        is_later_BL = position_L > pooled_B.unsqueeze(1)
        score_BHL = score_BHL.masked_fill(is_later_BL.unsqueeze(1), -torch.inf)

    mean_BHE = score_BHL.softmax(dim=-1).to(context_BLE.dtype) @ context_BLE
    mixed_BHK = torch.einsum("bhe,hke->bhk", mean_BHE, value_HKE) + value_HK
    return _finish_block(block, x_BLE[row_B, pooled_B], mixed_BHK.flatten(1))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _draw(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Draw as plain code.

    Compiled code draws other numbers, and gradient caching needs the same ones from both.
    """
    return torch.rand(rows, columns, device=device)


def _needed_lengths(clip: Any, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Return how many tokens of each row its feature depends on, int64 [B].

    Nothing that a causal tower pools at its end of text depends on what follows, nor anything in a
    tower that masks padding on the padding.
    """
    tower, context = _text_tower(clip), tokens_BL.shape[1]
    if _pools_last_token(tower):
        return _ends(tower, tokens_BL) + 1

    # A tower of Hugging Face's form, ours for Chinese among them, masks padding.
    if hasattr(tower, "config") and hasattr(tower.config, "pad_token_id"):
        position_L = torch.arange(1, context + 1, device=tokens_BL.device)
        is_kept_BL = tokens_BL.ne(tower.config.pad_token_id)
        return (is_kept_BL * position_L).amax(dim=1).clamp(min=1)
    return torch.full((len(tokens_BL),), context, device=tokens_BL.device)


def _run_blocks(
    transformer: Any, x_BLE: torch.Tensor, pooled_B: torch.Tensor, is_causal: bool
) -> torch.Tensor:
    *blocks, last = transformer.resblocks
    for block in blocks:
        x_BLE = (
            checkpoint(_block, block, x_BLE, is_causal, use_reentrant=False)
            if transformer.grad_checkpointing
            else _block(block, x_BLE, is_causal)
        )
    return last_block(last, x_BLE, pooled_B, is_causal)


def _block(block: Any, x_BLE: torch.Tensor, is_causal: bool) -> torch.Tensor:
    attention = block.attn
    projected = linear(block.ln_1(x_BLE), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        torch.unflatten(part, -1, (attention.num_heads, -1)).transpose(1, 2)  # a view [B, H, L, K]
        for part in projected.chunk(3, dim=-1)
    )
    mixed_BHLK = scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    return _finish_block(block, x_BLE, mixed_BHLK.transpose(1, 2).flatten(2))


def _finish_block(block: Any, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """Return a block's output for its input [..., E] and the values that its attention mixed."""
    x = x + block.ls_1(block.attn.out_proj(mixed))
    output: torch.Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return output


def _text_tower(clip: Any) -> Any:
    """Return the module that holds the text tower's parts: the model itself, or its ``text``."""
    return getattr(clip, "text", clip)


def _ends(tower: Any, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Return the position of each row's end of text, int64 [B]."""
    if _pool_type(tower) == "eos":
        end = tower.eos_id if hasattr(tower, "eos_id") else tower.text_eos_id
        return tokens_BL.eq(end).int().argmax(dim=1)
    return tokens_BL.argmax(dim=1)


def _pool_type(tower: Any) -> str:
    return str(getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None))


def _pools_class_token(visual: Any) -> bool:
    return (
        type(visual) is VisionTransformer
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
        and _has_plain_blocks(visual.transformer)
    )


def _pools_last_token(tower: Any) -> bool:
    return (
        getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "output_tokens", False)
        and _pool_type(tower) in ("argmax", "eos")
        and _has_plain_blocks(tower.transformer)
    )


def _has_plain_blocks(transformer: Any) -> bool:
    return all(type(block) is ResidualAttentionBlock for block in transformer.resblocks)
