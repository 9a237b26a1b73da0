"""Weights files of others: read without running anything, refused in one sentence, written as ours.

Tensors are memory-mapped and written by the libraries. With 605 MB an import takes 1.04 times the
file's size in memory, 1.26 times where a form stacks tensors, and 3 times that of a file in half
precision, whose float32 is made at once (DECISIONS 35).
"""

import shutil
import zipfile
import zlib
from collections.abc import Mapping
from lzma import LZMAError
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

from model.errors import CheckpointError
from model.towers.create import UNREADABLE_WEIGHTS

# What zipfile raises, besides torch and safetensors, on a file that is cut or something else.
UNREADABLE = (*UNREADABLE_WEIGHTS, zipfile.BadZipFile, zlib.error, LZMAError)
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
LFS_POINTER = b"version https://git-lfs"
# What older checkpoints of CLIP carry beside their weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
FLOATS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
# Where the zip that ``torch.save`` writes has the tensors' bytes, and TorchScript its code.
STORAGES, CODE = "/data/", "/code/"


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the named tensors of a .safetensors file or of a plain ``torch.save``.

    They are memory-mapped where they can be. All records of a zip that torch wrote are checked
    against their CRC-32.

    Raises:
        CheckpointError: the file is cut or damaged, a pointer of Git LFS, would run code, or holds
            something else.
    """
    try:
        with open(path, "rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        if is_pointer:
            raise CheckpointError(
                f"{path}: a pointer of Git LFS, not the weights; fetch them by `git lfs pull`"
            )

        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            can_map = zipfile.is_zipfile(path) and _is_uncompressed(path)
            tensors = _load_dictionary(path, can_map)
            tensors = {str(name): tensors[name] for name in tensors if name not in NOT_WEIGHTS}
            if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
                raise TypeError("no dictionary of tensors")

        unknown = {tensor.dtype for tensor in tensors.values()}.difference(FLOATS, INTEGERS)
        if unknown:
            raise TypeError(f"it has tensors of {', '.join(sorted(map(str, unknown)))}")
        if any(tensor.layout != torch.strided for tensor in tensors.values()):
            raise TypeError("it has sparse tensors")
        return tensors

    except UnpicklingError:
        raise CheckpointError(
            f"{path}: holds more than tensors, which loading would run as code; nothing of it was "
            "run. Ask for a .safetensors file, or for a torch.save of the weights alone"
        ) from None
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path}: not a readable weights file ({reason}); it may be cut, or hold more than "
            "tensors; fetch it again"
        ) from None


def _is_uncompressed(path: Path) -> bool:
    """Check a zip and return whether it has its tensors as they are in memory.

    One that was compressed anew is to be read: torch would map it and take it for numbers.

    Raises:
        CheckpointError: the zip is damaged or a program.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(CODE in record.filename for record in records):
            raise CheckpointError(
                f"{path}: a TorchScript archive, which is code; import its weights as .safetensors "
                "instead"
            )
        damaged = archive.testzip()

    if damaged is not None:
        raise CheckpointError(f"{path}: damaged (CRC-32 of {damaged} differs); fetch it again")
    return all(
        record.compress_type == zipfile.ZIP_STORED
        for record in records
        if STORAGES in record.filename
    )


def peek_names(path: Path) -> list[str]:
    """Return the names of the tensors in a ``torch.save``, unchecked; none where it has none."""
    try:
        return [str(name) for name in _load_dictionary(path, zipfile.is_zipfile(path))]
    except UNREADABLE:
        return []


def _load_dictionary(path: Path, can_map: bool) -> dict[Any, Any]:
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not tensors:
        raise TypeError("no dictionary of tensors")
    return tensors


def import_tensors(tensors: Mapping[str, torch.Tensor], source: Path, path: Path) -> None:
    """Write the tensors of a file as ours: by copying it where it is in our form already.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    theirs = load_file(source) if source.suffix == ".safetensors" else {}
    is_ours_already = theirs.keys() == tensors.keys() and all(
        values.shape == theirs[name].shape and theirs[name].dtype == values.dtype == _ours(values)
        for name, values in tensors.items()
    )
    if is_ours_already:
        for name, values in tensors.items():
            _refuse_infinity(name, values)
        shutil.copyfile(source, path)
    else:
        write_tensors(tensors, path)


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a .safetensors file, floats as float32.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    whole, storages = dict[str, torch.Tensor](), set[int]()
    for name, tensor in tensors.items():
        values = tensor.to(_ours(tensor)).contiguous()
        _refuse_infinity(name, values)

        # The library takes no two tensors of one memory: tied ones, or parts of one.
        storage = values.untyped_storage().data_ptr()
        whole[name] = values.clone() if storage in storages else values
        storages.add(storage)
    save_file(whole, path)


def _refuse_infinity(name: str, values: torch.Tensor) -> None:
    # The least and the greatest are NaN where one value is, and need no memory beside the tensor.
    is_float = values.is_floating_point() and values.numel()
    if is_float and not torch.stack(values.aminmax()).isfinite().all():
        raise CheckpointError(
            f"{name}: holds NaN or infinity, so the file is damaged; fetch it again"
        )


def _ours(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype
