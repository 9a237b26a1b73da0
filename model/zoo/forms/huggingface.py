"""What CLIP and SigLIP folders of Hugging Face share: their files, and how they say that images are made ready."""

import json
import re
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.zoo.folders import file_of, read_json
from model.zoo.forms.keys import NamedTensors
from model.zoo.tensors import write_tensors

NAME = "huggingface"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"
IMAGES = "preprocessor_config.json"
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
LICENCE = re.compile(r"\A---\n(?:.*\n)*?license: *([\w.-]+)", re.MULTILINE)
# Positions that older versions of transformers kept as if they were weights.
CONSTANTS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


def towers_config(folder: Path, tower: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the config of one tower with transformers' defaults for what it leaves out.

    Raises:
        CheckpointError: a value is no number where one is needed.
    """
    config = read_json(folder, CONFIG)
    said = (config.get(f"{tower}_config") or {}) | (config.get(f"{tower}_config_dict") or {})
    values = {name: said.get(name, value) for name, value in defaults.items()}
    wrong = [
        name
        for name, value in values.items()
        if isinstance(defaults[name], int)
        and (type(value) is not int or not 0 < value < 10_000_000)
    ]
    if wrong:
        raise CheckpointError(
            f"{folder / CONFIG}: {tower}_config.{wrong[0]} is {values[wrong[0]]!r}, no positive number"
        )
    return values


def read_preprocess(folder: Path) -> dict[str, Any]:
    """Return open_clip's preprocess_cfg of a folder, what is not said left out."""
    said, found = read_json(folder, IMAGES), dict[str, Any]()
    if "image_mean" in said and "image_std" in said:
        found |= {"mean": said["image_mean"], "std": said["image_std"]}
    if said.get("resample") in RESAMPLING:
        found["interpolation"] = RESAMPLING[said["resample"]]
    if isinstance(said.get("size"), dict):
        found["resize_mode"] = "shortest" if "shortest_edge" in said["size"] else "squash"
    return found


def preprocess_json(preprocess: dict[str, Any], side: int, processor: str) -> dict[str, Any]:
    """Return the content of preprocessor_config.json."""
    is_squashed = preprocess.get("resize_mode") == "squash"
    resample = next(
        number
        for number, name in RESAMPLING.items()
        if name == preprocess.get("interpolation", "bicubic")
    )
    square = {"height": side, "width": side}
    return {
        "image_processor_type": processor,
        "do_resize": True,
        "size": square if is_squashed else {"shortest_edge": side},
        "resample": resample,
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
    (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / IMAGES).write_text(json.dumps(images, indent=2), encoding="utf-8")


def read_licence(folder: Path) -> str | None:
    """Return the licence that the folder's model card names at its head, None where it names none."""
    path = file_of(folder, "README.md")
    if path is None:
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        found = LICENCE.match(file.read(10_000))
    return found[1] if found else None
