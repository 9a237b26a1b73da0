"""Write what `model.embeddings.served` reads: towers, tokeniser and settings as data files.

Costs what the two exports cost, 8 s of a core for a tiny ViT, 20 s for ViT-B-32.
"""

import json
from pathlib import Path

from model.embeddings.served import FORMAT, IMAGE_MODEL, SETTINGS_FILE, TEXT_MODEL, TOKENIZER_FILE
from model.towers.onnx_export import (
    EXTERNAL_BYTES,
    export_images,
    export_text,
    reads_padding,
)
from model.towers.portable_tokenizer import port_tokenizer
from model.towers.towers import Towers


def write_served(towers: Towers, folder: Path, external_bytes: int = EXTERNAL_BYTES) -> None:
    """Write the files of towers on the CPU into an existing folder, which the caller seals.

    Weights of more than ``external_bytes`` lie in a file of their own beside a graph.

    Raises:
        NoPortableForm: a tower or its tokeniser has no such form; says which and why.
    """
    towers.clip.eval()
    tokenizer = port_tokenizer(towers)
    (folder / TOKENIZER_FILE).write_text(tokenizer.content, encoding="utf-8")
    export_text(towers, folder / TEXT_MODEL, external_bytes)
    export_images(towers, folder / IMAGE_MODEL, external_bytes)

    resizing, reads_all = towers.resizing, reads_padding(towers)
    settings = {
        "format": FORMAT,
        "embed_dim": towers.embed_dim,
        "clean": tokenizer.clean,
        "context_length": towers.tokenizer([""]).shape[1],
        "padding": tokenizer.padding,
        "replaced": tokenizer.replaced,
        "reads_padding": reads_all,
        "image": {
            "side": towers.image_size,
            "is_squashed": resizing.is_squashed,
            "interpolation": resizing.interpolation,
        },
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")
