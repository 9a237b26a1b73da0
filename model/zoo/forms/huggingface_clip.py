"""CLIP as Hugging Face has it (FashionCLIP's form): transformers' CLIPModel, English byte pairs.

Captions are tokenised by open_clip, whose ids are those of the folder's vocabulary; it also repairs
mojibake.

Source: transformers' models/clip.
"""

from pathlib import Path
from typing import Any

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from model.errors import CheckpointError
from model.towers.towers import Towers
from model.zoo.folders import read_json
from model.zoo.forms.bpe import check_bpe, hugging_face_bpe, is_plain
from model.zoo.forms.huggingface import (
    ACTIVATIONS,
    CONFIG,
    NAME,
    TEXT_FIELDS,
    VISION_FIELDS,
    defaults_of,
    preprocess_json,
    read_licence,
    read_preprocess,
    read_weights,
    towers_config,
    write_folder,
)
from model.zoo.forms.keys import (
    Rule,
    block_rules,
    reshaped,
    same,
    to_ours,
    to_theirs,
    transposed,
    vision_rules,
)
from model.zoo.published import ForeignModel, Given

__all__ = ["ABOUT", "NAME", "holds", "read", "recognises", "write"]

ABOUT = "Hugging Face folder of a CLIPModel"
NORM_EPS = 1e-5  # open_clip's towers have no other


def recognises(path: Path) -> bool:
    """Return whether this is a folder of this form."""
    return path.is_dir() and read_json(path, CONFIG).get("model_type") == "clip"


def read(path: Path, given: Given) -> ForeignModel:
    """Read a folder of this form.

    Raises:
        ConfigError: the user gave another activation than the folder states.
        CheckpointError: a file is missing or damaged, or open_clip has no such towers.
    """
    architecture = given.check_activation(_architecture(path), str(path / CONFIG))
    check_bpe(path)
    weights, tensors = read_weights(path)
    ours = to_ours(tensors, _rules(architecture))
    images, licence = read_preprocess(path), read_licence(path)
    return ForeignModel(NAME, architecture, images, ours, weights, licence=licence)


def holds(towers: Towers) -> bool:
    """Return whether the form has a place for such towers."""
    return is_plain(towers)


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    architecture, preprocess = towers.config["model_cfg"], towers.config["preprocess_cfg"]
    tensors = to_theirs(towers.clip.state_dict(), _rules(architecture))
    images = preprocess_json(preprocess, towers.image_size, "CLIPImageProcessor")
    write_folder(folder, tensors, _config(architecture), images)

    length = architecture["text_cfg"].get("context_length", 77)
    for name, content in hugging_face_bpe(length).items():
        (folder / name).write_bytes(content)


def _architecture(folder: Path) -> dict[str, Any]:
    """Return open_clip's ``model_cfg`` of a folder's config."""
    vision = towers_config(folder, "vision", defaults_of(CLIPVisionConfig, VISION_FIELDS))
    text = towers_config(folder, "text", defaults_of(CLIPTextConfig, TEXT_FIELDS))
    acts = {vision["hidden_act"], text["hidden_act"]}
    if len(acts) != 1 or not acts <= ACTIVATIONS.keys():
        raise CheckpointError(
            f"{folder / CONFIG}: hidden_act {' and '.join(sorted(map(str, acts)))}: no such towers"
        )
    if {vision["layer_norm_eps"], text["layer_norm_eps"]} != {NORM_EPS}:
        raise CheckpointError(
            f"{folder / CONFIG}: layer_norm_eps must be 1e-5 in both towers; open_clip has no other"
        )

    # What is as usual stays out, so that a config is the one that open_clip has of the same towers.
    head_width = vision["hidden_size"] // vision["num_attention_heads"]
    vision_ratio = vision["intermediate_size"] / vision["hidden_size"]
    text_ratio = text["intermediate_size"] / text["hidden_size"]
    return {
        "embed_dim": read_json(folder, CONFIG).get("projection_dim", CLIPConfig.projection_dim),
        "quick_gelu": ACTIVATIONS[acts.pop()],
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "patch_size": vision["patch_size"],
            **({} if head_width == 64 else {"head_width": head_width}),
            **({} if vision_ratio == 4 else {"mlp_ratio": vision_ratio}),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            **({} if text_ratio == 4 else {"mlp_ratio": text_ratio}),
        },
    }


def _config(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return the content of config.json, with open_clip's defaults for what is left out."""
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    width, text_width = vision.get("width", 768), text.get("width", 512)
    shared = {
        "hidden_act": "quick_gelu" if architecture.get("quick_gelu") else "gelu",
        "layer_norm_eps": NORM_EPS,
        "projection_dim": architecture["embed_dim"],
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": architecture["embed_dim"],
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": width,
            "intermediate_size": int(width * vision.get("mlp_ratio", 4)),
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": width // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            **shared,
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.get("vocab_size", 49408),
            "hidden_size": text_width,
            "intermediate_size": int(text_width * text.get("mlp_ratio", 4)),
            "num_hidden_layers": text.get("layers", 12),
            "num_attention_heads": text.get("heads", 8),
            "max_position_embeddings": text.get("context_length", 77),
            **shared,
            # 2 makes transformers pool at the largest id, as CLIP does.
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        },
    }


def _rules(architecture: dict[str, Any]) -> list[Rule]:
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    return [
        reshaped("logit_scale", "logit_scale", (), ()),
        Rule(("text_model.embeddings.token_embedding.weight",), ("token_embedding.weight",)),
        Rule(("text_model.embeddings.position_embedding.weight",), ("positional_embedding",)),
        *block_rules("text_model", "transformer", text.get("layers", 12)),
        *same("text_model.final_layer_norm", "ln_final"),
        transposed("text_projection.weight", "text_projection"),
        *vision_rules("vision_model", "visual", vision.get("layers", 12)),
        transposed("visual_projection.weight", "visual.proj"),
    ]
