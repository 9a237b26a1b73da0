"""EasyNLP's English models: a folder with ``config.json`` of ``model_type: open_clip``.

The weights are in ``pytorch_model.bin``, CLIP's byte pairs in ``vocab.txt``. Both towers use
QuickGELU, which the config does not say: EasyNLP's code knows no other. Images are made ready as
for CLIP, whatever the folder: its code has the numbers.

Source: EasyNLP's easynlp/modelzoo/models/clip/modeling_openclip.py, appzoo/clip/model.py and
data.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer

from model.errors import ConfigError
from model.towers.towers import Towers
from model.zoo.folders import find_file, read_json, require_sizes, write_json
from model.zoo.forms.bpe import check_merges, is_plain, own_merges
from model.zoo.published import ForeignModel, Given
from model.zoo.tensors import read_tensors

NAME = "easynlp"
ABOUT = "EasyNLP folder with config.json of model_type open_clip"
CONFIG, WEIGHTS, MERGES = "config.json", "pytorch_model.bin", "vocab.txt"
MODEL_TYPE = "open_clip"
KEY_PREFIX = "open_clip."
HEAD_WIDTH = 64  # of the image tower; the config does not say it
# open_clip's name of each field of the text tower, and its default.
TEXT_FIELDS = {
    "context_length": ("context_length", 77),
    "vocab_size": ("vocab_size", 49408),
    "transformer_width": ("width", 512),
    "transformer_heads": ("heads", 8),
    "transformer_layers": ("layers", 12),
}


def recognises(path: Path) -> bool:
    """Return whether this is a folder of this form."""
    return path.is_dir() and read_json(path, CONFIG).get("model_type") == MODEL_TYPE


def read(path: Path, given: Given) -> ForeignModel:
    """Read a folder of this form.

    Raises:
        ConfigError: the user gave another activation than QuickGELU.
        CheckpointError: a file is missing, damaged, or of another form.
    """
    weights = find_file(path, [WEIGHTS])
    check_merges(find_file(path, [MERGES], "vocabulary"))

    config = read_json(path, CONFIG)
    vision = easynlp_vision(path, config, ("vision_patch_size", *TEXT_FIELDS))
    architecture = {
        "embed_dim": config["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": vision,
        "text_cfg": {ours: config[theirs] for theirs, (ours, _) in TEXT_FIELDS.items()},
    }
    given.check_activation(architecture, "EasyNLP's code")

    tensors = {
        name.removeprefix(KEY_PREFIX): tensor for name, tensor in read_tensors(weights).items()
    }
    return ForeignModel(NAME, architecture, {}, tensors, weights)


def holds(towers: Towers) -> bool:
    """Return whether the form has a place for such towers."""
    architecture, preprocess = towers.config["model_cfg"], towers.config["preprocess_cfg"]
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    return (
        is_plain(towers)
        and bool(architecture.get("quick_gelu"))
        and vision.get("head_width", HEAD_WIDTH) == HEAD_WIDTH
        and vision.get("mlp_ratio", 4) == text.get("mlp_ratio", 4) == 4
        and tuple(preprocess["mean"]) == OPENAI_DATASET_MEAN
        and tuple(preprocess["std"]) == OPENAI_DATASET_STD
    )


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    tensors = {f"{KEY_PREFIX}{name}": tensor for name, tensor in towers.tensors().items()}
    torch.save(tensors, folder / WEIGHTS)

    # What the architecture leaves out has open_clip's defaults.
    vision, text = (towers.config["model_cfg"][tower] for tower in ("vision_cfg", "text_cfg"))
    config = {
        "embed_dim": towers.embed_dim,
        "image_resolution": vision["image_size"],
        "vision_layers": vision.get("layers", 12),
        "vision_width": vision.get("width", 768),
        "vision_patch_size": vision["patch_size"],
        **{theirs: text.get(ours, usual) for theirs, (ours, usual) in TEXT_FIELDS.items()},
        "model_type": MODEL_TYPE,
    }
    write_json(folder / CONFIG, config)
    (folder / MERGES).write_bytes(own_merges())


@dataclass(frozen=True)
class TheirTruncation:
    """CLIP's tokeniser as EasyNLP runs it: a caption that is cut loses its end of text."""

    tokenizer: SimpleTokenizer

    def __call__(self, captions: list[str]) -> torch.Tensor:
        """Return token ids int64 [B, L]."""
        context = self.tokenizer.context_length
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        ids_BL = torch.zeros(len(captions), context, dtype=torch.int64)

        for row, caption in enumerate(captions):
            ids = [start, *self.tokenizer.encode(caption), end][:context]
            ids_BL[row, : len(ids)] = torch.tensor(ids)
        return ids_BL


def truncating_as_theirs(towers: Towers) -> Towers:
    """Return the towers with captions cut as EasyNLP does, for the embeddings that it gave.

    Raises:
        ConfigError: the towers read no English byte pairs.
    """
    if not isinstance(towers.tokenizer, SimpleTokenizer):
        raise ConfigError(
            "--truncate easynlp: these towers do not read CLIP's byte pairs; leave the option out"
        )
    return replace(towers, tokenizer=TheirTruncation(towers.tokenizer))


def easynlp_vision(
    folder: Path, config: dict[str, Any], fields: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return open_clip's ``vision_cfg`` of EasyNLP's config, English or Chinese.

    Raises:
        CheckpointError: a size of the image tower, or one of the fields, is no positive number.
    """
    layers = config.get("vision_layers")
    if isinstance(layers, list):  # a ResNet, which has no patches
        required = {f"vision_layers ({number})": size for number, size in enumerate(layers)}
    else:
        required = {name: config.get(name) for name in ("vision_layers", "vision_patch_size")}
    fields = ("embed_dim", "image_resolution", "vision_width", *fields)
    require_sizes(folder / CONFIG, {name: config.get(name) for name in fields} | required)

    return {
        "image_size": config["image_resolution"],
        "layers": layers,
        "width": config["vision_width"],
        "patch_size": config.get("vision_patch_size"),
    }
