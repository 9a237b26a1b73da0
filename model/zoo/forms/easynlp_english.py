"""EasyNLP's English models: a folder with ``config.json`` of ``model_type: open_clip``.

The weights are in ``pytorch_model.bin``, CLIP's byte pairs in ``vocab.txt``. Both towers use
QuickGELU, which the config does not say: EasyNLP's code knows no other. Images are made ready as
for CLIP, whatever the folder: its code has the numbers.

Source: EasyNLP's easynlp/modelzoo/models/clip/modeling_openclip.py, appzoo/clip/model.py and
data.py.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer

from model.errors import ConfigError
from model.towers.towers import Towers
from model.zoo.folders import find_file, read_json, require_sizes, write_json
from model.zoo.forms.activation import check_activation
from model.zoo.forms.bpe import check_merges, own_merges
from model.zoo.forms.plain import is_plain
from model.zoo.published import ForeignModel, Given
from model.zoo.tensors import read_tensors

NAME = "easynlp"
ABOUT = "EasyNLP folder with config.json of model_type open_clip"
CONFIG, WEIGHTS, MERGES = "config.json", "pytorch_model.bin", "vocab.txt"
MODEL_TYPE = "open_clip"
KEY_PREFIX = "open_clip."
HEAD_WIDTH = 64  # of the image tower; the config does not say it
NUMBER_FIELDS = (
    "embed_dim",
    "image_resolution",
    "vision_width",
    "vision_patch_size",
    "context_length",
    "vocab_size",
    "transformer_width",
    "transformer_heads",
    "transformer_layers",
)


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
    architecture = check_activation(_architecture(path), given, "EasyNLP's code")
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
        and isinstance(towers.tokenizer, SimpleTokenizer)
        and tuple(preprocess["mean"]) == OPENAI_DATASET_MEAN
        and tuple(preprocess["std"]) == OPENAI_DATASET_STD
    )


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    tensors = {
        f"{KEY_PREFIX}{name}": tensor.cpu() for name, tensor in towers.clip.state_dict().items()
    }
    torch.save(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, _config(towers.config["model_cfg"]))
    (folder / MERGES).write_bytes(own_merges())


class TheirTruncation:
    """CLIP's tokeniser as EasyNLP runs it: a caption that is cut loses its end of text."""

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        """Wrap open_clip's tokeniser."""
        self.tokenizer = tokenizer

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


def _architecture(folder: Path) -> dict[str, Any]:
    """Return open_clip's ``model_cfg`` of EasyNLP's config."""
    config = read_json(folder, CONFIG)
    layers = config.get("vision_layers")
    sizes = layers if isinstance(layers, list) else [layers]
    required = {name: config.get(name) for name in NUMBER_FIELDS}
    required |= {f"vision_layers ({number})": size for number, size in enumerate(sizes)}
    require_sizes(folder / CONFIG, required)

    return {
        "embed_dim": config["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": config["image_resolution"],
            "layers": layers,
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


def _config(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return EasyNLP's config, with open_clip's defaults for what the architecture leaves out."""
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]

    return {
        "embed_dim": architecture["embed_dim"],
        "image_resolution": vision["image_size"],
        "vision_layers": vision.get("layers", 12),
        "vision_width": vision.get("width", 768),
        "vision_patch_size": vision["patch_size"],
        "context_length": text.get("context_length", 77),
        "vocab_size": text.get("vocab_size", 49408),
        "transformer_width": text.get("width", 512),
        "transformer_heads": text.get("heads", 8),
        "transformer_layers": text.get("layers", 12),
        "model_type": MODEL_TYPE,
    }
