"""New towers by a config: with base weights or drawn from a seed, at the resolution that it names.

Base weights are an imported model, a weights file, or a tag of open_clip's, which is downloaded. No
weights file can run code: open_clip reads them as tensors or not at all. Drawing ViT-B-32's
weights takes one to two seconds of a core, reading its 605 MB as much again.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPVisionCfg, resize_pos_embed
from safetensors import SafetensorError

# torch's own reader raises pickle's error for code in a weights file; pickle itself is never
# imported (tests/faults/test_poison.py).
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

from model.batches.tokens import Tokenizer
from model.config.sections import ModelConfig
from model.errors import CheckpointError, ConfigError, ServiceError, nearest
from model.towers.bert import (
    VOCABULARY_FILE,
    build_bert_clip,
    is_bert,
    make_word_pieces,
    read_vocabulary,
    with_context_length,
)
from model.towers.folder import build_clip, quiet_open_clip, write_config
from model.towers.imported import is_tag, require_architecture, require_weights_file
from model.towers.towers import Towers, resolve_device, resolve_precision

ARCHITECTURE_KEYS = ("embed_dim", "vision_cfg", "text_cfg")
PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
# What torch, safetensors and open_clip's conversions raise on a file that is cut, or holds
# something else; RuntimeError for keys that do not fit, too.
UNREADABLE_WEIGHTS = (
    SafetensorError,
    UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    StopIteration,
)


def create_towers(
    model: ModelConfig, device: str = "auto", precision: str = "fp32", seed: int = 0
) -> Towers:
    """Create the towers of a config with the base weights of a file or a tag.

    Without any, weights are drawn from the seed.

    Raises:
        ConfigError: the model or the pretrained tag is unknown, or the weights are of another
        architecture.
        CheckpointError: the weights file is damaged or is no plain weights file.
        ServiceError: the weights of a tag cannot be downloaded.
    """
    name, tag = _known_architecture(model.name), model.pretrained

    # A tag whose weights were trained with another activation is refused (DECISIONS 31).
    published = open_clip.get_pretrained_cfg(name, tag) if tag is not None else None
    has_quick = bool(open_clip.get_model_config(name).get("quick_gelu"))
    if published and bool(published.get("quick_gelu")) != has_quick:
        other = name.removesuffix("-quickgelu") if has_quick else f"{name}-quickgelu"
        raise ConfigError(
            f"model.name is {name}, but weights '{tag}' have another activation; set it to {other}"
        )

    target = resolve_device(device)
    with torch.random.fork_rng(devices=[]), quiet_open_clip():
        torch.manual_seed(seed)
        clip = _build(name, target)
        if tag is not None:
            _load_base_weights(clip, name, tag)

        architecture = with_context_length(open_clip.get_model_config(name), model.context_length)
        files = read_vocabulary(architecture, model.vocabulary)
        tokenizer = _new_tokenizer(name, architecture, files)

    architecture, files = _keep_encoder(clip, tokenizer, architecture, files)
    preprocess = {
        "mean": list(clip.visual.image_mean),
        "std": list(clip.visual.image_std),
        **usual_preprocess(name, tag),
    }
    clip.visual.image_mean, clip.visual.image_std = preprocess["mean"], preprocess["std"]
    config = {"model_cfg": architecture, "preprocess_cfg": preprocess}
    arithmetic = resolve_precision(precision, target)
    return Towers(clip, tokenizer, config, target, arithmetic, files=files)


def create_tokenizer(model: ModelConfig) -> Tokenizer:
    """Create the tokeniser of a config's model name alone; no weights are drawn or read.

    Raises:
        ConfigError: model or vocabulary are unknown, or do not fit each other.
    """
    name = _known_architecture(model.name)
    with quiet_open_clip():
        architecture = with_context_length(open_clip.get_model_config(name), model.context_length)
        return _new_tokenizer(name, architecture, read_vocabulary(architecture, model.vocabulary))


def _new_tokenizer(
    name: str, architecture: dict[str, Any], files: Mapping[str, bytes]
) -> Tokenizer:
    if files:
        return make_word_pieces(architecture, files[VOCABULARY_FILE])
    made: Tokenizer = open_clip.get_tokenizer(name)
    return made


def _keep_encoder(
    clip: Any, tokenizer: Any, architecture: dict[str, Any], files: dict[str, bytes]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Put what a Hugging Face text encoder is made of beside the weights: its config, tokeniser."""
    text = architecture["text_cfg"]
    if not text.get("hf_model_name") or not hasattr(clip, "text"):
        return architecture, files
    with TemporaryDirectory() as name:
        tokenizer.save_pretrained(name)
        clip.text.config.save_pretrained(name)
        made = {path.name: path.read_bytes() for path in Path(name).iterdir() if path.is_file()}

    # The names of places on this machine mean nothing elsewhere.
    kind = clip.text.config.model_type
    named = {"hf_model_name": kind, "hf_tokenizer_name": kind, "hf_model_pretrained": False}
    return architecture | {"text_cfg": text | named}, files | made


def lengthen_towers(towers: Towers, length: int) -> Towers:
    """Return towers whose text tower reads so many tokens.

    Raises:
        ConfigError: the text tower has another number of positions, or is no BERT.
    """
    architecture = with_context_length(towers.config["model_cfg"], length)
    tokenizer = make_word_pieces(architecture, towers.files[VOCABULARY_FILE])
    return replace(towers, tokenizer=tokenizer, config=towers.config | {"model_cfg": architecture})


def resize_towers(towers: Towers, side: int) -> Towers:
    """Return towers for images of ``side`` pixels, the positions of their patches interpolated.

    Bicubic, antialiased.

    Raises:
        ConfigError: the image tower has no patches to interpolate, or the side is no whole number
        of them.
    """
    if side == towers.image_size:
        return towers
    visual, config = towers.clip.visual, copy.deepcopy(towers.config)
    vision = config["model_cfg"]["vision_cfg"]
    vision["image_size"] = side

    is_timm_s = hasattr(visual, "trunk")
    tower = visual.trunk if is_timm_s else visual
    has_no_patches = is_timm_s and not hasattr(tower, "set_input_size")
    if has_no_patches and not getattr(tower, "pretrained_cfg", {}).get("fixed_input_size", True):
        visual.image_size = (side, side)  # convolutions take any
        return replace(towers, config=config)
    if not hasattr(tower, "set_input_size" if is_timm_s else "grid_size"):
        raise ConfigError(
            f"model.image_size is {side}, but a {type(tower).__name__} has a fixed one; "
            "set it to null"
        )
    patch = (
        tower.patch_embed.patch_size[0]
        if is_timm_s
        else vision.get("patch_size", CLIPVisionCfg.patch_size)
    )
    if side % patch:
        raise ConfigError(
            f"model.image_size is {side}, no multiple of the {patch} pixels of a patch"
        )

    if is_timm_s:
        tower.set_input_size(img_size=side)
        visual.image_size = (side, side)
        return replace(towers, config=config)

    # open_clip's own towers are built anew, and their positions fitted on the way.
    with TemporaryDirectory() as folder:
        write_config(config, towers.files, Path(folder))
        clip = build_clip(Path(folder), towers.device)
    state = dict(towers.clip.state_dict())
    with torch.no_grad():
        resize_pos_embed(state, clip)
    clip.load_state_dict(state)
    return replace(towers, clip=clip, config=config)


def usual_preprocess(name: str, tag: str | None = None) -> dict[str, Any]:
    """Return how images are made ready for an open_clip tag, or for all tags of a model that agree.

    Nothing where they do not.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    configs = [open_clip.get_pretrained_cfg(name, one) for one in ([tag] if tag in tags else tags)]
    kept = [{key: config[key] for key in PREPROCESS_KEYS if key in config} for config in configs]
    if not kept or any(other != kept[0] for other in kept):
        return {}
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in kept[0].items()
    }


def _known_architecture(name: str) -> str:
    """Return the open_clip name of a model, making a JSON config of ours known to open_clip first.

    open_clip would trip over a broken one at every later registration, so it is checked here.
    """
    require_architecture(name, open_clip.list_models())
    if not name.endswith(".json"):
        return name

    path = Path(name)
    try:
        architecture = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.name is '{path}': no readable JSON ({error}); correct the file"
        ) from None

    missing = [
        key
        for key in ARCHITECTURE_KEYS
        if not isinstance(architecture, dict) or key not in architecture
    ]
    if missing:
        raise ConfigError(
            f"model.name is '{path}': not an open_clip config, {', '.join(missing)} missing"
        )
    _refuse_unread_weights(path, architecture)
    open_clip.add_model_config(path)
    return path.stem


def _refuse_unread_weights(path: Path, architecture: dict[str, Any]) -> None:
    """Refuse a JSON config that asks for weights of a tower: they would stay random in silence.

    Raises:
        ConfigError: it does.
    """
    for section, key, other in (
        ("vision_cfg", "timm_model_pretrained", "image_tower"),
        ("text_cfg", "hf_model_pretrained", "text_tower"),
    ):
        cfg = architecture[section]
        if not isinstance(cfg, dict):
            raise ConfigError(f"model.name is '{path}': {section} is no mapping; correct the file")
        if cfg.get(key):
            raise ConfigError(
                f"model.name is '{path}': {section}.{key} is true, but a JSON config loads no "
                f"weights; set it to false and name them in model.{other}.pretrained"
            )


def _build(name: str, device: torch.device) -> Any:
    architecture = open_clip.get_model_config(name)
    try:
        if is_bert(architecture):
            return build_bert_clip(architecture).to(device)
        return open_clip.create_model(name, device=device, pretrained_text=False)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"model.name: open_clip cannot build {name} ({error}); correct its JSON config"
        ) from error


def _load_base_weights(clip: torch.nn.Module, name: str, pretrained: str) -> None:
    path, tags = Path(pretrained), open_clip.list_pretrained_tags_by_model(name)
    if is_tag(pretrained):
        if pretrained not in tags:
            hint = nearest(pretrained, tags) or (f"; known tags: {', '.join(tags)}" if tags else "")
            raise ConfigError(
                f"model.pretrained is '{pretrained}': {name} has no such weights{hint}"
            )
        try:
            published = open_clip.get_pretrained_cfg(name, pretrained)
            path = Path(open_clip.download_pretrained(published))
        # open_clip makes all of the hub's errors OSErrors; of a plain URL come broken connections,
        # checksums that differ, and answers without a length.
        except (OSError, HTTPException, RuntimeError, TypeError, ValueError) as error:
            raise ServiceError(
                f"{name} weights '{pretrained}' cannot be downloaded ({type(error).__name__}); "
                "check the network, or set model.pretrained to a local file"
            ) from error
    require_weights_file(pretrained, path)

    try:
        open_clip.load_checkpoint(clip, str(path), strict=True, weights_only=True)
    except UNREADABLE_WEIGHTS as error:
        first, *others = str(error).splitlines() or [type(error).__name__]
        # After its first line, torch lists the keys that do not fit.
        if isinstance(error, RuntimeError) and "state_dict" in str(error):
            keys = others[0].strip() if others else first
            raise ConfigError(
                f"{path}: weights of another architecture than {name} ({keys[:200]})"
            ) from None
        raise CheckpointError(
            f"{path}: not a readable weights file ({first[:160]}); "
            "it may be cut, or hold more than tensors; fetch it again"
        ) from None
