"""The base weights of a config: towers that came together, or two of whatever make, joined.

What is drawn from the seed is told in a warning, tower by tower: a projection head always is, a
trunk only where the config names no weights for it.
"""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from model.batches.tokens import Tokenizer
from model.config.model import ImageTowerConfig
from model.config.sections import ModelConfig
from model.errors import ConfigError
from model.towers.create import (
    create_tokenizer,
    create_towers,
    lengthen_towers,
    resize_towers,
)
from model.towers.folder import build_clip, build_tokenizer, load_towers, write_config
from model.towers.imported import find_imported, require_name_on_shelf
from model.towers.layers import is_projection
from model.towers.parts import Part, read_image_tower, read_text_tower
from model.towers.towers import Towers, resolve_device, resolve_precision

EMBED_DIM = 512  # CLIP's
MOST_NAMED = 3

log = logging.getLogger(__name__)


def base_towers(model: ModelConfig, shelf: Path, device: str, precision: str, seed: int) -> Towers:
    """Create the towers of a config with their base weights, imported models from the shelf.

    Raises:
        ConfigError: model, weights or resolution are unknown, or do not fit each other.
        CheckpointError: the weights are damaged.
        ServiceError: the weights of a tag cannot be downloaded.
    """
    if model.image_tower is not None:
        return _joined_towers(model, shelf, device, precision, seed)
    imported = find_imported(model.pretrained, shelf)
    if imported is not None:
        towers = load_towers(imported, device, precision)
        if model.context_length is not None:
            towers = lengthen_towers(towers, model.context_length)
    else:
        require_name_on_shelf(model.pretrained, shelf)
        towers = create_towers(model, device, precision, seed)
    return towers if model.image_size is None else resize_towers(towers, model.image_size)


def config_tokenizer(model: ModelConfig, shelf: Path) -> Tokenizer:
    """Create the tokeniser of a config alone, imported models from the shelf.

    Raises:
        ConfigError: model or vocabulary are unknown, or do not fit each other.
    """
    if model.text_tower is None:
        imported = find_imported(model.pretrained, shelf)
        return (
            create_tokenizer(model)
            if imported is None
            else build_tokenizer(imported, model.context_length)
        )

    # The words of a published encoder come with its weights.
    text = read_text_tower(model.text_tower, shelf, seed=0)
    with TemporaryDirectory() as name:
        folder, sides = Path(name), {"vision_cfg": {}, "text_cfg": text.cfg}
        write_config({"model_cfg": {"embed_dim": 1, **sides}}, text.files, folder)
        return build_tokenizer(folder)


def _joined_towers(
    model: ModelConfig, shelf: Path, device: str, precision: str, seed: int
) -> Towers:
    """Build an image tower and a text tower of different makes as one model, and load both."""
    assert model.image_tower is not None and model.text_tower is not None
    image = read_image_tower(model.image_tower, shelf, seed)
    text = read_text_tower(model.text_tower, shelf, seed)

    config = {
        "model_cfg": _architecture(model, image, text),
        "preprocess_cfg": image.preprocess | _stated_preprocess(model.image_tower),
    }
    target = resolve_device(device)
    with TemporaryDirectory() as name, torch.random.fork_rng(devices=[]):
        folder = Path(name)
        write_config(config, text.files, folder)
        torch.manual_seed(seed)
        clip, tokenizer = build_clip(folder, target), build_tokenizer(folder)

    for part, which in ((image, "image"), (text, "text")):
        _load_part(clip, part, which, seed)
    towers = Towers(
        *(clip, tokenizer, config, target, resolve_precision(precision, target)), files=text.files
    )
    side, length = model.image_tower.image_size, model.text_tower.context_length
    if length not in (None, text.cfg.get("context_length")):
        towers = lengthen_towers(towers, length)
    return towers if side is None else resize_towers(towers, side)


def _architecture(model: ModelConfig, image: Part, text: Part) -> dict[str, Any]:
    """Return open_clip's words for both.

    Raises:
        ConfigError: open_clip's own towers want different activations.
    """
    wanted = {part.quick_gelu for part in (image, text)} - {None}
    if len(wanted) > 1:
        raise ConfigError(
            "model.image_tower and model.text_tower: one was trained with quickgelu, the other "
            "with gelu, and a model of open_clip's own towers has one activation; take another"
        )
    architecture = {
        "embed_dim": model.embed_dim or image.embed_dim or text.embed_dim or EMBED_DIM,
        "vision_cfg": image.cfg,
        "text_cfg": text.cfg,
    }
    if "bert" not in text.cfg:
        architecture["custom_text"] = True
    return architecture | ({"quick_gelu": True} if True in wanted else {})


def _stated_preprocess(tower: ImageTowerConfig) -> dict[str, Any]:
    stated = {"mean": tower.mean, "std": tower.std}
    return {name: list(values) for name, values in stated.items() if values is not None}


def _load_part(clip: torch.nn.Module, part: Part, which: str, seed: int) -> None:
    """Put a tower's weights in place; a projection of another width stays as it was drawn.

    Raises:
        ConfigError: the weights are of another architecture.
    """
    prefix = "visual." if which == "image" else "text."
    wanted = {name: value for name, value in clip.state_dict().items() if name.startswith(prefix)}
    if part.tensors is None:
        log.warning(
            "%s tower: random weights, drawn from seed %d (model.%s_tower.pretrained is null)",
            *(which, seed, which),
        )
        return

    found = {
        name: value
        for name, value in part.tensors.items()
        if not (is_projection(name) and _is_other(wanted.get(name), value))
    }
    problems = {
        "missing": [name for name in wanted.keys() - found.keys() if not is_projection(name)],
        "unknown": [*(found.keys() - wanted.keys())],
        "of another shape": [
            name for name in wanted.keys() & found.keys() if _is_other(wanted[name], found[name])
        ],
    }
    listed = "; ".join(
        f"{len(names)} {what} ({', '.join(sorted(names)[:MOST_NAMED])})"
        for what, names in problems.items()
        if names
    )
    if listed:
        raise ConfigError(
            f"model.{which}_tower.pretrained: weights of another architecture, {listed}"
        )
    clip.load_state_dict(found, strict=False)

    drawn = wanted.keys() - found.keys()
    log.info(
        "%s tower: %d tensors of its weights%s",
        *(which, len(found), f"; its projection is drawn from seed {seed}" if drawn else ""),
    )


def _is_other(wanted: torch.Tensor | None, found: torch.Tensor) -> bool:
    return wanted is None or wanted.shape != found.shape
