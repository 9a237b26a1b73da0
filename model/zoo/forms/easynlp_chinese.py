"""EasyNLP's Chinese models: a folder with ``config.json`` of ``model_type: chinese_clip``.

The weights are in ``pytorch_model.bin``, BERT's word pieces in ``vocab.txt``. Their loader takes
what fits and leaves the rest random; here every key must fit. The image tower uses QuickGELU, which
the config does not say: EasyNLP's code knows no other.

Source: EasyNLP's easynlp/modelzoo/models/clip/modeling_chineseclip.py and appzoo/clip/model.py.
"""

from pathlib import Path

import torch

from model.errors import CheckpointError
from model.towers.bert import VOCABULARY_FILE
from model.towers.towers import Towers
from model.zoo.folders import find_file, read_json, write_json
from model.zoo.forms.bert_keys import (
    TEXT_FIELDS,
    chinese_clip_from_ours,
    head_width,
    holds_fixed,
    ours_from_chinese_clip,
    text_of,
    vocabulary_beside,
)
from model.zoo.forms.easynlp_english import easynlp_vision
from model.zoo.forms.huggingface import read_licence
from model.zoo.published import ForeignModel, Given
from model.zoo.tensors import read_tensors

NAME = "easynlp"
ABOUT = "EasyNLP folder with config.json of model_type chinese_clip"
KEY_PREFIX = "chinese_clip."
WEIGHTS = "pytorch_model.bin"
CONTEXT_LENGTH = 32  # the default of their script; no file says it


def recognises(path: Path) -> bool:
    """Return whether this is a folder of this form."""
    config = read_json(path, "config.json") if path.is_dir() else {}
    return config.get("model_type") == "chinese_clip" and "text_config" not in config


def read(path: Path, given: Given) -> ForeignModel:
    """Read a folder of this form.

    Raises:
        ConfigError: the user gave another activation than QuickGELU.
        CheckpointError: a file is missing, damaged, or of another form.
    """
    weights = find_file(path, [WEIGHTS])
    config = read_json(path, "config.json")
    missing = [theirs for theirs in TEXT_FIELDS if theirs not in config]
    if missing:
        raise CheckpointError(
            f"{path / 'config.json'}: {', '.join(missing[:3])} missing; fetch it again"
        )

    vision = easynlp_vision(path, config)
    if not isinstance(vision["layers"], list):
        vision["head_width"] = head_width(vision["width"])
    bert = {ours: config[theirs] for theirs, ours in TEXT_FIELDS.items()}
    architecture = {
        "quick_gelu": True,
        "vision_cfg": vision,
        "embed_dim": config["embed_dim"],
        "text_cfg": text_of(path, bert, CONTEXT_LENGTH),
    }
    given.check_activation(architecture, "EasyNLP's code")

    files = {VOCABULARY_FILE: vocabulary_beside(path)}
    ours = ours_from_chinese_clip(
        {name.removeprefix(KEY_PREFIX): tensor for name, tensor in read_tensors(weights).items()}
    )
    return ForeignModel(NAME, architecture, {}, ours, weights, files, read_licence(path))


def holds(towers: Towers) -> bool:
    """Return whether the form has a place for such towers."""
    return holds_fixed(towers)


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    vision, bert = towers.config["model_cfg"]["vision_cfg"], towers.clip.text.config
    config = {
        "model_type": "chinese_clip",
        "embed_dim": towers.embed_dim,
        "image_resolution": towers.image_size,
        "vision_layers": vision["layers"],
        "vision_width": vision["width"],
        "vision_patch_size": vision.get("patch_size"),
    }
    config |= {theirs: getattr(bert, ours) for theirs, ours in TEXT_FIELDS.items()}
    write_json(folder / "config.json", config)
    (folder / VOCABULARY_FILE).write_bytes(towers.files[VOCABULARY_FILE])

    tensors = chinese_clip_from_ours(towers.tensors())
    torch.save(
        {f"{KEY_PREFIX}{name}": tensor for name, tensor in tensors.items()}, folder / WEIGHTS
    )
