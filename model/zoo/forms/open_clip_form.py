"""open_clip's own forms: a folder with ``open_clip_config.json``, or a bare weights file.

Two things that open_clip's config cannot say ride along in ours and are passed over by its loader:
``tokenizer_cfg`` (captions go verbatim to the tokeniser) and ``act_kwargs`` of a timm tower.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, convert_to_custom_text_state_dict

from model.errors import CheckpointError, ConfigError, nearest
from model.storage.sealed import WEIGHTS_FILE
from model.towers.create import ARCHITECTURE_KEYS, PREPROCESS_KEYS, usual_preprocess
from model.towers.folder import CONFIG_FILE
from model.towers.imported import ORIGIN_FILE
from model.towers.towers import Towers
from model.zoo.family import FAMILY, find_published
from model.zoo.folders import (
    MAX_JSON_BYTES,
    file_of,
    find_file,
    read_json,
    refuse_code,
    tokenizer_files,
    write_json,
)
from model.zoo.forms.huggingface import read_licence
from model.zoo.published import PLAIN, QUICK, ForeignModel, Given
from model.zoo.tensors import WEIGHTS_SUFFIXES, read_tensors, write_tensors

NAME = "open_clip"
ABOUT = "open_clip_config.json with its weights, or one weights file and --towers"
WEIGHTS = (WEIGHTS_FILE, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
HARMLESS_TOKENIZER_KEYS = {"clean", "strip_sep_token", "language"}
PLAIN_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyz0123456789_.")
IDLE = "text.transformer.embeddings.position_ids"  # that transformers made a constant


def recognises(path: Path) -> bool:
    """Return whether this is a folder of this form or a weights file."""
    is_weights_file = path.is_file() and path.suffix in WEIGHTS_SUFFIXES
    return is_weights_file or file_of(path, CONFIG_FILE) is not None


def read(path: Path, given: Given) -> ForeignModel:
    """Read a folder, or a weights file with the config beside it or that the user named.

    Raises:
        ConfigError: the user must state which towers a file is for, or which activation they have.
        CheckpointError: the files are damaged, incomplete, or ask for code to be run.
    """
    folder = path if path.is_dir() else path.parent
    config = dict[str, Any]()
    if given.towers is None and file_of(folder, CONFIG_FILE) is not None:
        weights = find_file(path, WEIGHTS) if path.is_dir() else path
        config = read_json(folder, CONFIG_FILE)
        where = str(folder / CONFIG_FILE)
        architecture = given.check_activation(_checked(where, config), where)
        preprocess = config.get("preprocess_cfg", {})
    elif path.is_dir():
        raise ConfigError(
            f"{path}: {CONFIG_FILE} says which towers these are; leave --towers out, or name a file"
        )
    else:
        weights, (architecture, preprocess) = path, _named_architecture(path, given)

    text = architecture["text_cfg"]
    files = tokenizer_files(folder) if text.get("hf_tokenizer_name") else {}
    if text.get("hf_model_name"):
        files["config.json"] = _text_config(folder)
    is_verbatim = bool(config.get("tokenizer_cfg", {}).get("is_verbatim"))

    tensors = {
        name: tensor for name, tensor in read_tensors(weights).items() if not name.endswith(IDLE)
    }
    # Older files name the parts of such a text tower without ``text.``.
    if architecture.get("custom_text") or text.get("hf_model_name"):
        tensors = dict(convert_to_custom_text_state_dict(tensors))
    images = {key: preprocess[key] for key in PREPROCESS_KEYS if key in preprocess}
    return ForeignModel(
        NAME, architecture, images, tensors, weights, files, read_licence(folder), is_verbatim
    )


def holds(towers: Towers) -> bool:
    """Return whether the form has a place for such towers."""
    text_fields = {known.name for known in fields(CLIPTextCfg)}
    return bool(towers.config["model_cfg"]["text_cfg"].keys() <= text_fields)


def write(towers: Towers, folder: Path) -> None:
    """Write the towers into a folder in this form."""
    write_tensors(towers.clip.state_dict(), folder / WEIGHTS_FILE)
    write_json(folder / CONFIG_FILE, towers.config)
    for name, content in towers.files.items():
        if name != ORIGIN_FILE:
            (folder / name).write_bytes(content)


def _named_architecture(path: Path, given: Given) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return architecture and preprocessing of the towers that the user named."""
    if given.towers is None:
        raise ConfigError(
            f"{path}: a weights file does not say of which towers it is; pass --towers, as ViT-B-32"
        )
    if given.towers.endswith(".json"):
        config = Path(given.towers)
        if not config.is_file():
            raise ConfigError(f"--towers {config}: no such file")
        architecture = read_json(config.parent, config.name)
        missing = ", ".join(key for key in ARCHITECTURE_KEYS if key not in architecture)
        if missing:
            raise ConfigError(f"--towers {config}: not an open_clip config, {missing} missing")
        if not ("quick_gelu" in architecture or "timm_model_name" in architecture["vision_cfg"]):
            architecture = given.choose_activation(architecture, None, given.towers)
        return given.check_activation(architecture, given.towers), {}

    # A row of our table, or open_clip's name, with or without a tag.
    row = find_published(given.towers)
    name, _, tag = given.towers.partition("/")
    if row is not None and row.architecture is not None:
        name, tag = row.architecture, row.tag or ""
    known = open_clip.list_models()
    if name not in known:
        names = [*known, *(row.name for row in FAMILY)]
        raise ConfigError(
            f"--towers {given.towers}: open_clip knows no such model{nearest(name, names)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and tag not in tags:
        raise ConfigError(
            f"--towers {given.towers}: {name} has no weights '{tag}'{nearest(tag, tags)}"
        )

    # The tag gives the activation, or our table; where open_clip has both, one must.
    architecture = open_clip.get_model_config(name)
    listed: str | None = row.activation if row is not None else None
    if tag:
        listed = QUICK if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu") else PLAIN
    if f"{name}-quickgelu" in known:
        architecture = given.choose_activation(architecture, listed, str(path))
    return given.check_activation(architecture, name), usual_preprocess(name, tag)


def _checked(where: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the architecture of a config that fetches nothing, runs nothing and names no file."""
    architecture = config.get("model_cfg")
    if not isinstance(architecture, dict) or any(
        key not in architecture for key in ARCHITECTURE_KEYS
    ):
        raise CheckpointError(
            f"{where}: no model_cfg with {', '.join(ARCHITECTURE_KEYS)}; fetch it again"
        )

    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise CheckpointError(f"{where}: vision_cfg and text_cfg must be mappings; fetch it again")

    trunk = vision.get("timm_model_name") or ""
    if not isinstance(trunk, str) or not set(trunk) <= PLAIN_NAME_CHARACTERS:
        raise CheckpointError(
            f"{where}: timm_model_name is {trunk!r}, which is no model of timm's; not imported"
        )
    options = text.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict) or not options.keys() <= HARMLESS_TOKENIZER_KEYS:
        raise CheckpointError(
            f"{where}: tokenizer_kwargs may hold {', '.join(sorted(HARMLESS_TOKENIZER_KEYS))} alone"
        )
    return architecture


def _text_config(folder: Path) -> bytes:
    """Return the config of a text tower of Hugging Face's, which is not fetched from anywhere."""
    refuse_code(folder, "config.json")
    path = file_of(folder, "config.json")
    if path is None or path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(
            f"{folder}: the text tower's config.json must lie beside the weights; put it there"
        )
    return path.read_bytes()
