"""Towers on disk: a sealed folder in open_clip's own form, written whole and read after its hashes are checked."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file

from model.storage.sealed import WEIGHTS_FILE, sealed_folder, verify_sealed
from model.towers.bert import VOCABULARY_FILE, build_bert_clip, is_bert, make_word_pieces
from model.towers.towers import Towers, resolve_device

CONFIG_FILE = "open_clip_config.json"


TANH = {"approximate": "tanh"}  # act_kwargs of towers with this form of GELU


def save_towers(towers: Towers, folder: Path) -> None:
    """Write the model folder, whole or not at all; an older one of that name is replaced."""
    with sealed_folder(folder) as temporary:
        weights = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in towers.clip.state_dict().items()
        }
        save_file(weights, temporary / WEIGHTS_FILE)
        (temporary / CONFIG_FILE).write_text(json.dumps(towers.config, indent=2), encoding="utf-8")
        for name, content in towers.files.items():
            (temporary / name).write_bytes(content)


def load_towers(folder: Path, device: str = "auto", precision: str = "fp32") -> Towers:
    """Read a model folder after checking the SHA-256 of its files.

    Raises:
        CheckpointError: the folder is missing, incomplete or damaged.
    """
    names = verify_sealed(folder)
    target = resolve_device(device)
    clip = build_clip(folder, target)
    clip.load_state_dict(load_file(folder / WEIGHTS_FILE, device=str(target)))
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    files = {
        name: (folder / name).read_bytes()
        for name in names
        if name not in (CONFIG_FILE, WEIGHTS_FILE)
    }
    return Towers(clip, build_tokenizer(folder), config, target, precision, files=files)


def build_clip(folder: Path, device: torch.device | str = "cpu") -> Any:
    """Return the towers of a folder's config with random weights.

    A text tower of Hugging Face has its config.json in the folder. open_clip hands neither
    activation nor resolution on to timm's towers, so they are applied here.
    """
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if is_bert(config["model_cfg"]):
        with torch.random.fork_rng(devices=[]):
            return build_bert_clip(config["model_cfg"], config["preprocess_cfg"]).to(device)
    text, vision = config["model_cfg"]["text_cfg"], config["model_cfg"]["vision_cfg"]
    if text.get("hf_model_name"):
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    with torch.random.fork_rng(devices=[]), _quiet_open_clip():
        clip = open_clip.create_model(
            f"local-dir:{folder}",
            load_weights=False,
            device=device,
            pretrained_text=False,
            text_cfg=text,
        )
    if vision.get("timm_model_name"):
        _fit_trunk(clip.visual, vision)
    return clip


def _fit_trunk(visual: Any, vision: dict[str, Any]) -> None:
    """Give a timm tower the activation and the resolution of a config."""
    if vision.get("act_kwargs") == TANH:
        for module in visual.modules():
            if isinstance(module, torch.nn.GELU):
                module.approximate = "tanh"
    embed, side = getattr(visual.trunk, "patch_embed", None), vision.get("image_size", 224)
    if hasattr(visual.trunk, "set_input_size") and getattr(embed, "img_size", None) not in (
        None,
        (side, side),
    ):
        visual.trunk.set_input_size(img_size=side)


def build_tokenizer(folder: Path) -> Callable[[list[str]], torch.Tensor]:
    """Return the tokeniser of a folder's config, made of the files beside it."""
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if is_bert(config["model_cfg"]):
        return make_word_pieces(config["model_cfg"], (folder / VOCABULARY_FILE).read_bytes())
    is_own = bool(config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"))
    with _quiet_open_clip():
        made = open_clip.get_tokenizer(
            f"local-dir:{folder}", **({"local_files_only": True} if is_own else {})
        )
    if config.get("tokenizer_cfg", {}).get("is_verbatim"):
        made.clean_fn = verbatim
    tokenizer: Callable[[list[str]], torch.Tensor] = made
    return tokenizer


def verbatim(caption: str) -> str:
    """Return a caption as it is."""
    return caption


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Silence open_clip's remarks on weights: it warns whenever none are loaded, and ours are loaded by ourselves."""
    root = logging.getLogger()
    root.addFilter(_not_from_open_clip)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_not_from_open_clip)


def _not_from_open_clip(record: logging.LogRecord) -> bool:
    return record.module != "factory"
