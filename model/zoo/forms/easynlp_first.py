"""EasyNLP's first form: a folder with ``config.json`` that has no ``model_type``.

Keys begin with ``text_encoder.`` and ``vision_encoder.``. The text tower is BERT by its keys and
RoBERTa by its code, which counts positions from 1; the image tower is Hugging Face's CLIP. The
pooled outputs of both pass through linear layers with bias, ``text_projection`` and
``vision_projection``. What the config leaves out has the defaults of their code.

Source: EasyNLP's appzoo/clip/model.py, modelzoo/models/clip/configuration_clip.py, modeling_clip.py
and modelzoo/models/roberta/modeling_roberta.py.
"""

import math
from pathlib import Path

import torch

from model.errors import CheckpointError
from model.towers.bert import VOCABULARY_FILE
from model.towers.towers import NamedTensors, Towers
from model.zoo.folders import file_of, find_file, read_json, write_json
from model.zoo.forms.bert_keys import (
    BERT_DEFAULTS,
    IDLE,
    architecture_from_config,
    below,
    block_count,
    text_of,
    vision_config_from_ours,
    vocabulary_beside,
)
from model.zoo.forms.huggingface import read_licence, towers_config
from model.zoo.forms.keys import to_ours, to_theirs, vision_rules
from model.zoo.published import ForeignModel, Given
from model.zoo.tensors import peek_names, read_tensors

NAME = "easynlp-first"
ABOUT = "EasyNLP's first folder, keys text_encoder. and vision_encoder."
WEIGHTS = "pytorch_model.bin"
CONTEXT_LENGTH = 32  # the default of their script; no file says it
# Where their defaults differ from transformers'.
DEFAULTS = BERT_DEFAULTS | {
    "vocab_size": 21128,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
TEXT_ENCODER, ENCODER = "text_encoder.", "vision_encoder.vision_model"
LINEARS = {"text_projection.": "text.proj.", "vision_projection.": "visual.head."}  # ours behind


def recognises(path: Path) -> bool:
    """Return whether this is a folder of this form."""
    config = read_json(path, "config.json") if path.is_dir() else {}
    if not {"text_config", "vision_config"} <= config.keys():
        return False

    # What their trainer saved says ``clip``, as Hugging Face's folders do.
    weights = file_of(path, WEIGHTS)
    return "model_type" not in config or (
        config["model_type"] == "clip"
        and weights is not None
        and any(name.startswith(TEXT_ENCODER) for name in peek_names(weights))
    )


def read(path: Path, given: Given) -> ForeignModel:
    """Read a folder of this form.

    Raises:
        ConfigError: the user gave another activation than the config states.
        CheckpointError: a file is missing, damaged, or of another form.
    """
    weights = find_file(path, [WEIGHTS])
    tensors, files = read_tensors(weights), {VOCABULARY_FILE: vocabulary_beside(path)}
    if "text_projection.weight" not in tensors:
        raise CheckpointError(f"{weights}: no text_projection.weight, so it is not {ABOUT}")

    bert = {"model_type": "roberta", "pad_token_id": 0, **towers_config(path, "text", DEFAULTS)}
    architecture = architecture_from_config(
        path,
        len(tensors["text_projection.weight"]),
        text_of(path, bert, CONTEXT_LENGTH),
        projection_bias=True,
    )
    given.check_activation(architecture, str(path))

    # The pooler, idle elsewhere, makes this form's text feature.
    idle = tuple(name for name in IDLE if not name.startswith("pooler."))
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(idle)}
    scale = kept.pop("logit_scale", torch.tensor(math.log(1 / 0.07)))

    vision = {name: tensor for name, tensor in kept.items() if name.startswith(f"{ENCODER}.")}
    layers = block_count(vision, f"{ENCODER}.encoder.layers.")
    known = (TEXT_ENCODER, f"{ENCODER}.", *LINEARS)
    ours = (
        {"logit_scale": scale.reshape(())}
        | _renamed(kept, {TEXT_ENCODER: "text.transformer."} | LINEARS)
        | to_ours(vision, vision_rules(ENCODER, "visual.trunk", layers))
        | {name: tensor for name, tensor in kept.items() if not name.startswith(known)}
    )
    return ForeignModel(NAME, architecture, {}, ours, weights, files, read_licence(path))


def holds(towers: Towers) -> bool:
    """Return whether the form has a place for such towers."""
    return bool(towers.config["model_cfg"].get("projection_bias"))


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    config = {
        "text_config": {name: getattr(towers.clip.text.config, name) for name in DEFAULTS},
        "vision_config": vision_config_from_ours(towers),
    }
    write_json(folder / "config.json", config)
    (folder / VOCABULARY_FILE).write_bytes(towers.files[VOCABULARY_FILE])

    ours = towers.tensors()
    layers = block_count(ours, "visual.trunk.transformer.resblocks.")
    theirs = (
        {"logit_scale": ours["logit_scale"].reshape(1)}
        | _renamed(ours, {"text.transformer.": TEXT_ENCODER})
        | to_theirs(ours, vision_rules(ENCODER, "visual.trunk", layers))
        | _renamed(ours, {renamed: name for name, renamed in LINEARS.items()})
    )
    torch.save(theirs, folder / WEIGHTS)


def _renamed(tensors: NamedTensors, prefixes: dict[str, str]) -> NamedTensors:
    return {
        f"{after}{name}": tensor
        for before, after in prefixes.items()
        for name, tensor in below(tensors, before).items()
    }
