"""Weights files of others: read without running anything, refused in one sentence, written as they stream by."""

import ctypes
import hashlib
import json
import mmap
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from model.errors import CheckpointError

# What torch and safetensors raise on a file that is cut, or holds something else.
UNREADABLE = (
    SafetensorError,
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
LFS_POINTER = b"version https://git-lfs"
CHUNK_BYTES = 1 << 24
SYNC_BYTES = 1 << 27
# Where a zip that torch wrote has the bytes of its tensors.
STORAGES = "/data/"
# What older checkpoints of CLIP carry beside their weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
DTYPE_NAMES = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL", torch.uint8: "U8"}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the named tensors of a .safetensors file or of a plain ``torch.save``, memory-mapped where they can be.

    In a zip that torch wrote, all but the tensors' bytes is checked against its CRC-32; `check_storages` does those.

    Raises:
        CheckpointError: the file is cut or damaged, a pointer of Git LFS, would run code, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise CheckpointError(f"{path}: a pointer of Git LFS, not the weights; fetch them by `git lfs pull`")
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    except Exception as error:
        # torch raises pickle.UnpicklingError for code in a weights file; naming the class would import pickle.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise CheckpointError(
            f"{path}: holds more than tensors, which loading would run as code; nothing of it was run. Ask for a "
            ".safetensors file, or for a torch.save of the weights alone"
        ) from None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise CheckpointError(
                    f"{path}: a TorchScript archive, which is code; import its weights as .safetensors instead"
                )
            _check_records(archive, (name for name in archive.namelist() if STORAGES not in name))
    tensors = _dictionary(path, is_zip)
    found = {str(name): value for name, value in tensors.items() if name not in NOT_WEIGHTS}
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise TypeError("no dictionary of tensors")
    return found


def check_storages(path: Path) -> None:
    """Check the tensors' bytes in a zip that torch wrote against their CRC-32; other files have none.

    Reads the whole file, so it is for a thread beside the one that copies the tensors.

    Raises:
        CheckpointError: the file is damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_records(archive, (name for name in archive.namelist() if STORAGES in name))


def _check_records(archive: zipfile.ZipFile, names: Iterable[str]) -> None:
    for name in names:
        try:
            with archive.open(name) as record:
                while record.read(CHUNK_BYTES):
                    pass
        except (zipfile.BadZipFile, EOFError):
            raise CheckpointError(f"{archive.filename}: damaged (CRC-32 of {name} differs); fetch it again") from None


def peek_names(path: Path) -> list[str]:
    """Return the names of the tensors in a ``torch.save`` without reading or checking them; none where it has none."""
    try:
        return [str(name) for name in _dictionary(path, zipfile.is_zipfile(path))]
    except UNREADABLE:
        return []
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        return []


def _dictionary(path: Path, is_zip: bool) -> dict[Any, Any]:
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not tensors:
        raise TypeError("no dictionary of tensors")
    return tensors


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return CheckpointError(
        f"{path}: not a readable weights file ({reason}); it may be cut, or hold more than tensors; fetch it again"
    )


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path, mapped: Path | None = None) -> str:
    """Write a .safetensors file, floats as float32, and return its SHA-256 (hex).

    One tensor at a time is in memory, also of those that are mapped, unchanged, from the file ``mapped``. The digest is
    made while a chunk is written: half the time of writing first and reading again.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """
    mappings = list(_mappings(mapped)) if mapped is not None else []
    names = sorted(tensors, key=lambda name: (-_ours(tensors[name].dtype).itemsize, name))
    header, end = dict[str, Any](), 0
    for name in names:
        dtype, start = _ours(tensors[name].dtype), end
        end += tensors[name].numel() * dtype.itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def parts() -> Iterator[memoryview]:
        yield memoryview(len(text).to_bytes(8, "little") + text)
        for name in names:
            values = tensors[name].to(_ours(tensors[name].dtype)).contiguous()
            _refuse_infinity(name, values)
            yield values.reshape(-1).numpy().data.cast("B")
            _let_go(tensors[name], mappings)

    return _stream(parts(), path)


def copy_tensors(source: Path, path: Path) -> str:
    """Copy a .safetensors file and return its SHA-256 (hex), made on the way.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """

    def parts() -> Iterator[memoryview]:
        with open(source, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield memoryview(chunk)

    digest = _stream(parts(), path)
    with safe_open(path, framework="pt") as whole:
        names = list(whole.keys())
    for name in names:
        with safe_open(path, framework="pt") as file:  # anew, so that one tensor at a time is mapped
            _refuse_infinity(name, file.get_tensor(name))
    return digest


def is_ours_already(source: Path, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether a file is a .safetensors of these names, every tensor of a type that ours have."""
    if source.suffix != ".safetensors" or any(_ours(value.dtype) != value.dtype for value in tensors.values()):
        return False
    with safe_open(source, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes == {name: tuple(value.shape) for name, value in tensors.items()}


def _refuse_infinity(name: str, values: torch.Tensor) -> None:
    if values.is_floating_point() and not bool(values.sum().isfinite()):
        raise CheckpointError(f"{name}: holds NaN or infinity, so the file is damaged; fetch it again")


def _let_go(tensor: torch.Tensor, mappings: list[tuple[int, int]]) -> None:
    """Unmap a tensor's whole pages of a mapped file; touched again, they are read from the file again.

    Memory outside of the file's mappings is left alone: letting go would empty it.
    """
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and any(first <= start and end <= last for first, last in mappings):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _mappings(file: Path) -> Iterator[tuple[int, int]]:
    """Yield the addresses, from and to, where this process has a file mapped (Linux only)."""
    inode = str(file.stat().st_ino)
    with suppress(FileNotFoundError), open("/proc/self/maps") as maps:
        for line in maps:
            addresses, _, _, _, found = line.split()[:5]
            if found == inode:
                first, last = addresses.split("-")
                yield int(first, 16), int(last, 16)


def _stream(parts: Iterable[memoryview], path: Path) -> str:
    """Write parts to a file and return its SHA-256 (hex); hashing and the disk work while the next part is made."""
    digest, unsynced = hashlib.sha256(), 0
    with open(path, "wb") as file, ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as syncing:
        for part in parts:
            for start in range(0, len(part), CHUNK_BYTES):
                chunk = part[start : start + CHUNK_BYTES]
                digested = hashing.submit(digest.update, chunk)
                file.write(chunk)
                digested.result()
                unsynced += len(chunk)
                if unsynced >= SYNC_BYTES:
                    syncing.submit(os.fdatasync, file.fileno())
                    unsynced = 0
    return digest.hexdigest()


def _ours(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point else dtype
