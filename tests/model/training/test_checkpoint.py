"""A checkpoint is whole or it is passed over; the one before it is always still there."""

import hashlib
import json
import logging
import os
import pickle
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from model.errors import CheckpointError
from model.storage.sealed import MANIFEST, fault_point, require_space, sealed_folder, verify_sealed
from model.towers.towers import NamedTensors
from model.training.checkpoint import load_latest, save_checkpoint
from tests.tiny import names

FLIPS = 200
CUTS = 50


def tensors(seed: int) -> dict[str, NamedTensors]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weights": {
            "a.b": torch.randn(7, 5, generator=generator),
            "scale": torch.randn((), generator=generator),
        },
        "optimizer": {
            "0.step": torch.tensor(float(seed)),
            "half": torch.randn(3, generator=generator).bfloat16(),
            "count": torch.arange(4),
            "empty": torch.zeros(2, 0),
            "strided": torch.randn(4, 6, generator=generator).T,
        },
    }


def state(step: int) -> dict[str, object]:
    return {"step": step, "best": 0.1 + step / 3, "history": [{"mean_recall": 1 / 3}], "name": "é"}


def save(root: Path, step: int) -> Path:
    return save_checkpoint(root, step, tensors(step), state(step))


def assert_is(root: Path, step: int) -> None:
    checkpoint = load_latest(root)
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state) == (step, state(step))
    expected = tensors(step)
    assert set(checkpoint.tensors) == set(expected)
    for group, named in expected.items():
        assert set(checkpoint.tensors[group]) == set(named)
        for name, value in named.items():
            read = checkpoint.tensors[group][name]
            assert read.dtype == value.dtype and torch.equal(read, value)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let no file grow over a size, which the kernel reports as it reports a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_saved_is_read_back_to_the_bit(tmp_path: Path) -> None:
    folder = save(tmp_path / "new" / "checkpoints", 7)
    assert folder.name == "step-000000007"
    assert_is(tmp_path / "new" / "checkpoints", 7)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nowhere") is None
    assert load_latest(tmp_path) is None


def test_the_two_newest_are_kept_and_found_by_step_whatever_the_clock_says(tmp_path: Path) -> None:
    for step in (9, 10, 100, 1000):
        os.utime(save(tmp_path, step), (10_000 - step, 10_000 - step))
    assert names(tmp_path) == ["step-000000100", "step-000001000"]
    assert_is(tmp_path, 1000)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save_checkpoint(tmp_path, 5, tensors(6), state(6))
    checkpoint = load_latest(tmp_path)
    assert checkpoint is not None and checkpoint.step == 5 and checkpoint.state == state(6)
    assert names(tmp_path) == ["step-000000005"]


class Damage(NamedTuple):
    """Two checkpoints, the newer of which is about to be damaged."""

    root: Path
    newest: Path
    files: list[Path]


@pytest.fixture
def two(tmp_path: Path) -> Damage:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    return Damage(tmp_path, newest, sorted(newest.iterdir()))


@pytest.mark.faults(kind="D3: checkpoint", trials=FLIPS)
def test_every_flipped_bit_is_found_and_the_checkpoint_before_is_used(
    two: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(0)
    for _ in range(FLIPS):
        file = rng.choice(two.files)
        whole = file.read_bytes()
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        caplog.clear()
        found = load_latest(two.root)
        file.write_bytes(whole)
        assert found is not None and found.step == 1, f"{file.name}: bit {bit} of byte {place}"
        assert (
            two.newest.name in caplog.text
            and "going on from the checkpoint before it" in caplog.text
        )
    assert_is(two.root, 2)


def test_a_flipped_digit_of_a_size_in_the_manifest_is_found_too(two: Damage) -> None:
    manifest = two.newest / MANIFEST
    size = f'"bytes": {(two.newest / "state.json").stat().st_size}'
    flipped = size[:-1] + str(int(size[-1]) ^ 1)
    manifest.write_text(manifest.read_text().replace(size, flipped))
    found = load_latest(two.root)
    assert found is not None and found.step == 1


@pytest.mark.faults(kind="D4: checkpoint", trials=CUTS)
def test_every_cut_is_found_and_the_checkpoint_before_is_used(two: Damage) -> None:
    rng = random.Random(1)
    for trial in range(CUTS):
        file = rng.choice(two.files)
        whole = file.read_bytes()
        file.write_bytes(whole[: 0 if trial < 5 else rng.randrange(len(whole))])
        found = load_latest(two.root)
        file.write_bytes(whole)
        assert found is not None and found.step == 1, file.name
    assert_is(two.root, 2)


@pytest.mark.faults(kind="D4: checkpoint", trials=4)
def test_a_missing_file_is_found_and_the_checkpoint_before_is_used(two: Damage) -> None:
    for file in two.files:
        aside = file.rename(two.root / "aside")
        found = load_latest(two.root)
        aside.rename(file)
        assert found is not None and found.step == 1, file.name
    assert_is(two.root, 2)


def test_a_disk_that_cannot_be_read_makes_a_checkpoint_damaged(
    two: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.storage import sealed

    def failing(path: Path) -> str:
        if path.parent == two.newest:
            raise OSError(5, "Input/output error")
        return whole(path)

    whole = sealed.file_digest
    monkeypatch.setattr(sealed, "file_digest", failing)
    found = load_latest(two.root)
    assert found is not None and found.step == 1


def test_damage_everywhere_means_no_checkpoint(two: Damage) -> None:
    for manifest in two.root.glob(f"*/{MANIFEST}"):
        manifest.unlink()
    assert load_latest(two.root) is None


@pytest.mark.faults(kind="D4: checkpoint", trials=8)
def test_foreign_files_and_folders_are_ignored_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "step-000000999.tmp",
        "step-12",
        "best-000000999",
        "step-000000999x",
        "lost+found",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000000998").write_text("a file")
    (tmp_path / ".DS_Store").touch()
    folder = save(tmp_path, 3)
    (folder / "notes.txt").write_text("added by hand")
    before = names(tmp_path)
    assert_is(tmp_path, 3)
    assert not caplog.records
    assert names(tmp_path) == before


def test_a_sealed_folder_that_is_no_checkpoint_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 3)
    with sealed_folder(tmp_path / "step-000000004") as folder:
        (folder / "a.txt").write_text("a")
    with caplog.at_level(logging.WARNING):
        assert_is(tmp_path, 3)
    assert "is no checkpoint" in caplog.text


def test_verifying_names_what_is_wrong_and_what_to_do(two: Damage) -> None:
    (two.newest / "weights.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError,
        match=r"weights\.safetensors: missing or damaged \(SHA-256 differs\); remove",
    ):
        verify_sealed(two.newest)
    (two.newest / MANIFEST).write_text(json.dumps(["no mapping"]))
    with pytest.raises(
        CheckpointError, match=r"no readable manifest\.json, so it is incomplete; remove it"
    ):
        verify_sealed(two.newest)


@pytest.mark.faults(kind="D1: checkpoint", trials=1)
@pytest.mark.parametrize(("limit", "long_state"), [(0, 0), (100, 0), (350, 0), (2000, 5000)])
def test_a_full_disk_is_a_sentence_and_the_older_checkpoint_stays(
    tmp_path: Path, limit: int, long_state: int
) -> None:
    save(tmp_path, 1)
    with pytest.raises(CheckpointError) as caught, file_size_limit(limit):
        save_checkpoint(tmp_path, 2, tensors(2), state(2) | {"long": "x" * long_state})
    assert str(caught.value).startswith(f"{tmp_path / 'step-000000002'}: disk full (")
    assert names(tmp_path) == ["step-000000001"]
    assert_is(tmp_path, 1)
    save(tmp_path, 2)
    assert_is(tmp_path, 2)


@pytest.mark.faults(kind="D2: checkpoints", trials=1)
def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        CheckpointError, match=r"step-000000001: cannot be written \(.*\); check .*file"
    ):
        save(tmp_path / "file", 1)


def test_what_a_killed_run_left_half_written_does_not_stand_in_the_way(tmp_path: Path) -> None:
    half = tmp_path / "step-000000002.tmp"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-000000002"]
    assert_is(tmp_path, 2)


def test_missing_space_is_a_sentence_with_what_is_free_and_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    require_space(tmp_path / "not" / "yet", 5_000_000)
    with pytest.raises(CheckpointError) as caught:
        require_space(tmp_path / "not" / "yet", 1_234_000_000)
    assert (
        str(caught.value)
        == f"{tmp_path}: 5 MB free, but checkpoints need 1,234 MB; free some space and run again"
    )


def test_fault_points_do_nothing_unless_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    monkeypatch.delenv("FAULT", raising=False)
    fault_point("save:mid_write")
    monkeypatch.setenv("FAULT", "save:purge")
    fault_point("save:mid_write")
    assert killed == []
    fault_point("save:purge")
    assert killed == [(os.getpid(), 9)]


class Poison:
    """Unpickles by making a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.faults(kind="X1: checkpoint", trials=1)
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
def test_code_in_a_checkpoint_never_runs_even_where_the_manifest_was_forged(
    two: Damage, caplog: pytest.LogCaptureFixture, name: str, kind: str
) -> None:
    canary, path = two.root / "canary", two.newest / name
    poison = pickle.dumps(Poison(canary))
    pickle.loads(poison)
    assert canary.is_dir(), "the poison works where it is let in"
    canary.rmdir()
    if kind == "pickle":
        path.write_bytes(poison)
    else:
        torch.save(Poison(canary), path)
    manifest = json.loads((two.newest / MANIFEST).read_text())
    manifest[name] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
    }
    (two.newest / MANIFEST).write_text(json.dumps(manifest))
    found = load_latest(two.root)
    assert found is not None and found.step == 1
    assert "holds something else than tensors and JSON" in caplog.text
    assert not canary.exists()
