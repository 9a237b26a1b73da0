"""How Chinese models are named elsewhere: Chinese-CLIP's, EasyNLP's and Hugging Face's keys.

Every mapping is a renaming, a transposition or a stack of queries, keys and values, so going back
is exact.
"""

from pathlib import Path
from typing import Any

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from transformers import BertConfig, ChineseCLIPVisionConfig

from model.errors import CheckpointError
from model.towers.bert import VOCABULARY_FILE, is_bert
from model.towers.towers import NamedTensors, Towers
from model.zoo.folders import MAX_JSON_BYTES, file_of, read_json, refuse_code
from model.zoo.forms.huggingface import ACTIVATIONS, VISION_FIELDS, defaults_of, towers_config

# What BERT's implementations keep beside the weights that the text feature depends on.
IDLE = ("position_ids", "token_type_ids", "pooler.dense.weight", "pooler.dense.bias")
CLIP_PIXELS = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
HEAD_WIDTH = 64
HUGE_WIDTH, HUGE_HEAD_WIDTH = 1280, 80  # ViT-H-14 alone has other heads
PLAIN_VISION = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
# EasyNLP's and Chinese-CLIP's name of each field of BertConfig.
TEXT_FIELDS = {
    "vocab_size": "vocab_size",
    "text_hidden_size": "hidden_size",
    "text_num_hidden_layers": "num_hidden_layers",
    "text_num_attention_heads": "num_attention_heads",
    "text_intermediate_size": "intermediate_size",
    "text_hidden_act": "hidden_act",
    "text_hidden_dropout_prob": "hidden_dropout_prob",
    "text_attention_probs_dropout_prob": "attention_probs_dropout_prob",
    "text_max_position_embeddings": "max_position_embeddings",
    "text_type_vocab_size": "type_vocab_size",
    "text_initializer_range": "initializer_range",
}
# What the files of all these forms may leave to transformers' defaults.
BERT_DEFAULTS = defaults_of(BertConfig, (*TEXT_FIELDS.values(), "layer_norm_eps"))


def ours_from_chinese_clip(tensors: NamedTensors) -> NamedTensors:
    """Return tensors of Chinese-CLIP's keys (``bert.``, ``visual.``) by our names."""
    ours = {
        f"text.transformer.{name[5:]}" if name.startswith("bert.") else name: tensor
        for name, tensor in tensors.items()
        if not (name.startswith("bert.") and name.endswith(IDLE))
    }
    if "text_projection" in ours:
        ours["text.proj.weight"] = ours.pop("text_projection").T
    return ours


def chinese_clip_from_ours(tensors: NamedTensors) -> NamedTensors:
    """Return our tensors by Chinese-CLIP's keys."""
    theirs = {name: tensor for name, tensor in tensors.items() if not name.startswith("text.")}
    bert = below(tensors, "text.transformer.")
    return (
        theirs
        | {"text_projection": tensors["text.proj.weight"].T.contiguous()}
        | {f"bert.{name}": tensor for name, tensor in bert.items()}
    )


def below(tensors: NamedTensors, prefix: str) -> NamedTensors:
    """Return the tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def text_of(folder: Path, bert: dict[str, Any], length: int, **more: object) -> dict[str, Any]:
    """Return ``text_cfg`` of BertConfig's fields; its positions limit the context length.

    Raises:
        CheckpointError: the positions are no number.
    """
    positions = bert["max_position_embeddings"]
    if type(positions) is not int:
        raise CheckpointError(
            f"{folder}: max_position_embeddings is {positions!r}, no number; fetch it again"
        )
    positions -= bert.get("model_type") == "roberta"
    return {"context_length": min(length, positions), **more, "bert": bert}


def block_count(tensors: NamedTensors, prefix: str) -> int:
    """Return how many numbered blocks there are below a prefix."""
    return len(
        {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    )


def head_width(width: int) -> int:
    """Return the width of a head of an image tower of a width, which the files do not say."""
    return HUGE_HEAD_WIDTH if width == HUGE_WIDTH else HEAD_WIDTH


def vocabulary_beside(folder: Path) -> bytes:
    """Return a folder's ``vocab.txt``, or the vocabulary inside its ``tokenizer.json``.

    Raises:
        CheckpointError: there is neither, a file is too large, or the tokeniser keeps capital
            letters.
    """
    refuse_code(folder, "tokenizer_config.json")
    if read_json(folder, "tokenizer_config.json").get("do_lower_case") is False:
        raise CheckpointError(
            f"{folder}: its tokeniser keeps capital letters, which Chinese models here do not"
        )

    path = file_of(folder, VOCABULARY_FILE)
    if path is not None and path.stat().st_size <= MAX_JSON_BYTES:
        return path.read_bytes()

    try:
        ids: dict[str, int] = read_json(folder, "tokenizer.json")["model"]["vocab"]
        return "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__)).encode()
    except (AttributeError, LookupError, TypeError):
        raise CheckpointError(
            f"{folder}: no {VOCABULARY_FILE} of at most {MAX_JSON_BYTES:,} bytes and no "
            "tokenizer.json with a vocabulary; put the model's vocabulary there"
        ) from None


def holds_plain(towers: Towers) -> bool:
    """Return whether towers are BERT beside an image tower as Chinese-CLIP has them.

    Activation and heads aside.
    """
    model = towers.config["model_cfg"]
    vision = model["vision_cfg"]
    return is_bert(model) and not model.get("projection_bias") and vision.keys() <= PLAIN_VISION


def holds_fixed(towers: Towers) -> bool:
    """Return whether towers are plain and have what EasyNLP's and Chinese-CLIP's code fixes.

    That is QuickGELU, heads of 64, and CLIP's mean and standard deviation of the pixels.
    """
    model, preprocess = towers.config["model_cfg"], towers.config["preprocess_cfg"]
    vision = model["vision_cfg"]
    return (
        holds_plain(towers)
        and vision.get("mlp_ratio", 4) == 4
        and vision.get("head_width", HEAD_WIDTH) == head_width(int(vision["width"]))
        and (tuple(preprocess["mean"]), tuple(preprocess["std"])) == CLIP_PIXELS
        and (is_resnet(towers) or bool(model.get("quick_gelu")))
    )


def is_resnet(towers: Towers) -> bool:
    """Return whether the image tower is a ResNet."""
    return not isinstance(towers.config["model_cfg"]["vision_cfg"].get("layers"), int)


def architecture_from_config(
    folder: Path, embed_dim: int, text_cfg: dict[str, Any], **more: object
) -> dict[str, Any]:
    """Return ``model_cfg`` of a folder's ``vision_config`` beside a text tower.

    Raises:
        CheckpointError: it names another activation, or no positive numbers.
    """
    vision = towers_config(folder, "vision", defaults_of(ChineseCLIPVisionConfig, VISION_FIELDS))
    if vision["hidden_act"] not in ACTIVATIONS:
        known = " and ".join(ACTIVATIONS)
        raise CheckpointError(
            f"{folder}: vision_config.hidden_act is {vision['hidden_act']!r}, known are {known}"
        )

    vision_cfg = {
        "image_size": vision["image_size"],
        "layers": vision["num_hidden_layers"],
        "width": vision["hidden_size"],
        "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        "patch_size": vision["patch_size"],
        "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
    }
    return {
        "embed_dim": embed_dim,
        "quick_gelu": ACTIVATIONS[vision["hidden_act"]],
        **more,
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }


def vision_config_from_ours(towers: Towers) -> dict[str, Any]:
    """Return Hugging Face's ``vision_config`` of towers with a vision transformer."""
    model = towers.config["model_cfg"]
    vision = model["vision_cfg"]
    return {
        "hidden_size": vision["width"],
        "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4)),
        "num_hidden_layers": vision["layers"],
        "num_attention_heads": vision["width"] // vision.get("head_width", HEAD_WIDTH),
        "image_size": towers.image_size,
        "patch_size": vision.get("patch_size", 16),
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
    }
