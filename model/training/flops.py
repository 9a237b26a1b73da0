"""How much arithmetic training takes, and how much the device can do: model FLOP utilisation.

FLOPs are counted as is usual: a multiplication and its addition are two, only matrix products
count, and training takes three times the forward pass (which overstates the patch embedding alone:
pixels get no gradient). They are those of open_clip's passes: what `model.towers.passes` leaves out
of the last blocks counts as done, and what gradient caching or activation checkpointing compute
again does not count.
"""

import time
from typing import Any

import torch

from model.towers.towers import Towers

SMALLEST_PROBE, LARGEST_PROBE = 256, 8192
PROBE_S = 0.005
REPEATS = 3


def flops_a_pair(towers: Towers, tokens: int | None = None) -> float | None:
    """Return the FLOPs of training on one pair, or None for architectures other than ViT and text
    transformer.

    ``tokens`` is the length of the token row that the text tower reads, its context length by
    default.

    Source: Chowdhery et al. 2022, PaLM, appendix B (model FLOP utilisation).
    """
    model = towers.config["model_cfg"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    if (
        not isinstance(vision.get("layers"), int)
        or "timm_model_name" in vision
        or "hf_model_name" in text
    ):
        return None
    embed = int(model["embed_dim"])
    macs = _image_macs(vision, embed) + _text_macs(
        text, embed, tokens or int(text.get("context_length", 77))
    )
    return 3 * 2 * float(macs)


def _image_macs(vision: dict[str, Any], embed: int) -> float:
    width, patch = int(vision["width"]), int(vision["patch_size"])
    patches = (int(vision.get("image_size", 224)) // patch) ** 2
    blocks = _transformer_macs(
        patches + 1, width, int(vision["layers"]), float(vision.get("mlp_ratio", 4))
    )
    return patches * 3 * patch**2 * width + blocks + width * embed


def _text_macs(text: dict[str, Any], embed: int, tokens: int) -> float:
    if "bert" in text:
        bert, width = text["bert"], int(text["bert"]["hidden_size"])
        mlp_ratio = int(bert["intermediate_size"]) / width
        return (
            _transformer_macs(tokens, width, int(bert["num_hidden_layers"]), mlp_ratio)
            + width * embed
        )
    width = int(text.get("width", 512))
    blocks = _transformer_macs(
        tokens, width, int(text.get("layers", 12)), float(text.get("mlp_ratio", 4))
    )
    return blocks + width * embed


def _transformer_macs(tokens: int, width: int, layers: int, mlp_ratio: float) -> float:
    """Return the multiply-adds of blocks of self-attention (4 projections, 2 products) and an MLP (2 layers)."""
    return layers * tokens * ((4 + 2 * mlp_ratio) * width**2 + 2 * tokens * width)


def measure_peak_flops(device: torch.device, precision: str) -> float:
    """Return the FLOPs a second of the device's best square matrix product in a precision, in about
    0.1 s.

    Products grow until one takes 5 ms, so that small and large devices are both busy.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size, best = SMALLEST_PROBE, 0.0
    _product_seconds(
        torch.ones(size, size, device=device, dtype=dtype)
    )  # the first one sets the library up
    while size <= LARGEST_PROBE:
        factor = torch.ones(size, size, device=device, dtype=dtype)
        seconds = min(_product_seconds(factor) for _ in range(REPEATS))
        best = max(best, 2 * size**3 / seconds)
        if seconds > PROBE_S:
            break
        size *= 2
    return best


def _product_seconds(factor: torch.Tensor) -> float:
    _synchronise(factor.device)
    begin = time.perf_counter()
    factor @ factor
    _synchronise(factor.device)
    return time.perf_counter() - begin


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
