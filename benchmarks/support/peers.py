"""From a TSV line to the input of the image tower: our way, and others' by their descriptions.

Every way takes what its reader has in memory for one line and returns [3, 224, 224] (EasyNLP [1, 3,
224, 224]). Ours is uint8, because the model normalises a whole batch on its device; the others' are
normalised float32. Captions stay untouched in all.
"""

import base64
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from open_clip import OPENAI_DATASET_MEAN as MEAN
from open_clip import OPENAI_DATASET_STD as STD
from open_clip.transform import image_transform
from PIL import Image

from model.batches.crops import centre_crop, decode_image
from model.errors import FaultReason
from model.pairs.tsv import decode_base64, parse_line

SIDE = 224

MEAN_C11, STD_C11 = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

open_clip_transform = image_transform(SIDE, is_train=False, mean=MEAN, std=STD)


def our_input(line: bytes) -> torch.Tensor:
    """Make the uint8 input [3, 224, 224] of a line, as training and export do."""
    pair = parse_line(line)
    assert not isinstance(pair, FaultReason) and pair.image is not None, (
        "benchmarks read good lines"
    )
    image = decode_image(pair.image)
    assert isinstance(image, torch.Tensor), "benchmarks read good lines"
    return centre_crop(image, SIDE)


def our_normalised_input(line: bytes) -> torch.Tensor:
    """Make the normalised float32 input [3, 224, 224], as if the model had no device of its own."""
    return (our_input(line).float().div_(255) - MEAN_C11) / STD_C11


def denormalised(image: torch.Tensor) -> torch.Tensor:
    """Compute the pixels [3, 224, 224], 0 to 1, of a normalised input."""
    return image * STD_C11 + MEAN_C11


def open_clip_input(line: bytes) -> torch.Tensor:
    """Make the normalised input [3, 224, 224] by Pillow and open_clip's evaluation transform."""
    image = decode_base64(line.split(b"\t")[1])
    assert image is not None, "benchmarks read good lines"
    with Image.open(io.BytesIO(image)) as opened:
        made: torch.Tensor = open_clip_transform(opened)
        return made


def easynlp_input(line: str) -> torch.Tensor:
    """Make the normalised input [1, 3, 224, 224] of a line as EasyNLP's CLIP data set does.

    Pillow resizes the shorter side and crops, numpy normalises; what costs most is the last step, a
    tensor made from a list of one array, value by value. Source:
    https://github.com/alibaba/EasyNLP, easynlp/appzoo/clip/data.py.
    """
    image: Image.Image = Image.open(
        io.BytesIO(base64.urlsafe_b64decode(line.strip("\n").split("\t")[1]))
    )
    shorter = min(image.size)
    if shorter != SIDE:
        width, height = (int(SIDE * length / shorter) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)

    left, top = (int((length - SIDE + 1) * 0.5) for length in image.size)
    pixels = np.array(image.crop((left, top, left + SIDE, top + SIDE)).convert("RGB"))
    scaled = (pixels.astype(np.float32) / 255.0).transpose(2, 0, 1)
    mean, std = (np.array(values).astype(np.float32)[:, None, None] for values in (MEAN, STD))
    return torch.tensor([(scaled - mean) / std])


def write_tar(lines: list[bytes], path: Path) -> None:
    """Write the images and captions of lines as a shard that webdataset reads."""
    with tarfile.open(path, "w") as tar:
        for number, line in enumerate(lines):
            caption, image = line.split(b"\t")
            for suffix, data in (("jpg", decode_base64(image)), ("txt", caption)):
                assert data is not None, "benchmarks read good lines"
                entry = tarfile.TarInfo(f"{number:09d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def webdataset_inputs(tar: Path) -> Iterator[torch.Tensor]:
    """Yield the normalised inputs [3, 224, 224] of a shard by webdataset and open_clip's transform.

    Raises:
        ModuleNotFoundError: webdataset is not installed.
    """
    import webdataset

    pairs = webdataset.WebDataset(str(tar), shardshuffle=False).decode("pil").to_tuple("jpg", "txt")
    yield from (open_clip_transform(image) for image, _ in pairs)
