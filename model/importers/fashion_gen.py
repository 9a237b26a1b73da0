"""Fashion-Gen: HDF5 files of raw pixels and product texts.

Format (Rostamzadeh et al. 2018, "Fashion-Gen: The Generative Fashion Dataset and Challenge"): one
file a split, ``fashiongen_256_256_train.h5`` and ``fashiongen_256_256_validation.h5``. Every
dataset has N rows, one an image: ``input_image`` uint8 [N, 256, 256, 3] in RGB, the others [N, 1]:
``input_productID`` (integers; a product has a row for each of its poses), and Latin-1 bytes in
``input_description``, ``input_name``, ``input_category``, … .

The validation file becomes **test.tsv**, because it is the split that models are compared on
(32,528 pairs); without a valid.tsv a run carves its own out of train.

The source holds pixels, so this is the one importer that encodes: JPEG of quality 95 with full
colour resolution (option ``quality``). That is about 1,100 rows/s a core. Memory is one block of
rows, 200 MB at most.
"""

import io
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from model.errors import DataError, nearest
from model.importers.records import ImportedPair, ImportOptions, SourceRow, SplitSource
from model.importers.sources import find_files, reading_source, split_of
from model.pairs.arrays import Pixels

IMAGE, PRODUCT, NAME = "input_image", "input_productID", "input_name"
SIDE_COLUMNS = {
    "title": NAME,
    "category": "input_category",
    "subcategory": "input_subcategory",
    "brand": "input_brand",
    "gender": "input_gender",
    "department": "input_department",
    "composition": "input_composition",
    "season": "input_season",
    "pose": "input_pose",
}
BLOCK_ROWS = 64
MAX_BLOCK_BYTES = 200_000_000
HDF5_ERRORS = (KeyError, RuntimeError, ValueError)  # what h5py raises besides OSError
RENAMED_SPLITS = {"train": "train", "valid": "test", "test": "test"}


class Options(ImportOptions):
    """Options of Fashion-Gen."""

    caption: str = Field(
        "description",
        pattern=r"^\w+$",
        description="The text that becomes the caption, a dataset without its input_; "
        "where it is empty the product's name is taken.",
    )
    quality: int = Field(
        95, ge=1, le=100, description="JPEG quality that the raw pixels are encoded with, 1 to 100."
    )


def find_splits(sources: Sequence[Path], options: Options) -> list[SplitSource]:
    """Return one split a file: train, and test for the validation file.

    Raises:
        DataError: a file is no Fashion-Gen file, or lacks a dataset that is needed.
    """
    found = []
    for path in find_files(sources, (".h5", ".hdf5")):
        with reading_source(path, *HDF5_ERRORS), h5py.File(path, "r") as file:
            rows = len(_check_images(path, file, options))
        split = options.split or RENAMED_SPLITS[split_of(path, None)]
        found.append(SplitSource(split, (path,), partial(_read, path, options), rows))
    return found


def _check_images(path: Path, file: h5py.File, options: Options) -> h5py.Dataset:
    """Return the images after checking what the other functions rely on."""
    images = _dataset(path, file, IMAGE)
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if not (fits and 0 < math.prod(images.shape[1:]) <= MAX_BLOCK_BYTES):
        raise DataError(
            f"{path}: {IMAGE} is {images.dtype} {images.shape}, "
            "expected uint8 [rows, height, width, 3]"
        )

    for name in (PRODUCT, f"input_{options.caption}", *_text_names(file)):
        values = _dataset(path, file, name)
        if values.shape not in ((len(images),), (len(images), 1)):
            raise DataError(
                f"{path}: {name} has shape {values.shape} beside {len(images):,} images; "
                "fetch it again"
            )
    return images


def _text_names(file: h5py.File) -> list[str]:
    return [name for name in SIDE_COLUMNS.values() if name in file]


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose values lie in this very file.

    HDF5 can point at any other file of the machine.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise DataError(
            f"{path}: no dataset {name}{nearest(name, file)} (found: {', '.join(file) or 'none'})"
        )

    found = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise DataError(f"{path}: {name} does not hold its values itself; fetch the original file")
    return found


def _read(path: Path, options: Options) -> Iterator[SourceRow]:
    for images, columns in _read_blocks(path, options):
        for row, image in enumerate(images):
            texts = {name: _text(values[row]) for name, values in columns.items()}
            side = {column: texts[name] for column, name in SIDE_COLUMNS.items() if name in texts}
            caption = texts[f"input_{options.caption}"] or texts.get(NAME, "")
            yield ImportedPair(texts[PRODUCT], caption, encode_jpeg(image, options.quality), side)


def _read_blocks(
    path: Path, options: Options
) -> Iterator[tuple[Pixels, dict[str, npt.NDArray[Any]]]]:
    """Yield images uint8 [rows, H, W, 3] and the texts beside them, [rows] each."""
    with reading_source(path, *HDF5_ERRORS), h5py.File(path, "r") as file:
        images = _check_images(path, file, options)
        names = {PRODUCT, f"input_{options.caption}", *_text_names(file)}

        # A block takes whole chunks, because a chunk is decompressed again for each block that
        # touches it.
        whole = max(BLOCK_ROWS, (images.chunks or (1,))[0])
        block = min(whole, MAX_BLOCK_BYTES // math.prod(images.shape[1:]))
        for start in range(0, len(images), block):
            rows = slice(start, start + block)
            yield images[rows], {name: np.ravel(file[name][rows]) for name in names}


def _text(value: Any) -> str:
    """Return a cell as text: Latin-1 bytes, a string, or a number without a needless ``.0``."""
    if isinstance(value, bytes):
        return value.decode("latin-1").strip()
    if isinstance(value, np.floating) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def encode_jpeg(image: Pixels, quality: int) -> bytes:
    """Encode an RGB image uint8 [H, W, 3] with full colour resolution.

    A halved one, JPEG's usual, blurs coloured details.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
