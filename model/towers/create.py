"""The towers that a run starts from: an imported model or one of open_clip's, at the resolution of the config."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from open_clip.model import resize_pos_embed

from model.config.sections import ModelConfig
from model.errors import ConfigError, nearest
from model.towers.bert import VOCABULARY_FILE, make_word_pieces, with_context_length
from model.towers.imported import find_imported
from model.towers.towers import CONFIG_FILE, Towers, build_clip, create_towers, load_towers


def base_towers(model: ModelConfig, shelf: Path, device: str, precision: str, seed: int) -> Towers:
    """Create the towers of a config with their base weights, imported models from the shelf, at its resolution.

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
        raise ConfigError(f"model.pretrained is '{model.pretrained}': no model was imported under that name{hint}")


def resize_towers(towers: Towers, side: int) -> Towers:
    """Return towers for images of ``side`` pixels, the positions of their patches interpolated (bicubic, antialiased).

    Raises:
        ConfigError: the image tower has no patches to interpolate, or the side is no whole number of them.
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
        raise ConfigError(f"model.image_size is {side}, but a {type(visual).__name__} has a fixed one; set it to null")
    if side % patch:
        raise ConfigError(f"model.image_size is {side}, no multiple of the {patch} pixels of a patch")
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
