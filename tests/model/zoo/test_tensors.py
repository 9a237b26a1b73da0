"""Weights files by the libraries: every known type is read, mapped and written alike."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import CheckpointError
from model.storage.files import file_digest
from model.zoo.forms.huggingface import read_weights
from model.zoo.tensors import (
    FLOATS,
    INTEGERS,
    peek_names,
    read_tensors,
    weights_digest,
    write_tensors,
)
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


# --- checkpoints as training code saves them ---


WEIGHTS = {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(2.5)}
LIGHTNING = {
    "epoch": 3,
    "global_step": 70,
    "pytorch-lightning_version": "2.5.0",
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
    "lr_schedulers": [],
    "hyper_parameters": {"lr": 1e-4, "betas": (0.9, 0.98)},
}


def behind(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.model."]
)
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model_state_dict", "model", "module"])
def test_weights_beside_other_things_and_behind_prefixes_are_the_weights(
    tmp_path: Path, wrapper: str, prefix: str
) -> None:
    path = tmp_path / "last.ckpt"
    content = LIGHTNING | {wrapper: behind(prefix)} if wrapper else behind(prefix)
    torch.save(content, path)
    found = read_tensors(path)
    assert found.keys() == WEIGHTS.keys() == set(peek_names(path))
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_what_is_not_behind_the_prefix_keeps_its_name(tmp_path: Path) -> None:
    content = behind("model.") | {"teacher.proj": torch.ones(2)}
    torch.save({"state_dict": content}, tmp_path / "last.ckpt")
    assert read_tensors(tmp_path / "last.ckpt").keys() == {*WEIGHTS, "teacher.proj"}
    torch.save(behind("model.") | {"logit_scale": torch.ones(2)}, tmp_path / "last.ckpt")
    assert "model.logit_scale" in read_tensors(tmp_path / "last.ckpt"), "two of one name"


def test_a_checkpoint_of_classes_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    torch.save(LIGHTNING | {"state_dict": WEIGHTS, "path": Path("x")}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"more than tensors \(pathlib\.\w+\), which loading"):
        read_tensors(tmp_path / "last.ckpt")


def test_a_checkpoint_without_weights_names_what_it_holds(tmp_path: Path) -> None:
    torch.save(LIGHTNING, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"no named tensors \(its keys: epoch, "):
        read_tensors(tmp_path / "last.ckpt")
    loop: dict[str, object] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="no named tensors"):
        read_tensors(tmp_path / "last.ckpt")


def write_shards(folder: Path, suffix: str = "safetensors") -> Path:
    """Write a tensor a shard, and their list."""
    names = {name: f"model-{place}.{suffix}" for place, name in enumerate(WEIGHTS, 1)}
    for name, file in names.items():
        tensors = {f"module.{name}": WEIGHTS[name]}
        save = save_file if suffix == "safetensors" else torch.save
        save(tensors, folder / file)  # type: ignore[operator]
    path = folder / f"model.{suffix}.index.json"
    weight_map = {f"module.{name}": file for name, file in names.items()}
    path.write_text(json.dumps({"metadata": {"total_size": 28}, "weight_map": weight_map}))
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_the_shards_of_a_list_are_one_model_and_have_one_digest(
    tmp_path: Path, suffix: str
) -> None:
    path = write_shards(tmp_path, suffix)
    weights, found = (
        read_weights(tmp_path) if suffix == "safetensors" else (path, read_tensors(path))
    )
    assert weights == path and found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)
    digest, shard = weights_digest(path), tmp_path / f"model-2.{suffix}"
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1
    shard.write_bytes(damaged)
    assert weights_digest(path) != digest and weights_digest(shard) == file_digest(shard)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"module.logit_scale": "model-3.safetensors"}, "names model-3.safetensors, which does"),
        ({"module.logit_scale": "../model-2.safetensors"}, "names ../model-2.safetensors, which"),
        ({"module.logit_scale": 7}, "no weight_map that names files"),
        ({"module.text": "model-2.safetensors"}, r"1 tensors are in none of .* \(module.text\)"),
    ],
)
def test_a_list_of_shards_that_is_not_whole_is_refused(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    path = write_shards(tmp_path)
    content = json.loads(path.read_text())
    content["weight_map"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=sentence):
        read_tensors(path)
