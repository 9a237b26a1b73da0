"""Weights files of others: read without running anything, refused in one sentence, written as they stream by."""

import ctypes
import json
import mmap
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from model.errors import CheckpointError
from model.zoo.streams import Pieces, write_hashed
from model.zoo.torch_zip import can_be_mapped

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
# What older checkpoints of CLIP carry beside their weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the named tensors of a .safetensors file or of a plain ``torch.save``, memory-mapped
    where they can be.

    In a zip that torch wrote, all but the tensors' bytes is checked against its CRC-32;
    `checked_digest` does those.

    Raises:
        CheckpointError: the file is cut or damaged, a pointer of Git LFS, would run code, or holds
        something else.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise CheckpointError(
                f"{path}: a pointer of Git LFS, not the weights; fetch them by `git lfs pull`"
            )
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    except Exception as error:
        # torch raises pickle.UnpicklingError for code in a weights file; naming the class would
        # import pickle.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise CheckpointError(
            f"{path}: holds more than tensors, which loading would run as code; nothing of it was run. Ask for a "
            ".safetensors file, or for a torch.save of the weights alone"
        ) from None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Map the tensors and read none; the library's ``get_tensor`` reads where each begins, and the disk reads ahead."""
    # The library refuses a header that does not fill the file with tensors, one after another.
    with safe_open(path, framework="pt") as checked:
        names = list(checked.keys())
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    unknown = sorted({header[name]["dtype"] for name in names} - DTYPES.keys())
    if unknown:
        raise TypeError(f"it has tensors of {', '.join(unknown)}")
    return {name: _mapped_tensor(mapped, 8 + length, header[name]) for name in names}


def _mapped_tensor(file: mmap.mmap, data: int, entry: dict[str, Any]) -> torch.Tensor:
    """Return the tensor of an entry of a .safetensors header, ``data`` where the file's tensors begin."""
    dtype, (start, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
    if start == end:
        return torch.empty(entry["shape"], dtype=dtype)
    count = (end - start) // dtype.itemsize
    return torch.frombuffer(file, dtype=dtype, count=count, offset=data + start).reshape(
        entry["shape"]
    )


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    tensors = _dictionary(path, can_be_mapped(path))
    found = {str(name): value for name, value in tensors.items() if name not in NOT_WEIGHTS}
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise TypeError("no dictionary of tensors")
    return found


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


def _dictionary(path: Path, can_map: bool) -> dict[Any, Any]:
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
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


def write_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path, mapped: Path | None = None
) -> str:
    """Write a .safetensors file, floats as float32, and return its SHA-256 (hex).

    One tensor at a time is in memory, also of those that are mapped, unchanged, from the file
    ``mapped``. The digest is made while a chunk is written: half the time of writing first and
    reading again.

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

    return write_hashed(parts(), path)


def copy_tensors(tensors: Mapping[str, torch.Tensor], source: Path, path: Path) -> str:
    """Copy the .safetensors file that tensors are mapped from and return its SHA-256 (hex), made on
    the way.

    Raises:
        CheckpointError: a tensor holds NaN or infinity.
    """

    def check() -> None:
        mappings = list(_mappings(source))
        for name, values in sorted(tensors.items(), key=lambda item: item[1].data_ptr()):
            _refuse_infinity(name, values)
            _let_go(values, mappings)

    with open(source, "rb", buffering=0) as file, ThreadPoolExecutor(1) as beside:
        checked = beside.submit(check)
        digest = write_hashed(Pieces(file).until(source.stat().st_size), path)
        checked.result()
    return digest


def is_ours_already(source: Path, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether a file is a .safetensors of these names, every tensor of a type that ours have."""
    if source.suffix != ".safetensors" or any(
        _ours(value.dtype) != value.dtype for value in tensors.values()
    ):
        return False
    with safe_open(source, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes == {name: tuple(value.shape) for name, value in tensors.items()}


def _refuse_infinity(name: str, values: torch.Tensor) -> None:
    # NumPy's sum keeps to this thread; those beside have the other cores.
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = not values.is_floating_point() or bool(np.isfinite(values.numpy().sum()))
    if not is_finite:
        raise CheckpointError(
            f"{name}: holds NaN or infinity, so the file is damaged; fetch it again"
        )


def _let_go(tensor: torch.Tensor, mappings: list[tuple[int, int]]) -> None:
    """Unmap a tensor's whole pages of a mapped file; touched again, they are read from the file
    again.

    Memory outside of the file's mappings is left alone: letting go would empty it.
    """
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and any(first <= start and end <= last for first, last in mappings):
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED
        )


def _mappings(file: Path) -> Iterator[tuple[int, int]]:
    """Yield the addresses, from and to, where this process has a file mapped (Linux only)."""
    inode = str(file.stat().st_ino)
    with suppress(FileNotFoundError), open("/proc/self/maps") as maps:
        for line in maps:
            addresses, _, _, _, found = line.split()[:5]
            if found == inode:
                first, last = addresses.split("-")
                yield int(first, 16), int(last, 16)


def _ours(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point else dtype
