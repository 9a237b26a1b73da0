"""SigLIP and SigLIP 2 of fixed resolution as Hugging Face has them: transformers' SiglipModel.

The image tower becomes timm's of the same shape. transformers uses the tanh form of GELU in both
towers, open_clip's own configs the exact one in some: the architecture says which, and ours
computes what the folder's library does. Captions go verbatim to the folder's tokeniser (Gemma's for
SigLIP 2), as transformers hands them on.

Source: transformers' models/siglip; timm's vision_transformer.py.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from transformers import SiglipTextConfig, SiglipVisionConfig

from model.errors import CheckpointError, ConfigError
from model.towers.folder import TANH
from model.towers.towers import Towers
from model.zoo.folders import read_json, tokenizer_files
from model.zoo.forms.huggingface import (
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
from model.zoo.forms.keys import TIMM_BLOCK, Rule, block_rules, reshaped, same, to_ours, to_theirs
from model.zoo.published import ForeignModel, Given

__all__ = ["ABOUT", "NAME", "holds", "read", "recognises", "write"]

ABOUT = "Hugging Face folder of a SiglipModel"
ACTIVATIONS = {"gelu_pytorch_tanh": True, "gelu": False}
SIGLIP_PREPROCESS = {
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
# timm's names of towers by their width and number of blocks.
TIMM_SIZES = {(768, 12): "base", (1024, 24): "large", (1152, 27): "so400m", (1536, 40): "giantopt"}
TEXT_NORM = {"eps": 1e-6}


def recognises(path: Path) -> bool:
    """Return whether this is a folder of this form."""
    return path.is_dir() and str(read_json(path, CONFIG).get("model_type")).startswith("siglip")


def read(path: Path, given: Given) -> ForeignModel:
    """Read a folder of this form.

    Raises:
        ConfigError: the user gave an activation, which the folder states itself.
        CheckpointError: a file is missing or damaged, or timm has no such image tower.
    """
    if given.activation is not None:
        raise ConfigError(
            f"--activation {given.activation}: {path / CONFIG} says it; leave the option out"
        )
    if read_json(path, CONFIG)["model_type"] != "siglip":
        raise CheckpointError(
            f"{path}: a SigLIP of variable resolution, which open_clip has no towers for"
        )

    architecture, files = _architecture(path), tokenizer_files(path)
    weights, tensors = read_weights(path)
    ours = to_ours(tensors, _rules(architecture))
    images, licence = SIGLIP_PREPROCESS | read_preprocess(path), read_licence(path)
    return ForeignModel(NAME, architecture, images, ours, weights, files, licence, is_verbatim=True)


def holds(towers: Towers) -> bool:
    """Return whether the form has a place for such towers."""
    architecture = towers.config["model_cfg"]
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    return (
        str(vision.get("timm_model_name")) in _timm_towers()
        and vision.get("timm_pool") == "map"
        and vision.get("timm_proj") == "none"
        and text.get("pool_type") == "last"
        and bool(text.get("no_causal_mask") and text.get("proj_bias"))
        and "tokenizer.json" in towers.files
    )


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    architecture, preprocess = towers.config["model_cfg"], towers.config["preprocess_cfg"]
    tensors = to_theirs(towers.clip.state_dict(), _rules(architecture))
    images = preprocess_json(preprocess, towers.image_size, "SiglipImageProcessor")
    write_folder(folder, tensors, _config(towers), images)

    for name, content in towers.files.items():
        if name.endswith(".json") and "token" in name:
            (folder / name).write_bytes(content)


def _timm_towers() -> list[str]:
    """Return the names of timm's SigLIP towers that pool by attention."""
    prefixes = tuple(f"vit_{size}_" for size in TIMM_SIZES.values())
    return [
        name
        for name in timm.list_models("vit_*_siglip_*")
        if name.startswith(prefixes) and "gap" not in name
    ]


def _timm_name(folder: Path, vision: dict[str, Any]) -> str:
    size = TIMM_SIZES.get((vision["hidden_size"], vision["num_hidden_layers"]))
    name = f"vit_{size}_patch{vision['patch_size']}_siglip_{vision['image_size']}"
    if name not in _timm_towers():
        shape = ", ".join(
            f"{key} {vision[key]}" for key in ("hidden_size", "num_hidden_layers", "patch_size")
        )
        raise CheckpointError(
            f"{folder / CONFIG}: timm has no SigLIP tower with {shape} for {vision['image_size']} "
            "pixels"
        )
    return name


def _architecture(folder: Path) -> dict[str, Any]:
    """Return open_clip's ``model_cfg`` of a folder's config."""
    vision = towers_config(folder, "vision", defaults_of(SiglipVisionConfig, VISION_FIELDS))
    text = towers_config(folder, "text", defaults_of(SiglipTextConfig, TEXT_FIELDS))
    for tower in (vision, text):
        act, eps = tower["hidden_act"], tower["layer_norm_eps"]
        if act not in ACTIVATIONS or eps != TEXT_NORM["eps"]:
            raise CheckpointError(
                f"{folder / CONFIG}: no such towers with hidden_act {act}, layer_norm_eps {eps}"
            )

    return {
        "embed_dim": vision["hidden_size"],
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "timm_model_name": _timm_name(folder, vision),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
            **({"act_kwargs": TANH} if ACTIVATIONS[vision["hidden_act"]] else {}),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "hf_tokenizer_name": ".",
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": TEXT_NORM,
            **({"act_kwargs": TANH} if ACTIVATIONS[text["hidden_act"]] else {}),
        },
    }


def _config(towers: Towers) -> dict[str, Any]:
    """Return the content of config.json; the image tower's sizes are read off timm's tower."""
    architecture, trunk = towers.config["model_cfg"], towers.clip.visual.trunk
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]

    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": trunk.embed_dim,
            "intermediate_size": trunk.blocks[0].mlp.fc1.out_features,
            "num_hidden_layers": len(trunk.blocks),
            "num_attention_heads": trunk.blocks[0].attn.num_heads,
            "image_size": towers.image_size,
            "patch_size": trunk.patch_embed.patch_size[0],
            "hidden_act": "gelu_pytorch_tanh" if vision.get("act_kwargs") == TANH else "gelu",
            "layer_norm_eps": TEXT_NORM["eps"],
        },
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": text["vocab_size"],
            "hidden_size": text["width"],
            "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4)),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "projection_size": architecture["embed_dim"],
            "hidden_act": "gelu_pytorch_tanh" if text.get("act_kwargs") == TANH else "gelu",
            "layer_norm_eps": TEXT_NORM["eps"],
        },
    }


def _rules(architecture: dict[str, Any]) -> list[Rule]:
    # timm's tower has the positions with an axis for the batch.
    trunk: Any = timm.create_model(
        architecture["vision_cfg"]["timm_model_name"],
        num_classes=0,
        global_pool="map",
        device="meta",
    )
    _, positions, width = trunk.pos_embed.shape
    embeddings, image = "text_model.embeddings", "vision_model.embeddings"
    head, pool = "vision_model.head", "visual.trunk.attn_pool"
    return [
        reshaped("logit_scale", "logit_scale", (1,), ()),
        reshaped("logit_bias", "logit_bias", (1,), ()),
        Rule((f"{embeddings}.token_embedding.weight",), ("text.token_embedding.weight",)),
        Rule((f"{embeddings}.position_embedding.weight",), ("text.positional_embedding",)),
        *block_rules("text_model", "text.transformer", architecture["text_cfg"]["layers"]),
        *same("text_model.final_layer_norm", "text.ln_final"),
        *same("text_model.head", "text.text_projection"),
        *same(f"{image}.patch_embedding", "visual.trunk.patch_embed.proj"),
        reshaped(
            f"{image}.position_embedding.weight",
            "visual.trunk.pos_embed",
            (positions, width),
            (1, positions, width),
        ),
        *block_rules("vision_model", "visual.trunk", len(trunk.blocks), TIMM_BLOCK),
        *same("vision_model.post_layernorm", "visual.trunk.norm"),
        # The pooling by attention: its query stands apart from keys and values with us.
        Rule((f"{head}.probe",), (f"{pool}.latent",)),
        *(
            Rule(
                (f"{head}.attention.in_proj_{part}",),
                (f"{pool}.q.{part}", f"{pool}.kv.{part}"),
                lambda one: [one[0][:width], one[0][width:]],
                lambda two: [torch.cat(list(two))],
            )
            for part in ("weight", "bias")
        ),
        *same(f"{head}.attention.out_proj", f"{pool}.proj"),
        *same(f"{head}.layernorm", f"{pool}.norm"),
        *same(f"{head}.mlp.fc1", f"{pool}.mlp.fc1"),
        *same(f"{head}.mlp.fc2", f"{pool}.mlp.fc2"),
    ]
