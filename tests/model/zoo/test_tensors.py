"""Weights files by the libraries: every known type is read, mapped and written alike."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from model.zoo.tensors import FLOATS, INTEGERS, read_tensors, write_tensors
from tests.published import contiguous


def test_what_is_written_is_what_the_library_writes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5, generator=generator),
        "a": torch.arange(4),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "transposed": torch.randn(4, 6, generator=generator).T,
        "flags": torch.tensor([True, False, True]),
    }
    write_tensors(tensors, tmp_path / "ours.safetensors")
    save_file(contiguous(tensors), tmp_path / "theirs.safetensors")
    ours, theirs = (tmp_path / f"{whose}.safetensors" for whose in ("ours", "theirs"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_tensors_that_share_their_memory_are_written_each(tmp_path: Path) -> None:
    values = torch.arange(12.0)
    tensors = {"whole": values, "tied": values, "part": values[3:6], "scalar": values[0]}
    write_tensors(tensors, tmp_path / "ours.safetensors")
    found = load_file(tmp_path / "ours.safetensors")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_every_type_of_numbers_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"theirs.{suffix}"
    tensors = {
        str(dtype): torch.arange(12).reshape(3, 4).to(dtype) for dtype in (*FLOATS, *INTEGERS)
    } | {"empty": torch.empty(0, 3), "scalar": torch.tensor(2.5)}
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    found = read_tensors(path)
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == tensors[name].dtype for name in tensors)
    assert all(torch.equal(found[name].double(), tensors[name].double()) for name in tensors)


def test_a_header_without_padding_is_read_as_well(tmp_path: Path) -> None:
    path, values = tmp_path / "theirs.safetensors", torch.arange(1000, dtype=torch.float32)
    header = json.dumps(
        {"values": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}
    ).encode()
    # An odd length, so that no number lies at a multiple of its size.
    header += b" " * (1 - len(header) % 2)
    path.write_bytes(len(header).to_bytes(8, "little") + header + values.numpy().tobytes())
    assert torch.equal(read_tensors(path)["values"], values)
    write_tensors(read_tensors(path), tmp_path / "ours.safetensors")
    assert torch.equal(load_file(tmp_path / "ours.safetensors")["values"], values)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_numbers_of_an_unknown_type_are_refused(tmp_path: Path, suffix: str) -> None:
    path, tensors = tmp_path / f"theirs.{suffix}", {"values": torch.zeros(4, dtype=torch.complex64)}
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=r"it has tensors of torch\.complex64"):
        read_tensors(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"values": torch.eye(4).to_sparse()}, tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match="it has sparse tensors"):
        read_tensors(tmp_path / "theirs.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_are_mapped_and_not_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"theirs.{suffix}"
    tensors = {name: torch.ones(1 << 20) for name in "abcd"}
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    mapped = read_tensors(path)
    assert resident_bytes(path) < tensors["a"].nbytes
    assert mapped.keys() == tensors.keys()


def resident_bytes(file: Path) -> int:
    """Return how much of a mapped file this process has in memory (Linux only)."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith(str(file)))
    return next(int(line.split()[1]) * 1024 for line in lines[start:] if line.startswith("Rss:"))
