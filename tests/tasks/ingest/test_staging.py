import os
import shutil
from pathlib import Path

import pytest

from model.errors import CheckpointError, DataError
from tasks.data.dvc import hash_folder
from tasks.data.version import untracked_version
from tasks.ingest.staging import Drop, copy_file, stage_drop, staged_version
from tasks.runtime.records import DataVersion
from tests.golden import jpeg
from tests.tiny import names


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("tasks.data.dvc.cache_folder", lambda cwd: tmp_path / "cache")
    return tmp_path / "state"


@pytest.fixture
def drop(miniature: Path, tmp_path: Path) -> Path:
    """A folder of new TSVs with their side tables, as a supplier would send it."""
    folder = Path(shutil.copytree(miniature / "finetune", tmp_path / "drop"))
    for split in ("train", "valid", "test"):
        tsv = folder / f"{split}.tsv"
        tsv.write_bytes(tsv.read_bytes().replace(b"\t", b" again\t"))
    return folder


@pytest.fixture
def current(miniature: Path) -> DataVersion:
    return untracked_version(miniature)


def test_a_drop_is_staged_in_the_layout_of_the_project_with_its_side_tables(drop: Path) -> None:
    given = {split: drop / f"{split}.tsv" for split in ("train", "valid", "test")}
    staged = stage_drop(Drop(name="autumn", **given, pretrain=(drop / "train.tsv",)), None)
    assert names(staged.folder / "finetune") == [
        "test.products.csv", "test.tsv", "train.products.csv", "train.tsv",
        "valid.products.csv", "valid.tsv",
    ]  # fmt: skip
    assert names(staged.folder / "pretrain") == ["train.products.csv", "train.tsv"]
    for path in (staged.folder / "finetune").iterdir():
        assert path.read_bytes() == (drop / path.name).read_bytes()
    assert staged.file_md5 == hash_folder(staged.folder)


def test_splits_that_are_not_given_are_taken_over_byte_for_byte(
    drop: Path, current: DataVersion
) -> None:
    staged = stage_drop(Drop(name="autumn", test=drop / "test.tsv"), current)
    assert staged.file_md5 == hash_folder(staged.folder)
    changed = {path for path, md5 in staged.file_md5.items() if current.file_md5.get(path) != md5}
    assert changed == {"finetune/test.tsv"}
    assert set(staged.taken_over) == set(current.file_md5) - {
        "finetune/test.tsv",
        "finetune/test.products.csv",
    }


def test_a_side_table_goes_with_its_tsv(drop: Path, current: DataVersion) -> None:
    (drop / "test.products.csv").unlink()
    staged = stage_drop(Drop(name="autumn", test=drop / "test.tsv"), current)
    assert "finetune/test.products.csv" not in staged.file_md5
    assert "finetune/train.products.csv" in staged.file_md5


def test_given_pretraining_files_replace_all_of_the_current_ones(
    drop: Path, current: DataVersion
) -> None:
    staged = stage_drop(Drop(name="autumn", pretrain=(drop / "valid.tsv",)), current)
    assert names(staged.folder / "pretrain") == ["valid.products.csv", "valid.tsv"]


def test_a_flat_current_version_is_taken_over_into_the_layout(drop: Path, miniature: Path) -> None:
    staged = stage_drop(
        Drop(name="autumn", test=drop / "test.tsv"), untracked_version(miniature / "finetune")
    )
    assert names(staged.folder) == ["finetune"]
    assert staged.file_md5 == hash_folder(staged.folder)


def test_the_same_drop_gives_the_same_version_whatever_its_name(
    drop: Path, current: DataVersion
) -> None:
    versions = {
        staged_version(stage_drop(Drop(name=name, test=drop / "test.tsv"), current)).version
        for name in ("one", "two")
    }
    assert len(versions) == 1


def test_what_a_killed_ingest_staged_is_not_mixed_in(
    drop: Path, current: DataVersion, state: Path
) -> None:
    leftover = state / "ingest" / "autumn" / "finetune" / "leftover.tsv"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    assert (
        "finetune/leftover.tsv"
        not in stage_drop(Drop(name="autumn", test=drop / "test.tsv"), current).file_md5
    )
    assert not leftover.exists()


def test_a_first_version_needs_train_and_test(drop: Path) -> None:
    with pytest.raises(DataError, match=r"test: not in the drop, and .*; give --test"):
        stage_drop(Drop(name="autumn", train=drop / "train.tsv"), None)


def test_a_link_that_leads_out_of_its_folder_is_refused(
    drop: Path, current: DataVersion, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.tsv"
    secret.write_bytes(b"token\n")
    (drop / "test.products.csv").unlink()
    (drop / "test.products.csv").symlink_to(secret)
    with pytest.raises(
        DataError, match=r"test\.products\.csv: a link to .*secret\.tsv, outside its folder"
    ):
        stage_drop(Drop(name="autumn", test=drop / "test.tsv"), current)


def test_a_link_inside_its_folder_is_followed(drop: Path, current: DataVersion) -> None:
    (drop / "newest.tsv").symlink_to("test.tsv")
    staged = stage_drop(Drop(name="autumn", test=drop / "newest.tsv"), current)
    copied = staged.folder / "finetune" / "test.tsv"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (drop / "test.tsv").read_bytes()


@pytest.mark.parametrize("kind", ["folder", "fifo", "missing", "empty"])
def test_what_is_no_file_of_pairs_is_named(drop: Path, current: DataVersion, kind: str) -> None:
    path = drop / "odd.tsv"
    {
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "missing": lambda: None,
        "empty": lambda: path.write_bytes(b""),
    }[kind]()
    with pytest.raises(DataError, match=r"odd\.tsv: "):
        stage_drop(Drop(name="autumn", test=path), current)


@pytest.mark.parametrize("name", ["../up", "Upper", "a/b", "", "x" * 65, "name\n", "nul\0"])
def test_a_name_that_could_leave_the_staging_folder_is_refused(
    drop: Path, current: DataVersion, state: Path, name: str
) -> None:
    with pytest.raises(DataError, match=r"--name: .* cannot be a name"):
        stage_drop(Drop(name=name, test=drop / "test.tsv"), current)
    assert not state.exists()


def test_two_pretraining_files_of_one_name_are_refused(
    drop: Path, current: DataVersion, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(drop, tmp_path / "other"))
    with pytest.raises(DataError, match="a second pretraining file named train"):
        stage_drop(Drop(name="autumn", pretrain=(drop / "train.tsv", other / "train.tsv")), current)


def test_a_full_disk_is_told_before_anything_is_copied(
    drop: Path, current: DataVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("tasks.ingest.staging.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(CheckpointError, match=r"0 MB free, but the copy .* need \d+ MB"):
        stage_drop(Drop(name="autumn", test=drop / "test.tsv"), current)


def test_a_source_that_grows_under_the_copy_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "train.tsv"
    source.write_bytes(jpeg() * 10)

    def grow(done: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(DataError, match=r"train\.tsv: changed while it was copied"):
        copy_file(source, tmp_path / "copy.tsv", grow)
