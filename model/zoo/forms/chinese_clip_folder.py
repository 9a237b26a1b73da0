"""Chinese-CLIP as Hugging Face has it: transformers' ChineseCLIPModel in a folder.

Source: transformers' models/chinese_clip.
"""

from pathlib import Path

from model.errors import CheckpointError
from model.towers.bert import DEFAULT_CONTEXT, VOCABULARY_FILE, context_length
from model.towers.towers import NamedTensors, Towers
from model.zoo.folders import find_file, read_json, write_json
from model.zoo.forms.bert_keys import (
    BERT_DEFAULTS,
    IDLE,
    architecture_from_config,
    below,
    block_count,
    holds_plain,
    is_resnet,
    text_of,
    vision_config_from_ours,
    vocabulary_beside,
)
from model.zoo.forms.huggingface import (
    CONFIG,
    NAME,
    WEIGHTS,
    preprocess_json,
    read_licence,
    read_preprocess,
    towers_config,
    write_folder,
)
from model.zoo.forms.keys import Rule, to_ours, to_theirs, transposed, vision_rules
from model.zoo.published import ForeignModel, Given
from model.zoo.tensors import read_tensors

__all__ = ["ABOUT", "NAME", "holds", "read", "recognises", "write"]

ABOUT = "Hugging Face folder of a ChineseCLIPModel"


def recognises(path: Path) -> bool:
    """Return whether this is a folder of this form."""
    config = read_json(path, CONFIG) if path.is_dir() else {}
    return config.get("model_type") == "chinese_clip" and "text_config" in config


def read(path: Path, given: Given) -> ForeignModel:
    """Read a folder of this form.

    Raises:
        ConfigError: the user gave another activation than the config states.
        CheckpointError: a file is missing, damaged, or of another form.
    """
    weights = find_file(path, WEIGHTS)
    tensors, files = read_tensors(weights), {VOCABULARY_FILE: vocabulary_beside(path)}
    if "text_projection.weight" not in tensors:
        raise CheckpointError(f"{weights}: no text_projection.weight, so it is not {ABOUT}")

    text_cfg = text_of(path, towers_config(path, "text", BERT_DEFAULTS), DEFAULT_CONTEXT)
    architecture = architecture_from_config(path, len(tensors["text_projection.weight"]), text_cfg)
    given.check_activation(architecture, str(path))

    # BERT's keys keep what is behind the tower's name.
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(IDLE)}
    others = {name: tensor for name, tensor in kept.items() if not name.startswith("text_model.")}
    ours = to_ours(others, _rules(kept, "vision_model.encoder.layers."))
    ours |= {
        f"text.transformer.{name}": tensor for name, tensor in below(kept, "text_model.").items()
    }

    images, licence = read_preprocess(path), read_licence(path)
    return ForeignModel(NAME, architecture, images, ours, weights, files, licence)


def holds(towers: Towers) -> bool:
    """Return whether the form has a place for such towers."""
    return holds_plain(towers) and not is_resnet(towers)


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    ours = towers.tensors()
    theirs = to_theirs(ours, _rules(ours, "visual.transformer.resblocks."))
    theirs |= {
        f"text_model.{name}": tensor for name, tensor in below(ours, "text.transformer.").items()
    }

    config = {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": towers.embed_dim,
        "text_config": {name: getattr(towers.clip.text.config, name) for name in BERT_DEFAULTS},
        "vision_config": vision_config_from_ours(towers) | {"projection_dim": towers.embed_dim},
    }
    images = preprocess_json(
        towers.config["preprocess_cfg"], towers.image_size, "ChineseCLIPImageProcessor"
    )
    write_folder(folder, theirs, config, images)

    tokenizer = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": context_length(towers.config["model_cfg"]),
    }
    write_json(folder / "tokenizer_config.json", tokenizer)
    (folder / VOCABULARY_FILE).write_bytes(towers.files[VOCABULARY_FILE])


def _rules(tensors: NamedTensors, blocks: str) -> list[Rule]:
    """Return the rules of all but BERT; the image tower's blocks are numbered below a prefix."""
    return [
        Rule(("logit_scale",), ("logit_scale",)),
        Rule(("text_projection.weight",), ("text.proj.weight",)),
        *vision_rules("vision_model", "visual", block_count(tensors, blocks)),
        transposed("visual_projection.weight", "visual.proj"),
    ]
