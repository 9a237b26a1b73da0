"""EasyNLP's English models: ``config.json`` of ``model_type: open_clip``, ``pytorch_model.bin``, BPE in ``vocab.txt``.

Both towers use QuickGELU, which the config does not say: EasyNLP's code knows no other.
Source: EasyNLP's easynlp/modelzoo/models/clip/modeling_openclip.py and appzoo/clip/model.py.
"""

import json
from pathlib import Path
from typing import Any

from model.errors import CheckpointError
from model.forms.published import Published, Told
from model.forms.weights import read_tensors
from model.towers import Towers

NAME = "easynlp"
ABOUT = "EasyNLP folder with config.json of model_type open_clip"
PREFIX = "open_clip."


def recognises(path: Path) -> bool:
    """Tell whether this is a folder of this form."""
    return _config(path).get("model_type") == "open_clip"


def read(path: Path, told: Told) -> Published:
    """Read a folder of this form.

    Raises:
        CheckpointError: a file is missing, damaged, or of another form.
    """
    weights = path / "pytorch_model.bin"
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(weights).items()}
    return Published(NAME, architecture_of(_config(path)), {}, tensors, weights)


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    raise CheckpointError(f"{folder}: not yet")


def architecture_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return open_clip's ``model_cfg`` of EasyNLP's config."""
    return {
        "embed_dim": config["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": config["image_resolution"],
            "layers": config["vision_layers"],
            "width": config["vision_width"],
            "patch_size": config["vision_patch_size"],
        },
        "text_cfg": {
            "context_length": config["context_length"],
            "vocab_size": config["vocab_size"],
            "width": config["transformer_width"],
            "heads": config["transformer_heads"],
            "layers": config["transformer_layers"],
        },
    }


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
