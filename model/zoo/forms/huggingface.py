"""What folders of Hugging Face share: files, transformers' defaults, how images are resized."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model.towers.towers import NamedTensors
from model.zoo.folders import file_of, find_file, read_json, require_sizes, write_json
from model.zoo.tensors import SHARDS_SUFFIX, read_tensors, write_tensors

NAME = "huggingface"
WHOLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
WEIGHTS = (*WHOLE_WEIGHTS, *(f"{name}{SHARDS_SUFFIX}" for name in WHOLE_WEIGHTS))
CONFIG = "config.json"
IMAGES = "preprocessor_config.json"
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
LICENCE = re.compile(r"\A---\n(?:.*\n)*?license: *([\w.-]+)", re.MULTILINE)
# Positions that older versions of transformers kept as if they were weights.
CONSTANTS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
# The fields of a tower's config that say its shape and function.
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
KINDS = ("hidden_act", "layer_norm_eps")
ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # and what open_clip's quick_gelu is then
VISION_FIELDS = (*SIZES, "image_size", "patch_size", *KINDS)
TEXT_FIELDS = (*SIZES, "vocab_size", "max_position_embeddings", *KINDS)


def defaults_of(config: type, fields: Iterable[str]) -> dict[str, Any]:
    """Return transformers' defaults of fields of a config class, which are its attributes."""
    return {name: getattr(config, name) for name in fields}


def towers_config(folder: Path, tower: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the config of one tower with defaults for what it leaves out.

    Raises:
        CheckpointError: a value is no number where one is needed.
    """
    config = read_json(folder, CONFIG)
    stated = (config.get(f"{tower}_config") or {}) | (config.get(f"{tower}_config_dict") or {})
    values = {name: stated.get(name, value) for name, value in defaults.items()}

    sizes = {
        f"{tower}_config.{name}": value
        for name, value in values.items()
        if isinstance(defaults[name], int)
    }
    require_sizes(folder / CONFIG, sizes)
    return values


def read_weights(folder: Path) -> tuple[Path, NamedTensors]:
    """Return the weights file of a folder and its tensors, constants left out.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = find_file(folder, WEIGHTS)
    tensors = read_tensors(path)
    return path, {name: tensor for name, tensor in tensors.items() if name not in CONSTANTS}


def read_preprocess(folder: Path) -> dict[str, Any]:
    """Return open_clip's preprocess_cfg of a folder without what the folder leaves out."""
    theirs, ours = read_json(folder, IMAGES), dict[str, Any]()
    if "image_mean" in theirs and "image_std" in theirs:
        ours |= {"mean": theirs["image_mean"], "std": theirs["image_std"]}
    if theirs.get("resample") in RESAMPLING:
        ours["interpolation"] = RESAMPLING[theirs["resample"]]
    if isinstance(theirs.get("size"), dict):
        ours["resize_mode"] = "shortest" if "shortest_edge" in theirs["size"] else "squash"
    return ours


def preprocess_json(preprocess: dict[str, Any], side: int, processor: str) -> dict[str, Any]:
    """Return the content of preprocessor_config.json."""
    is_squashed = preprocess.get("resize_mode") == "squash"
    numbers = {name: number for number, name in RESAMPLING.items()}
    square = {"height": side, "width": side}
    return {
        "image_processor_type": processor,
        "do_resize": True,
        "size": square if is_squashed else {"shortest_edge": side},
        "resample": numbers[preprocess.get("interpolation", "bicubic")],
        "do_center_crop": not is_squashed,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess["mean"]),
        "image_std": list(preprocess["std"]),
        "do_convert_rgb": True,
    }


def write_folder(
    folder: Path, tensors: NamedTensors, config: dict[str, Any], images: dict[str, Any]
) -> None:
    """Write weights, config and preprocessing."""
    write_tensors(tensors, folder / WEIGHTS[0])
    write_json(folder / CONFIG, config)
    write_json(folder / IMAGES, images)


def read_licence(folder: Path) -> str | None:
    """Return the licence at the head of the folder's model card, None where there is none."""
    path = file_of(folder, "README.md")
    if path is None:
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        found = LICENCE.match(file.read(10_000))
    return found[1] if found else None
