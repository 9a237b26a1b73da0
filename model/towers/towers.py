"""The image tower and the text tower on one device, asked for embeddings.

Images come in as uint8 and are normalised on the model's device; embeddings leave L2-normalised in
float32. What the towers compute is in `model.towers.passes`, where they come from in
`model.towers.create` and `model.towers.folder`. Around the passes, normalising 256 images of 224
pixels takes about 0.1 s of a core, cutting as many captions 1 ms.

Shapes: B batch, L tokens, D embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import open_clip
import torch

from model.batches.crops import Resizing
from model.batches.loading import InputSpec
from model.errors import ConfigError
from model.towers.compiled import Compiled, Pass
from model.towers.passes import (
    cut_tokens,
    image_features,
    image_trunk,
    project_image,
    project_text,
    text_features,
    text_trunk,
)

# Weights by the names of their parameters.
NamedTensors = dict[str, torch.Tensor]
TEXT_GROUPS = 4  # in which a batch's captions go through the text tower on a CPU
COMPILED_LENGTHS = 8  # compiled text towers see token lengths that are multiples of it


@dataclass(frozen=True)
class Towers:
    """An image tower and a text tower with their tokeniser, on one device.

    ``config`` is open_clip's; ``files`` are what lies beside the weights on disk, by name:
    tokeniser, origin, …
    """

    clip: open_clip.CLIP
    tokenizer: Callable[[list[str]], torch.Tensor]
    config: dict[str, Any]
    device: torch.device
    precision: str = "fp32"
    image_pass: Pass = image_features
    text_pass: Pass = text_features
    token_multiple: int = 1
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def image_size(self) -> int:
        """Side of the square input, pixels."""
        size = self.clip.visual.image_size
        return int(size[0] if isinstance(size, tuple) else size)

    @property
    def resizing(self) -> Resizing:
        """How an image becomes that square."""
        preprocess = self.config["preprocess_cfg"]
        return Resizing(
            preprocess.get("resize_mode") == "squash", preprocess.get("interpolation", "bicubic")
        )

    @property
    def input_spec(self) -> InputSpec:
        """What batches for these towers are made by."""
        return InputSpec(self.tokenizer, self.image_size, self.resizing)

    @property
    def embed_dim(self) -> int:
        """Width D of an embedding."""
        return int(self.config["model_cfg"]["embed_dim"])

    def tensors(self) -> NamedTensors:
        """Return weights and buffers on the CPU, as files take them."""
        return {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in self.clip.state_dict().items()
        }


def resolve_device(name: str) -> torch.device:
    """Return the device that a config names; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the named device is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_there in available.items() if is_there)
    if not available[name]:
        raise ConfigError(
            f"device is '{name}', but this machine has none; set device to auto or cpu"
        )

    # fp32 products in TF32: 8 times as fast, 10 bits of mantissa.
    if name == "cuda":
        torch.set_float32_matmul_precision("high")
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> str:
    """Return the arithmetic that a config names; ``auto`` is bf16 where the device multiplies it.

    That is CUDA with bf16, and a CPU with AMX or AVX-512-bf16; elsewhere bf16 is emulated, which
    costs time.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    multiplies = device.type == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
    return "bf16" if multiplies else "fp32"


def compile_towers(towers: Towers) -> Towers:
    """Return the same towers with passes that are compiled on their first step.

    Where compiling fails they run plain, and a warning gives the reason.
    """
    return replace(
        towers,
        image_pass=Compiled(image_features),
        text_pass=Compiled(text_features),
        token_multiple=COMPILED_LENGTHS,
    )


def encode_images(towers: Towers, images: torch.Tensor) -> torch.Tensor:
    """Return float32 L2-normalised embeddings [B, D] of uint8 images [B, 3, side, side].

    Gradients flow. A locked tower's trunk features, float [B, E], are projected in place of images.
    """
    if images.is_floating_point():
        return _project(towers, project_image, images)
    pixels = normalise(towers, images)
    with autocast(towers):
        features = towers.image_pass(towers.clip, pixels)
    return torch.nn.functional.normalize(features.float(), dim=-1)


def encode_texts(towers: Towers, captions: list[str]) -> torch.Tensor:
    """Return float32 L2-normalised embeddings [B, D] of captions; gradients flow."""
    return encode_tokens(towers, towers.tokenizer(captions))


def encode_tokens(towers: Towers, tokens: torch.Tensor) -> torch.Tensor:
    """Return float32 L2-normalised embeddings [B, D] of token ids int64 [B, L]; gradients flow.

    Tokens that come on the CPU are cut there, without waiting for the device. A locked tower's
    trunk features, float [B, E], are projected in place of tokens.
    """
    if tokens.is_floating_point():
        return _project(towers, project_text, tokens)
    features = _read_tokens(towers, towers.text_pass, tokens)
    return torch.nn.functional.normalize(features.float(), dim=-1)


def trunk_features(towers: Towers, inputs: torch.Tensor) -> torch.Tensor:
    """Return the features below the projection, [B, E], of uint8 images or of token ids.

    They are what the towers compute on their way: float32, or bf16 where they run in it.
    """
    if inputs.dtype == torch.uint8:
        with autocast(towers):
            return image_trunk(towers.clip, normalise(towers, inputs))
    return _read_tokens(towers, text_trunk, inputs)


def _project(towers: Towers, project: Pass, features_BE: torch.Tensor) -> torch.Tensor:
    with autocast(towers):
        features = project(
            towers.clip, features_BE.to(towers.device, torch.float32, non_blocking=True)
        )
    return torch.nn.functional.normalize(features.float(), dim=-1)


def _read_tokens(towers: Towers, text_pass: Pass, tokens: torch.Tensor) -> torch.Tensor:
    """Let captions of similar length through the text tower together."""
    is_grouped = towers.device.type == "cpu" and towers.token_multiple == 1
    groups = TEXT_GROUPS if is_grouped and len(tokens) >= 8 * TEXT_GROUPS else 1
    cut, place_B = cut_tokens(towers.clip, tokens, groups, towers.token_multiple)
    with autocast(towers):
        features = [
            text_pass(towers.clip, part.to(towers.device, non_blocking=True)) for part in cut
        ]
    return features[0] if groups == 1 else torch.cat(features)[place_B]


def normalise(towers: Towers, images: torch.Tensor) -> torch.Tensor:
    """Return float32 pixels [B, 3, H, W] of uint8 images, with the model's mean and std taken out.

    The model's device computes them.
    """
    visual = towers.clip.visual
    mean, std = (
        _channels(tuple(values), towers.device) for values in (visual.image_mean, visual.image_std)
    )
    pixels = images.to(towers.device, non_blocking=True).to(torch.float32, copy=True)
    return pixels.div_(255).sub_(mean).div_(std)


def autocast(towers: Towers) -> torch.autocast:
    """Return the context in which the towers run: bf16 where the config asks for it."""
    return torch.autocast(
        towers.device.type, dtype=torch.bfloat16, enabled=towers.precision == "bf16"
    )


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return a value a channel, [1, 3, 1, 1].

    It is kept, because each copy to a GPU would be waited for.
    """
    return torch.tensor(values, device=device).view(1, 3, 1, 1)
