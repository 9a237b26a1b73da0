"""The two towers: created through open_clip, loaded, saved, and asked for embeddings.

On disk a model is one folder in open_clip's own form (``open_clip_config.json`` and ``open_clip_model.safetensors``)
sealed by ``manifest.json`` with the SHA-256 of both, so `open_clip.create_model("local-dir:…")` reads it too.
Images come in as uint8 and are normalised on the model's device; embeddings leave L2-normalised in float32. What
the towers compute is in `model.towers.passes`.

Shapes: B batch, L tokens, D embedding.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.batches.crops import Resizing
from model.config.sections import ModelConfig
from model.errors import CheckpointError, ConfigError, ServiceError, nearest
from model.storage.sealed import WEIGHTS_FILE, sealed_folder, verify_sealed
from model.towers.bert import (
    VOCABULARY_FILE,
    build_bert_clip,
    is_bert,
    make_word_pieces,
    read_vocabulary,
    with_context_length,
)
from model.towers.compiled import Compiled, Pass
from model.towers.passes import cut_tokens, image_features, text_features

CONFIG_FILE = "open_clip_config.json"
# What torch, safetensors and open_clip's conversions raise on a file that is cut, or holds something else.
UNREADABLE_WEIGHTS = (
    SafetensorError,
    OSError,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    StopIteration,
)
ARCHITECTURE_KEYS = ("embed_dim", "vision_cfg", "text_cfg")
TEXT_GROUPS = 4  # in which a batch's captions go through the text tower on a CPU
PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
TANH = {"approximate": "tanh"}  # act_kwargs of towers with this form of GELU
COMPILED_LENGTHS = 8  # compiled text towers see token lengths that are multiples of it


@dataclass(frozen=True)
class Towers:
    """An image tower and a text tower with their tokeniser, on one device."""

    clip: open_clip.CLIP
    tokenizer: Callable[[list[str]], torch.Tensor]
    config: dict[str, Any]
    device: torch.device
    precision: str = "fp32"
    image_pass: Pass = image_features
    text_pass: Pass = text_features
    token_multiple: int = 1
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # beside the weights: tokeniser, origin, …

    @property
    def image_size(self) -> int:
        """Side of the square input, pixels."""
        size = self.clip.visual.image_size
        return int(size[0] if isinstance(size, tuple) else size)

    @property
    def resizing(self) -> Resizing:
        """How an image becomes that square."""
        preprocess = self.config["preprocess_cfg"]
        return Resizing(preprocess.get("resize_mode") == "squash", preprocess.get("interpolation", "bicubic"))

    @property
    def embed_dim(self) -> int:
        """Width D of an embedding."""
        return int(self.config["model_cfg"]["embed_dim"])


def resolve_device(name: str) -> torch.device:
    """Return the device that a config names; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the named device is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in available.items() if present)
    if not available[name]:
        raise ConfigError(f"device is '{name}', but this machine has none; set device to auto or cpu")
    if name == "cuda":
        torch.set_float32_matmul_precision("high")  # fp32 products in TF32: 8 times as fast, 10 bits of mantissa
    return torch.device(name)


def create_towers(model: ModelConfig, device: str = "auto", precision: str = "fp32", seed: int = 0) -> Towers:
    """Create the towers of a config with their base weights; without any, weights are drawn from the seed.

    Raises:
        ConfigError: the model or the pretrained tag is unknown, or the weights are of another architecture.
        CheckpointError: the weights file is damaged or is no plain weights file.
        ServiceError: the weights of a tag cannot be downloaded.
    """
    name = _known_architecture(model.name)
    _check_activation(name, model.pretrained)
    target = resolve_device(device)
    with torch.random.fork_rng(devices=[]), _quiet_open_clip():
        torch.manual_seed(seed)
        clip = _build(name, target)
        if model.pretrained is not None:
            _load_base_weights(clip, name, model.pretrained)
        architecture = with_context_length(dict(open_clip.get_model_config(name) or {}), model.context_length)
        files = read_vocabulary(architecture, model.vocabulary)
        tokenizer = make_word_pieces(architecture, files[VOCABULARY_FILE]) if files else open_clip.get_tokenizer(name)
    preprocess = {"mean": list(clip.visual.image_mean), "std": list(clip.visual.image_std)}
    preprocess |= usual_preprocess(name, model.pretrained)
    clip.visual.image_mean, clip.visual.image_std = preprocess["mean"], preprocess["std"]
    config = {"model_cfg": architecture, "preprocess_cfg": preprocess}
    return Towers(clip, tokenizer, config, target, precision, files=files)


def _check_activation(name: str, tag: str | None) -> None:
    """Refuse an open_clip tag whose weights were trained with another activation than the named towers have."""
    said = open_clip.get_pretrained_cfg(name, tag) if tag is not None else None
    has_quick = bool((open_clip.get_model_config(name) or {}).get("quick_gelu"))
    if said and bool(said.get("quick_gelu")) != has_quick:
        other = name.removesuffix("-quickgelu") if has_quick else f"{name}-quickgelu"
        raise ConfigError(f"model.name is {name}, but weights '{tag}' have another activation; set it to {other}")


def usual_preprocess(name: str, tag: str | None = None) -> dict[str, Any]:
    """Return how images are made ready for an open_clip tag, or for all weights of a model that agree; else nothing."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    chosen = [tag] if tag in tags else tags
    said = [open_clip.get_pretrained_cfg(name, one) for one in chosen]
    kept = [{key: cfg[key] for key in PREPROCESS_KEYS if key in cfg} for cfg in said]
    if not kept or any(other != kept[0] for other in kept):
        return {}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in kept[0].items()}


def _known_architecture(name: str) -> str:
    """Return the open_clip name of a model, making a JSON config of ours known to open_clip first."""
    if name.endswith(".json"):
        return _register_architecture(Path(name))
    if name not in open_clip.list_models():
        raise ConfigError(
            f"model.name is '{name}': open_clip knows no such model{nearest(name, open_clip.list_models())}"
        )
    return name


def _register_architecture(path: Path) -> str:
    """Make a JSON config known to open_clip, which would trip over a broken one at every later registration."""
    if not path.is_file():
        known = sorted(str(other) for other in path.parent.glob("*.json"))
        raise ConfigError(f"model.name is '{path}': no such file{nearest(str(path), known)}")
    try:
        architecture = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.name is '{path}': no readable JSON ({error}); mend the file") from None
    missing = [key for key in ARCHITECTURE_KEYS if not isinstance(architecture, dict) or key not in architecture]
    if missing:
        raise ConfigError(f"model.name is '{path}': not an open_clip config, {', '.join(missing)} missing")
    open_clip.add_model_config(path)
    return path.stem


def _build(name: str, device: torch.device) -> Any:
    architecture = open_clip.get_model_config(name)
    try:
        if is_bert(architecture):
            return build_bert_clip(architecture).to(device)
        return open_clip.create_model(name, device=device, pretrained_text=False)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"model.name: open_clip cannot build {name} ({error}); mend its JSON config") from error


def _load_base_weights(clip: torch.nn.Module, name: str, pretrained: str) -> None:
    path = Path(pretrained) if Path(pretrained).suffix or "/" in pretrained else _download(name, pretrained)
    if not path.is_file():
        raise ConfigError(
            f"model.pretrained is '{pretrained}': no such file; name a weights file, an open_clip tag or null"
        )
    try:
        open_clip.load_checkpoint(clip, str(path), strict=True, weights_only=True)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise _damaged(path, error) from None
        raise ConfigError(f"{path}: weights of another architecture than {name} ({_first_keys(error)})") from None
    except UNREADABLE_WEIGHTS as error:
        raise _damaged(path, error) from None
    except Exception as error:
        # torch raises pickle.UnpicklingError for code in a weights file; naming the class would import pickle.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return CheckpointError(
        f"{path}: not a readable weights file ({reason}); it may be cut, or hold more than tensors; fetch it again"
    )


def _first_keys(error: RuntimeError) -> str:
    """Shorten torch's list of keys that do not fit to the first line that names some."""
    lines = [line.strip() for line in str(error).splitlines()[1:]]
    return lines[0][:200] if lines else str(error)[:200]


def _download(name: str, tag: str) -> Path:
    """Fetch the weights of an open_clip tag and return their path."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        known = f"; known tags: {', '.join(tags)}" if tags else ""
        raise ConfigError(f"model.pretrained is '{tag}': {name} has no such weights{nearest(tag, tags) or known}")
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag)))
    except Exception as error:
        # Each hub client raises its own kind; none of them is ours to mend.
        raise ServiceError(
            f"{name} weights '{tag}' cannot be downloaded ({type(error).__name__}); "
            "check the network, or set model.pretrained to a local file"
        ) from error


def save_towers(towers: Towers, folder: Path) -> None:
    """Write the model folder, whole or not at all; an older one of that name is replaced."""
    with sealed_folder(folder) as temporary:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in towers.clip.state_dict().items()}
        save_file(weights, temporary / WEIGHTS_FILE)
        (temporary / CONFIG_FILE).write_text(json.dumps(towers.config, indent=2), encoding="utf-8")
        for name, content in towers.files.items():
            (temporary / name).write_bytes(content)


def load_towers(folder: Path, device: str = "auto", precision: str = "fp32") -> Towers:
    """Read a model folder after checking the SHA-256 of its files.

    Raises:
        CheckpointError: the folder is missing, incomplete or damaged.
    """
    names = verify_sealed(folder)
    target = resolve_device(device)
    clip = build_clip(folder, target)
    clip.load_state_dict(load_file(folder / WEIGHTS_FILE, device=str(target)))
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    files = {name: (folder / name).read_bytes() for name in names if name not in (CONFIG_FILE, WEIGHTS_FILE)}
    return Towers(clip, build_tokenizer(folder), config, target, precision, files=files)


def build_clip(folder: Path, device: torch.device | str = "cpu") -> Any:
    """Return the towers of a folder's config with random weights.

    A text tower of Hugging Face has its config.json in the folder. open_clip hands neither activation nor resolution
    on to timm's towers, so they are applied here.
    """
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if is_bert(config["model_cfg"]):
        with torch.random.fork_rng(devices=[]):
            return build_bert_clip(config["model_cfg"], config["preprocess_cfg"]).to(device)
    text, vision = config["model_cfg"]["text_cfg"], config["model_cfg"]["vision_cfg"]
    if text.get("hf_model_name"):
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    with torch.random.fork_rng(devices=[]), _quiet_open_clip():
        clip = open_clip.create_model(
            f"local-dir:{folder}", load_weights=False, device=device, pretrained_text=False, text_cfg=text
        )
    if vision.get("timm_model_name"):
        _fit_trunk(clip.visual, vision)
    return clip


def _fit_trunk(visual: Any, vision: dict[str, Any]) -> None:
    """Give a timm tower the activation and the resolution of a config."""
    if vision.get("act_kwargs") == TANH:
        for module in visual.modules():
            if isinstance(module, torch.nn.GELU):
                module.approximate = "tanh"
    embed, side = getattr(visual.trunk, "patch_embed", None), vision.get("image_size", 224)
    if hasattr(visual.trunk, "set_input_size") and getattr(embed, "img_size", None) not in (None, (side, side)):
        visual.trunk.set_input_size(img_size=side)


def build_tokenizer(folder: Path) -> Callable[[list[str]], torch.Tensor]:
    """Return the tokeniser of a folder's config, made of the files beside it."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if is_bert(config["model_cfg"]):
        return make_word_pieces(config["model_cfg"], (folder / VOCABULARY_FILE).read_bytes())
    is_own = bool(config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"))
    with _quiet_open_clip():
        made = open_clip.get_tokenizer(f"local-dir:{folder}", **({"local_files_only": True} if is_own else {}))
    if config.get("tokenizer_cfg", {}).get("is_verbatim"):
        made.clean_fn = verbatim
    tokenizer: Callable[[list[str]], torch.Tensor] = made
    return tokenizer


def verbatim(caption: str) -> str:
    """Return a caption as it is."""
    return caption


def compile_towers(towers: Towers) -> Towers:
    """Return the same towers with passes that are compiled on their first step, or say in a sentence why not."""
    passes = Compiled(image_features), Compiled(text_features)
    return replace(towers, image_pass=passes[0], text_pass=passes[1], token_multiple=COMPILED_LENGTHS)


def encode_images(towers: Towers, images: torch.Tensor) -> torch.Tensor:
    """Return float32 L2-normalised embeddings [B, D] of uint8 images [B, 3, side, side]; gradients flow."""
    pixels = normalise(towers, images)
    with autocast(towers):
        features = towers.image_pass(towers.clip, pixels)
    return torch.nn.functional.normalize(features.float(), dim=-1)


def encode_texts(towers: Towers, captions: list[str]) -> torch.Tensor:
    """Return float32 L2-normalised embeddings [B, D] of captions; gradients flow."""
    return encode_tokens(towers, towers.tokenizer(captions))


def encode_tokens(towers: Towers, tokens: torch.Tensor) -> torch.Tensor:
    """Return float32 L2-normalised embeddings [B, D] of token ids int64 [B, L]; gradients flow.

    Tokens that come on the CPU are cut there, without waiting for the device.
    """
    is_grouped = towers.device.type == "cpu" and towers.token_multiple == 1
    groups = TEXT_GROUPS if is_grouped and len(tokens) >= 8 * TEXT_GROUPS else 1
    cut, place_B = cut_tokens(towers.clip, tokens, groups, towers.token_multiple)
    with autocast(towers):
        features = [towers.text_pass(towers.clip, part.to(towers.device, non_blocking=True)) for part in cut]
    together = features[0] if groups == 1 else torch.cat(features)[place_B]
    return torch.nn.functional.normalize(together.float(), dim=-1)


def normalise(towers: Towers, images: torch.Tensor) -> torch.Tensor:
    """Return float32 pixels [B, 3, H, W] of uint8 images, normalised on the model's device with its mean and std."""
    visual = towers.clip.visual
    mean, std = (_channels(tuple(values), towers.device) for values in (visual.image_mean, visual.image_std))
    pixels = images.to(towers.device, non_blocking=True).to(torch.float32, copy=True)
    return pixels.div_(255).sub_(mean).div_(std)


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return a value a channel, [1, 3, 1, 1]; kept, because each copy to a GPU would be waited for."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def autocast(towers: Towers) -> torch.autocast:
    """Return the context in which the towers run: bf16 where the config says so."""
    return torch.autocast(towers.device.type, dtype=torch.bfloat16, enabled=towers.precision == "bf16")


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Silence open_clip's remarks on weights: it warns whenever none are loaded, and ours are loaded by ourselves."""
    root = logging.getLogger()
    root.addFilter(_not_from_open_clip)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_not_from_open_clip)


def _not_from_open_clip(record: logging.LogRecord) -> bool:
    return record.module != "factory"
