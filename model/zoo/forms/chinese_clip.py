"""Chinese-CLIP's own file: a ``.pt`` with ``state_dict``, keys ``bert.`` and ``visual.``.

Mostly they are behind ``module.``. The file names no architecture; the shapes of its tensors say
all but the heads, which are of width 64 in both towers (80 in the image tower of ViT-H-14), and the
activation, which is QuickGELU in all of them. Its code has the vocabulary: ``vocab.txt`` must lie
beside the file. Images are resized to a square and not cropped.

Source: Chinese-CLIP's cn_clip/clip/model.py, utils.py and model_configs/.
"""

from pathlib import Path
from typing import Any

import torch

from model.errors import CheckpointError
from model.towers.bert import DEFAULT_CONTEXT, VOCABULARY_FILE
from model.towers.towers import NamedTensors, Towers
from model.zoo.forms.bert_keys import (
    HEAD_WIDTH,
    block_count,
    chinese_clip_from_ours,
    head_width,
    holds_fixed,
    ours_from_chinese_clip,
    text_of,
    vocabulary_beside,
)
from model.zoo.forms.huggingface import read_licence
from model.zoo.published import ForeignModel, Given
from model.zoo.tensors import peek_names, read_tensors

NAME = "chinese-clip"
ABOUT = "Chinese-CLIP's .pt"
KEY_PREFIX = "module."
WEIGHTS = "clip_cn.pt"
WORD_LIMIT = 200  # characters; longer ones are [UNK]
NEEDED_KEYS = {"text_projection", "visual.conv1.weight", "bert.embeddings.word_embeddings.weight"}
PREPROCESS = {"resize_mode": "squash", "interpolation": "bicubic"}


def recognises(path: Path) -> bool:
    """Return whether this is a file of this form, by its name or by what is in it."""
    return (
        path.suffix in (".pt", ".pth", ".bin", ".ckpt")
        and path.is_file()
        and (path.name.startswith("clip_cn") or set(peek_names(path)) >= NEEDED_KEYS)
    )


def read(path: Path, given: Given) -> ForeignModel:
    """Read a file of this form.

    Raises:
        ConfigError: the user gave another activation than QuickGELU.
        CheckpointError: the file is damaged or incomplete, or no vocabulary lies beside it.
    """
    tensors = read_tensors(path)
    try:
        architecture = _architecture(path, tensors)
    except (LookupError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: weights of another architecture ({error})") from None
    given.check_activation(architecture, "Chinese-CLIP's code")

    ours, licence = ours_from_chinese_clip(tensors), read_licence(path.parent)
    files = {VOCABULARY_FILE: vocabulary_beside(path.parent)}
    return ForeignModel(NAME, architecture, PREPROCESS, ours, path, files, licence)


def holds(towers: Towers) -> bool:
    """Return whether the form has a place for such towers."""
    return holds_fixed(towers)


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form, with the vocabulary beside the file."""
    (folder / VOCABULARY_FILE).write_bytes(towers.files[VOCABULARY_FILE])
    # Their trainer resumes from names with the prefix, their loader takes either.
    tensors = {
        f"{KEY_PREFIX}{name}": tensor
        for name, tensor in chinese_clip_from_ours(towers.tensors()).items()
    }
    torch.save({"epoch": 0, "step": 0, "name": NAME, "state_dict": tensors}, folder / WEIGHTS)


def _architecture(path: Path, tensors: NamedTensors) -> dict[str, Any]:
    """Return ``model_cfg`` of tensors by their shapes.

    Raises:
        LookupError, ValueError: one is missing, or has another number of axes.
    """
    tokens, text_width = tensors["bert.embeddings.word_embeddings.weight"].shape
    bert = {
        "vocab_size": tokens,
        "hidden_size": text_width,
        "num_hidden_layers": block_count(tensors, "bert.encoder.layer."),
        "num_attention_heads": max(text_width // HEAD_WIDTH, 1),
        "intermediate_size": len(tensors["bert.encoder.layer.0.intermediate.dense.weight"]),
        "max_position_embeddings": len(tensors["bert.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(tensors["bert.embeddings.token_type_embeddings.weight"]),
    }

    # The image tower is a ResNet or a vision transformer.
    if "visual.layer1.0.conv1.weight" in tensors:
        grid = round((len(tensors["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
        vision = {
            "image_size": 32 * grid,
            "layers": [block_count(tensors, f"visual.layer{number}.") for number in range(1, 5)],
            "width": len(tensors["visual.layer1.0.conv1.weight"]),
            "patch_size": None,
        }
    else:
        width, _, patch_size, _ = tensors["visual.conv1.weight"].shape
        grid = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
        vision = {
            "image_size": grid * patch_size,
            "layers": block_count(tensors, "visual.transformer.resblocks."),
            "width": width,
            "head_width": head_width(width),
            "patch_size": patch_size,
        }

    return {
        "embed_dim": tensors["text_projection"].shape[1],
        "quick_gelu": True,
        "vision_cfg": vision,
        "text_cfg": text_of(path, bert, DEFAULT_CONTEXT, longest_word=WORD_LIMIT),
    }
