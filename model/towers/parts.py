"""One tower of whatever make, ready to stand beside another: open_clip's words for it, and weights.

An image tower is timm's, a text tower a Hugging Face encoder's, or either is taken out of a model
whose towers came together: open_clip's, or an imported one. All become towers as open_clip builds
them (`TimmModel`, `HFTextEncoder` or its own), so they are saved, exported and converted as all
others are. Weights are read as tensors or not at all; of a folder only named files are read.
MiniLM's 90 MB take 0.2 s.
"""

import json
import re
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import timm
import torch
from open_clip.hf_configs import arch_dict
from open_clip.model import convert_to_custom_text_state_dict
from safetensors.torch import load_file

from model.config.model import ImageTowerConfig, TextTowerConfig
from model.config.sections import ModelConfig
from model.errors import CheckpointError, ConfigError, ServiceError, nearest
from model.storage.sealed import MANIFEST
from model.towers.create import UNREADABLE_WEIGHTS, create_towers
from model.towers.folder import load_towers
from model.towers.imported import ORIGIN_FILE, find_imported
from model.towers.layers import tower_of
from model.towers.towers import NamedTensors, Towers

WEIGHTS_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
TEXT_CONFIG, TEXT_TOKENIZER = "config.json", "tokenizer.json"
ENCODER_FILES = (TEXT_TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
MOST_TOKENS = 77
POOLERS = {"cls": "cls_last_hidden_state_pooler", "mean": "mean_pooler", "pooler": "cls_pooler"}
ENCODERS = ("bert", "roberta", "xlm-roberta")
# What a published encoder holds beside what embeds: heads of its pretraining, position numbers.
BESIDE_TEXT = re.compile(r"^(cls|lm_head|classifier|qa_outputs)\.|position_ids$")
# What says in a config that code, or another dtype than ours, is wanted.
REFUSED_FIELDS, IDLE_FIELDS = ("auto_map",), ("_name_or_path", "dtype", "torch_dtype")
# EfficientNets that were published for PyTorch before timm had them: the same modules, in the same
# order, under other names.
OTHER_EFFICIENTNET = "_conv_stem.weight"


@dataclass(frozen=True)
class Part:
    """One tower: open_clip's ``vision_cfg`` or ``text_cfg``, and weights by their names in a model.

    ``tensors`` is None where the weights are to be drawn. ``embed_dim`` and ``quick_gelu`` are
    those of open_clip's own towers, None for others; ``files`` go beside the weights.
    """

    cfg: dict[str, Any]
    tensors: NamedTensors | None
    preprocess: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    embed_dim: int | None = None
    quick_gelu: bool | None = None


def read_image_tower(tower: ImageTowerConfig, shelf: Path, seed: int) -> Part:
    """Read the image tower of a config; imported models are on the shelf.

    Raises:
        ConfigError: tower or weights are unknown, or do not fit each other.
        CheckpointError: the weights are damaged.
        ServiceError: the weights of a tag cannot be downloaded.
    """
    whole = _whole_model(tower.name, tower.pretrained, shelf, seed)
    if whole is not None:
        return _part_of(whole, "image", tower.head, is_drawn=tower.pretrained is None)

    where = "model.image_tower.name"
    if tower.name is None:
        raise ConfigError(
            f"{where} is null, and pretrained is no imported model; name a timm model"
        )
    if not timm.is_model(tower.name.split(".")[0]):
        hint = nearest(tower.name, [*timm.list_models(), *open_clip.list_models()])
        raise ConfigError(f"{where} is '{tower.name}': neither timm nor open_clip knows it{hint}")

    # The trunk alone, to learn what it wants.
    with torch.random.fork_rng(devices=[]):
        trunk: Any = timm.create_model(tower.name, pretrained=False)
    usual = trunk.pretrained_cfg
    if getattr(trunk, "head_hidden_size", None) not in (None, trunk.num_features):
        raise ConfigError(f"{where} is '{tower.name}', whose features open_clip cannot project")
    cfg = {
        "timm_model_name": tower.name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": tower.head,
        "image_size": usual["input_size"][-1],
    }
    preprocess = {
        "mean": list(usual["mean"]),
        "std": list(usual["std"]),
        "interpolation": "bilinear" if usual["interpolation"] == "bilinear" else "bicubic",
        "resize_mode": "shortest",
    }

    # What classifies in the published weights is left out.
    tensors = None if tower.pretrained is None else _timm_tensors(tower.name, tower.pretrained)
    if tensors is not None:
        classifiers = usual.get("classifier") or ()
        heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
        if OTHER_EFFICIENTNET in tensors:
            tensors = dict(zip(trunk.state_dict(), tensors.values(), strict=False))
        tensors = {
            f"visual.trunk.{name}": value
            for name, value in tensors.items()
            if not name.startswith(tuple(f"{head}." for head in heads))
        }
    return Part(cfg, tensors, preprocess)


def read_text_tower(tower: TextTowerConfig, shelf: Path, seed: int) -> Part:
    """Read the text tower of a config, with its tokeniser; imported models are on the shelf.

    Raises:
        ConfigError: tower or weights are unknown, or do not fit each other.
        CheckpointError: the weights are damaged.
        ServiceError: the hub does not answer.
    """
    # A folder as published has no manifest of ours.
    named = tower.pretrained or tower.name
    folder = Path(named or "")
    if not (folder / TEXT_CONFIG).is_file() or (folder / MANIFEST).is_file():
        whole = _whole_model(tower.name, tower.pretrained, shelf, seed)
        if whole is not None:
            return _part_of(whole, "text", tower.head, is_drawn=tower.pretrained is None)
        folder = _download(named)

    config = _encoder_config(folder)
    names = arch_dict[config["model_type"]]["config_names"]
    positions = int(config.get(names["context_length"], 512))
    # RoBERTa's first positions are those of padding.
    most = positions - (0 if config["model_type"] == "bert" else int(config["pad_token_id"]) + 1)
    length = tower.context_length or min(most, MOST_TOKENS)
    if length > most:
        raise ConfigError(
            f"model.text_tower.context_length is {length}; this encoder reads 3 to {most} tokens"
        )

    cfg = {
        "hf_model_name": config["model_type"],
        "hf_model_pretrained": False,
        "hf_tokenizer_name": config["model_type"],
        "hf_pooler_type": POOLERS[tower.pooling],
        "hf_proj_type": tower.head,
        "context_length": length,
    }
    files = {
        name: (folder / name).read_bytes() for name in ENCODER_FILES if (folder / name).is_file()
    }
    if not files.keys() & {TEXT_TOKENIZER, "vocab.txt"}:
        raise ConfigError(
            f"{folder}: no {TEXT_TOKENIZER}, so captions cannot be read; fetch it too"
        )
    files[TEXT_CONFIG] = json.dumps(config, indent=2).encode()
    if tower.pretrained is None:
        return Part(cfg, None, files=files)

    # Names as the encoder alone has them, whatever model it was saved in.
    prefix = config["model_type"].removeprefix("xlm-") + "."
    tensors = {
        f"text.transformer.{name.removeprefix(prefix)}": value
        for name, value in _read_tensors(_weights_file(folder)).items()
        if not BESIDE_TEXT.search(name)
        and (tower.pooling == "pooler" or not name.removeprefix(prefix).startswith("pooler."))
    }
    return Part(cfg, tensors, files=files)


def _whole_model(name: str | None, pretrained: str | None, shelf: Path, seed: int) -> Towers | None:
    """Return the model whose towers came together that a tower is taken out of, None for others."""
    imported = find_imported(pretrained, shelf) if _is_name_or_sealed(pretrained, shelf) else None
    if imported is not None:
        return load_towers(imported, "cpu")
    if name is not None and (name.endswith(".json") or name in open_clip.list_models()):
        return create_towers(ModelConfig(name=name, pretrained=pretrained), "cpu", seed=seed)
    return None


def _is_name_or_sealed(pretrained: str | None, shelf: Path) -> bool:
    # Weights as published may lie in a folder, too, which `find_imported` would refuse.
    return pretrained is not None and any(
        (folder / MANIFEST).is_file() for folder in (shelf / pretrained, Path(pretrained))
    )


def _part_of(towers: Towers, which: str, head: str, is_drawn: bool) -> Part:
    """Take one tower out of a model."""
    architecture, where = towers.config["model_cfg"], f"model.{which}_tower"
    if architecture.get("projection_bias"):
        raise ConfigError(
            f"{where}: EasyNLP's first form has no towers to take apart; name another model"
        )
    if head != "linear":
        raise ConfigError(
            f"{where}.head is {head}, but this tower has a projection; set it to linear"
        )

    tensors = towers.tensors()
    if not any(name.startswith("text.") for name in tensors):
        tensors = dict(convert_to_custom_text_state_dict(tensors))
    return Part(
        cfg=architecture["vision_cfg" if which == "image" else "text_cfg"],
        tensors=None
        if is_drawn
        else {name: value for name, value in tensors.items() if tower_of(name) == which},
        preprocess=towers.config["preprocess_cfg"] if which == "image" else {},
        files={
            name: content
            for name, content in towers.files.items()
            if which == "text" and name != ORIGIN_FILE
        },
        embed_dim=int(architecture["embed_dim"]),
        quick_gelu=bool(architecture.get("quick_gelu")),
    )


def _encoder_config(folder: Path) -> dict[str, Any]:
    """Read and check what a Hugging Face encoder is."""
    path = folder / TEXT_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no readable JSON ({error}); fetch it again") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in ENCODERS:
        raise ConfigError(f"{path}: model_type is {kind!r}; known are {', '.join(ENCODERS)}")

    asked = [field for field in REFUSED_FIELDS if field in config]
    if asked:
        raise ConfigError(f"{path}: asks to run code that came with it ({asked[0]}); not read")
    padding = 0 if kind == "bert" else 1
    config = {name: value for name, value in config.items() if name not in IDLE_FIELDS}
    return {"pad_token_id": padding} | config


def _timm_tensors(name: str, pretrained: str) -> NamedTensors:
    """Read the weights of a timm model from a file, from a folder, or by a tag from the hub."""
    path = Path(pretrained)
    if path.is_dir():
        return _read_tensors(_weights_file(path))
    if path.suffix in (".safetensors", ".pt", ".pth", ".bin") or "/" in pretrained:
        return _read_tensors(path)

    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name.split('.')[0]}.*")]
    if pretrained not in tags:
        hint = f"; known tags: {', '.join(tags)}" if tags else ""
        raise ConfigError(
            f"model.image_tower.pretrained is '{pretrained}': no file, no imported model, and timm "
            f"has no such weights of {name}{hint}"
        )
    try:
        made = timm.create_model(f"{name.split('.')[0]}.{pretrained}", pretrained=True)
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise ServiceError(
            f"{name} weights '{pretrained}' cannot be downloaded ({type(error).__name__}); check "
            "the network, or set model.image_tower.pretrained to a local file"
        ) from error
    return dict(made.state_dict())


def _download(named: str | None) -> Path:
    """Fetch a Hugging Face encoder by its hub name; nothing of it is run."""
    where = "model.text_tower.pretrained"
    if named is None:
        raise ConfigError(f"{where} is null, and so is name; name the folder of a text encoder")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", named) or Path(named).exists():
        raise ConfigError(
            f"{where} is '{named}': no folder with a {TEXT_CONFIG}, no imported model and no hub "
            "name (owner/model); with an open_clip name, state that in name"
        )
    wanted = [TEXT_CONFIG, *ENCODER_FILES, *WEIGHTS_FILES]
    try:
        return Path(huggingface_hub.snapshot_download(named, allow_patterns=wanted))
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise ServiceError(
            f"{named} cannot be downloaded ({type(error).__name__}); check the network, or set "
            f"{where} to a local folder"
        ) from error


def _weights_file(folder: Path) -> Path:
    found = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if found is None:
        raise ConfigError(f"{folder}: no weights ({' or '.join(WEIGHTS_FILES)}); fetch them too")
    return found


def _read_tensors(path: Path) -> NamedTensors:
    """Read a weights file as tensors, floats as float32.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it is damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such weights file; name one, or a folder that holds one")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            tensors = tensors.get("state_dict", tensors)
        if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise TypeError("no dictionary of tensors")
        return {
            str(name): value.float() if value.is_floating_point() else value
            for name, value in tensors.items()
        }
    except UNREADABLE_WEIGHTS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path}: not a readable weights file ({reason}); it may be cut, or hold more than "
            "tensors; fetch it again"
        ) from None
