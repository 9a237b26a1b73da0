"""Towers and pairs so small that a training takes a second, shared by the tests of the science.

Torch is not imported here.
"""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.config.sections import DataConfig, ModelConfig, StageConfig
from model.pairs.index import PairIndex, PairSource, index_pairs
from model.pairs.profile import profile_files, write_profile

SIDE = 16
WIDTH = 16
TINY_MODEL = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 50, 220),
    "black": (15, 15, 15),
    "white": (240, 240, 240),
    "yellow": (230, 220, 40),
    "purple": (140, 40, 160),
    "teal": (20, 140, 140),
}
THINGS = ("shirt", "dress", "shoe", "bag")


@dataclass(frozen=True)
class TinyData:
    """Pairs on disk: eight colours times four things, each thing a dark corner of its own."""

    train: PairSource
    valid: PairSource

    def train_index(self) -> PairIndex:
        """Return the index of the 64 train pairs."""
        return index_pairs([self.train])

    def valid_index(self) -> PairIndex:
        """Return the index of the 32 valid pairs, no picture of which is in train."""
        return index_pairs([self.valid])


def names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def tiny_stage_config(**changes: object) -> StageConfig:
    """Return a stage of two epochs of four steps with the concept loss on.

    No checkpoint depends on the clock.
    """
    values = {
        "epochs": 2,
        "batch_size": 16,
        "lr": 3e-3,
        "warmup_steps": 2,
        "concept_weight": 1.0,
        "queue_size": 40,
    }
    return StageConfig.model_validate(values | {"checkpoint_share": 0.0} | changes)


def write_model(folder: Path) -> ModelConfig:
    """Write the architecture and return the config that names it."""
    path = folder / "tiny-test-model.json"
    path.write_text(json.dumps(TINY_MODEL), encoding="utf-8")
    return ModelConfig(name=str(path))


def write_data(folder: Path) -> TinyData:
    """Write both splits with their profiles."""
    captions = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    train = [(caption, drawn_jpeg(caption, seed)) for seed in (1, 2) for caption in captions]
    valid = [(caption, drawn_jpeg(caption, 3)) for caption in captions]
    return TinyData(profiled(folder / "train.tsv", train), profiled(folder / "valid.tsv", valid))


def profiled(
    tsv: Path, pairs: list[tuple[str, bytes]], extra_lines: list[bytes] | None = None
) -> PairSource:
    """Write a TSV and its profile; ``extra_lines`` come first."""
    lines = [
        *(extra_lines or []),
        *(caption.encode() + b"\t" + base64.b64encode(image) for caption, image in pairs),
    ]
    tsv.write_bytes(b"".join(line + b"\n" for line in lines))
    files = profile_files(tsv.parent, tsv.stem)
    write_profile(tsv, files, DataConfig())
    return PairSource(tsv, files.table)


def drawn_jpeg(caption: str, seed: int, side: int = 24) -> bytes:
    """Draw what a caption names, with noise of its own."""
    colour, thing = caption.split()
    rng = np.random.default_rng((seed, list(COLOURS).index(colour), THINGS.index(thing)))
    pixels = np.full((side, side, 3), COLOURS[colour], dtype=np.float64)
    row, column = divmod(THINGS.index(thing), 2)
    half = side // 2
    pixels[row * half : (row + 1) * half, column * half : (column + 1) * half] = 128
    pixels += rng.normal(0, 12, size=pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
