"""Weights files of others: read without running anything, refused in one sentence, written as ours.

Tensors are memory-mapped and written by the libraries. With 605 MB an import takes 1.04 times the
file's size in memory, 1.26 times where a form stacks tensors, and 3 times that of a file in half
precision, whose float32 is made at once (DECISIONS 35).
"""

import hashlib
import re
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
from model.storage.files import file_digest
from model.towers.create import UNREADABLE_WEIGHTS
from model.zoo.folders import file_of, read_json

# What zipfile raises, besides torch and safetensors, on a file that is cut or something else.
UNREADABLE = (*UNREADABLE_WEIGHTS, zipfile.BadZipFile, zlib.error, LZMAError)
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
SHARDS_SUFFIX = ".index.json"  # of the list that names the file of each tensor
LFS_POINTER = b"version https://git-lfs"
# What older checkpoints of CLIP carry beside their weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
# Under which training code saves the weights, and what it puts before their names: Lightning the
# attribute that holds the model, data parallelism and torch.compile their wrappers.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
MAX_WRAPPERS = 3
PREFIXES = ("module.", "model.", "_orig_mod.")
NOT_ALLOWED = re.compile(r"GLOBAL ([\w.]+)")
LISTED_NAMES = 5
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
    """Return the named tensors of a .safetensors file, of its shards, or of a ``torch.save``.

    A checkpoint may hold them beside other things (Lightning's too), and their names may stand
    behind the prefixes of wrappers. They are memory-mapped where they can be. All records of a zip
    that torch wrote are checked against their CRC-32.

    Raises:
        CheckpointError: the file is cut or damaged, a pointer of Git LFS, would run code, or holds
            no tensors; or a shard is missing.
    """
    if path.name.endswith(SHARDS_SUFFIX):
        return _without_prefixes(_read_shards(path))
    return _without_prefixes(_read_file(path))


def weights_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a weights file; of shards, that of their list of digests."""
    if not path.name.endswith(SHARDS_SUFFIX):
        return file_digest(path)
    listed = [f"{file_digest(file)}  {file.name}\n" for file in (path, *_shards_of(path))]
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def _read_file(path: Path) -> dict[str, torch.Tensor]:
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
            tensors = _tensors_of(path, tensors)

        unknown = {tensor.dtype for tensor in tensors.values()}.difference(FLOATS, INTEGERS)
        if unknown:
            raise TypeError(f"it has tensors of {', '.join(sorted(map(str, unknown)))}")
        if any(tensor.layout != torch.strided for tensor in tensors.values()):
            raise TypeError("it has sparse tensors")
        return tensors

    except UnpicklingError as error:
        named = NOT_ALLOWED.search(str(error))
        raise CheckpointError(
            f"{path}: holds more than tensors{f' ({named[1]})' if named else ''}, which loading "
            "would run as code; nothing of it was run. Ask for a .safetensors file, or for a "
            "torch.save of the weights alone"
        ) from None
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path}: not a readable weights file ({reason}); it may be cut, or hold more than "
            "tensors; fetch it again"
        ) from None


def _tensors_of(path: Path, content: dict[Any, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors among the entries of a dictionary.

    Raises:
        CheckpointError: there is none.
    """
    tensors = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, torch.Tensor) and name not in NOT_WEIGHTS
    }
    if not tensors:
        names = list(map(str, content))
        listed = ", ".join(names[:LISTED_NAMES]) + (", …" if names[LISTED_NAMES:] else "")
        raise CheckpointError(
            f"{path}: holds no named tensors (its keys: {listed[:200]}); save the model's "
            "state_dict alone"
        )
    return tensors


def _shards_of(path: Path) -> list[Path]:
    """Return the files that a list of shards names, which lie beside it.

    Raises:
        CheckpointError: the list is none, or one of the files is missing.
    """
    named = read_json(path.parent, path.name).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(f"{path}: no weight_map that names files; fetch it again")

    shards = []
    for name in sorted(set(named.values())):
        shard = file_of(path.parent, name) if Path(name).name == name else None
        if shard is None or shard.suffix not in WEIGHTS_SUFFIXES:
            raise CheckpointError(
                f"{path}: names {name[:200]}, which does not lie beside it; is the download "
                "complete?"
            )
        shards.append(shard)
    return shards


def _read_shards(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for shard in _shards_of(path):
        tensors |= _read_file(shard)

    missing = sorted(read_json(path.parent, path.name)["weight_map"].keys() - tensors.keys())
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} tensors are in none of its files "
            f"({', '.join(missing[:LISTED_NAMES])}); fetch them again"
        )
    return tensors


def _without_prefixes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut what wrappers put before most names; a name without it stays, to be known or not."""
    cut = True
    while cut:
        cut = False
        for prefix in PREFIXES:
            renamed = {name.removeprefix(prefix): value for name, value in tensors.items()}
            behind = sum(name.startswith(prefix) for name in tensors)
            if behind > len(tensors) / 2 and len(renamed) == len(tensors):
                tensors, cut = renamed, True
    return tensors


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
        content = _load_dictionary(path, zipfile.is_zipfile(path))
        return list(_without_prefixes(_tensors_of(path, content)))
    except (*UNREADABLE, CheckpointError):
        return []


def _load_dictionary(path: Path, can_map: bool) -> dict[Any, Any]:
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)
    for _ in range(MAX_WRAPPERS):
        names = (name for name in WRAPPERS if isinstance(content, dict))
        content = next((content[n] for n in names if isinstance(content.get(n), dict)), content)
    if not isinstance(content, dict) or not content:
        raise TypeError("no dictionary of tensors")
    return content


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
