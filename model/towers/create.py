"""The towers that a run starts from: an imported model or one of open_clip's, at the resolution of the config."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from open_clip.model import resize_pos_embed
from safetensors import SafetensorError

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
from model.towers.folder import CONFIG_FILE, _quiet_open_clip, build_clip, load_towers
from model.towers.imported import find_imported
from model.towers.towers import Towers, resolve_device


def base_towers(model: ModelConfig, shelf: Path, device: str, precision: str, seed: int) -> Towers:
    """Create the towers of a config with their base weights, imported models from the shelf, at its
    resolution.

    Raises:
        ConfigError: model, weights or resolution are unknown, or do not fit each other.
        CheckpointError: the weights are damaged.
        ServiceError: the weights of a tag cannot be downloaded.
    """
    imported = find_imported(model.pretrained, shelf)
    if imported is not None:
        towers = load_towers(imported, device, precision)
    else:
        _suggest_imported(model, shelf)
        towers = create_towers(model, device, precision, seed)
    if imported is not None and model.context_length is not None:
        towers = lengthen_towers(towers, model.context_length)
    return towers if model.image_size is None else resize_towers(towers, model.image_size)


def lengthen_towers(towers: Towers, length: int) -> Towers:
    """Return towers whose text tower reads so many tokens.

    Raises:
        ConfigError: the text tower has another number of positions, or is no BERT.
    """
    architecture = with_context_length(towers.config["model_cfg"], length)
    tokenizer = make_word_pieces(architecture, towers.files[VOCABULARY_FILE])
    return replace(towers, tokenizer=tokenizer, config=towers.config | {"model_cfg": architecture})


def _suggest_imported(model: ModelConfig, shelf: Path) -> None:
    """Refuse a name that is nearly one on the shelf."""
    names = [folder.name for folder in shelf.iterdir() if folder.is_dir()] if shelf.is_dir() else []
    hint = nearest(model.pretrained, names) if model.pretrained is not None else ""
    if hint:
        raise ConfigError(
            f"model.pretrained is '{model.pretrained}': no model was imported under that name{hint}"
        )


def resize_towers(towers: Towers, side: int) -> Towers:
    """Return towers for images of ``side`` pixels, the positions of their patches interpolated
    (bicubic, antialiased).

    Raises:
        ConfigError: the image tower has no patches to interpolate, or the side is no whole number
        of them.
    """
    if side == towers.image_size:
        return towers
    visual, config = towers.clip.visual, copy.deepcopy(towers.config)
    config["model_cfg"]["vision_cfg"]["image_size"] = side
    patch = config["model_cfg"]["vision_cfg"].get("patch_size", 16)
    if hasattr(visual, "trunk"):
        if not hasattr(visual.trunk, "set_input_size"):
            raise ConfigError(
                f"model.image_size is {side}, but a {type(visual.trunk).__name__} has a fixed one; use null"
            )
        patch = visual.trunk.patch_embed.patch_size[0]
    elif not hasattr(visual, "grid_size"):
        raise ConfigError(
            f"model.image_size is {side}, but a {type(visual).__name__} has a fixed one; set it to null"
        )
    if side % patch:
        raise ConfigError(
            f"model.image_size is {side}, no multiple of the {patch} pixels of a patch"
        )
    if hasattr(visual, "trunk"):
        visual.trunk.set_input_size(img_size=side)
        visual.image_size = (side, side)
        return replace(towers, config=config)
    with TemporaryDirectory() as folder:
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
        for name, content in towers.files.items():
            (Path(folder) / name).write_bytes(content)
        clip = build_clip(Path(folder), towers.device)
    state = dict(towers.clip.state_dict())
    with torch.no_grad():
        resize_pos_embed(state, clip)
    clip.load_state_dict(state)
    return replace(towers, clip=clip, config=config)


# What torch, safetensors and open_clip's conversions raise on a file that is cut, or holds
# something else.
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


PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")


def create_towers(
    model: ModelConfig, device: str = "auto", precision: str = "fp32", seed: int = 0
) -> Towers:
    """Create the towers of a config with their base weights; without any, weights are drawn from
    the seed.

    Raises:
        ConfigError: the model or the pretrained tag is unknown, or the weights are of another
        architecture.
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
        architecture = with_context_length(
            dict(open_clip.get_model_config(name) or {}), model.context_length
        )
        files = read_vocabulary(architecture, model.vocabulary)
        tokenizer = (
            make_word_pieces(architecture, files[VOCABULARY_FILE])
            if files
            else open_clip.get_tokenizer(name)
        )
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
        raise ConfigError(
            f"model.name is {name}, but weights '{tag}' have another activation; set it to {other}"
        )


def usual_preprocess(name: str, tag: str | None = None) -> dict[str, Any]:
    """Return how images are made ready for an open_clip tag, or for all weights of a model that agree; else nothing."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    chosen = [tag] if tag in tags else tags
    said = [open_clip.get_pretrained_cfg(name, one) for one in chosen]
    kept = [{key: cfg[key] for key in PREPROCESS_KEYS if key in cfg} for cfg in said]
    if not kept or any(other != kept[0] for other in kept):
        return {}
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in kept[0].items()
    }


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
        raise ConfigError(
            f"model.name is '{path}': no readable JSON ({error}); mend the file"
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
    open_clip.add_model_config(path)
    return path.stem


def _build(name: str, device: torch.device) -> Any:
    architecture = open_clip.get_model_config(name)
    try:
        if is_bert(architecture):
            return build_bert_clip(architecture).to(device)
        return open_clip.create_model(name, device=device, pretrained_text=False)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"model.name: open_clip cannot build {name} ({error}); mend its JSON config"
        ) from error


def _load_base_weights(clip: torch.nn.Module, name: str, pretrained: str) -> None:
    path = (
        Path(pretrained)
        if Path(pretrained).suffix or "/" in pretrained
        else _download(name, pretrained)
    )
    if not path.is_file():
        raise ConfigError(
            f"model.pretrained is '{pretrained}': no such file; name a weights file, an open_clip tag or null"
        )
    try:
        open_clip.load_checkpoint(clip, str(path), strict=True, weights_only=True)
    except RuntimeError as error:
        if "state_dict" not in str(error):
            raise _damaged(path, error) from None
        raise ConfigError(
            f"{path}: weights of another architecture than {name} ({_first_keys(error)})"
        ) from None
    except UNREADABLE_WEIGHTS as error:
        raise _damaged(path, error) from None
    except Exception as error:
        # torch raises pickle.UnpicklingError for code in a weights file; naming the class would
        # import pickle.
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
        raise ConfigError(
            f"model.pretrained is '{tag}': {name} has no such weights{nearest(tag, tags) or known}"
        )
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag)))
    except Exception as error:
        # Each hub client raises its own kind; none of them is ours to mend.
        raise ServiceError(
            f"{name} weights '{tag}' cannot be downloaded ({type(error).__name__}); "
            "check the network, or set model.pretrained to a local file"
        ) from error
