"""Weights files of others: found in a folder, read without running anything, refused in one sentence."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from model.errors import CheckpointError

# What torch and safetensors raise on a file that is cut, or holds something else.
UNREADABLE = (SafetensorError, OSError, EOFError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
LFS_POINTER = b"version https://git-lfs"


def find_file(folder: Path, names: Sequence[str], what: str = "weights file") -> Path:
    """Return the one file of a folder that has one of the names.

    Raises:
        CheckpointError: there is none, or more than one.
    """
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise CheckpointError(f"{folder}: no {what} ({', '.join(names)}); is the download complete?")
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise CheckpointError(f"{folder}: several candidates ({listed}); name the file to import, or remove the others")
    return found[0]


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the named tensors of a .safetensors file or of a plain ``torch.save``, memory-mapped where they can be.

    Raises:
        CheckpointError: the file is cut, is a pointer of Git LFS, would run code, or holds something else.
    """
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise CheckpointError(f"{path}: a pointer of Git LFS, not the weights; fetch them by `git lfs pull`")
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    except Exception as error:
        # torch raises pickle.UnpicklingError for code in a weights file; naming the class would import pickle.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise _unreadable(path, error) from None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise TypeError("no dictionary of tensors")
    return dict(tensors)


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return CheckpointError(
        f"{path}: not a readable weights file ({reason}); it may be cut, or hold more than tensors; fetch it again"
    )
