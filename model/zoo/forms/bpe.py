"""What English models share: CLIP's own two transformers, and its byte pairs as others ship them.

Every English model has the byte pairs that open_clip brings.
"""

import gzip
import json
import zlib
from functools import cache
from pathlib import Path

import open_clip
from open_clip.tokenizer import SimpleTokenizer, default_bpe

from model.errors import CheckpointError
from model.towers.towers import Towers
from model.zoo.folders import MAX_TOKENIZER_BYTES, file_of

MERGES = slice(1, 49152 - 256 - 2 + 1)
MAX_MERGES_BYTES = 10_000_000
START, END = "<|startoftext|>", "<|endoftext|>"
OUR_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
USUAL_VISION = {
    "image_size",
    "layers",
    "width",
    "patch_size",
    "head_width",
    "mlp_ratio",
    "patch_dropout",
}
USUAL_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def is_plain(towers: Towers) -> bool:
    """Return whether these are CLIP's own transformers and byte pairs, in shape and function."""
    architecture = towers.config["model_cfg"]
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    return (
        type(towers.clip) is open_clip.CLIP
        and getattr(towers.clip, "logit_bias", None) is None
        and towers.clip.logit_scale.ndim == 0
        and vision.keys() <= USUAL_VISION
        and text.keys() <= USUAL_TEXT
        and isinstance(vision.get("layers", 12), int)
        and isinstance(towers.tokenizer, SimpleTokenizer)
    )


def own_merges() -> bytes:
    """Return CLIP's gzipped merges as open_clip and EasyNLP have them."""
    return Path(default_bpe()).read_bytes()


def check_merges(path: Path) -> None:
    """Refuse a gzipped file of merges that are not CLIP's.

    Raises:
        CheckpointError: they are not, or the file is damaged.
    """
    try:
        with gzip.open(path) as file:
            text = file.read(MAX_MERGES_BYTES).decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CheckpointError(
            f"{path}: not the gzipped merges of CLIP ({error}); fetch it again"
        ) from None

    if text.split("\n")[MERGES] != _merges():
        raise CheckpointError(
            f"{path}: other merges than CLIP's, so captions would get other tokens; not imported"
        )


def check_bpe(folder: Path) -> None:
    """Refuse a Hugging Face folder whose vocabulary gives captions other ids than CLIP's.

    Raises:
        CheckpointError: it does, or there is no vocabulary.
    """
    path = file_of(folder, "vocab.json") or file_of(folder, "tokenizer.json")
    if path is None:
        raise CheckpointError(
            f"{folder}: no vocab.json and no tokenizer.json; is the download complete?"
        )

    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ValueError("too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = content if path.name == "vocab.json" else content["model"]["vocab"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: no readable vocabulary ({error}); fetch it again") from None

    if vocabulary != _vocabulary():
        raise CheckpointError(
            f"{path}: another vocabulary than CLIP's, so captions would get other tokens"
        )


def hugging_face_bpe(context_length: int) -> dict[str, bytes]:
    """Return the files of transformers' CLIPTokenizer by name."""
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }

    return {
        "vocab.json": json.dumps(_vocabulary(), ensure_ascii=False).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *_merges(), ""]).encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }


@cache
def _merges() -> list[str]:
    return gzip.decompress(own_merges()).decode("utf-8").split("\n")[MERGES]


@cache
def _vocabulary() -> dict[str, int]:
    return {
        OUR_SPECIAL.get(word, word): number for word, number in SimpleTokenizer().encoder.items()
    }
