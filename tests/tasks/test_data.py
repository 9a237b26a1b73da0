import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.config import RunConfig
from model.errors import DataError, ServiceError
from tasks import data as module
from tasks.data import hash_folder, materialise_data, version_of
from tasks.environment import settings


def dvc(project: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, check=True, capture_output=True)


@pytest.fixture(scope="module")
def tracked_project(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Path:
    """A project folder whose data/ is tracked by a real DVC with a remote in a folder."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(miniature, project / "data")
    dvc(project, "init", "--no-scm")
    dvc(project, "remote", "add", "--default", "folder", "remote")
    dvc(project, "add", "data")
    dvc(project, "push")
    return project


@pytest.fixture
def project(tracked_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone: data.dvc and the remote, no data and no cache."""
    clone = tmp_path / "clone"
    shutil.copytree(tracked_project, clone, ignore=shutil.ignore_patterns("data", "cache", "tmp"))
    for name, value in settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "ROOT", clone)
    return clone


CONFIG = RunConfig(name="any")


def test_a_fresh_clone_pulls_its_data_and_names_it_as_dvc_does(project: Path) -> None:
    version = materialise_data.fn(CONFIG)
    assert f"md5: {version.version}.dir" in (project / "data.dvc").read_text()
    assert version.file_md5 == hash_folder(project / "data")


def test_an_untracked_folder_gets_the_hash_that_dvc_would_give_it(project: Path, miniature: Path) -> None:
    tracked = materialise_data.fn(CONFIG)
    config = CONFIG.model_validate({"name": "any", "data": {"path": str(miniature)}})
    untracked = materialise_data.fn(config)
    assert (untracked.version, untracked.is_tracked) == (tracked.version, False)


def test_a_file_that_went_missing_is_pulled_again(project: Path) -> None:
    version = materialise_data.fn(CONFIG)
    (project / "data" / "finetune" / "test.tsv").unlink()
    assert materialise_data.fn(CONFIG) == version


def test_a_file_that_a_person_changed_is_named_and_left_alone(project: Path) -> None:
    materialise_data.fn(CONFIG)
    changed = project / "data" / "finetune" / "test.tsv"
    changed.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"differs from the data version in data\.dvc \(finetune/test\.tsv\)"):
        materialise_data.fn(CONFIG)
    assert changed.read_bytes() == b"mine"


def test_without_data_dvc_there_is_no_data_version(project: Path) -> None:
    (project / "data.dvc").unlink()
    with pytest.raises(DataError, match=r"data\.dvc: not there"):
        materialise_data.fn(CONFIG)


def test_a_remote_that_is_gone_names_the_command_to_check(project: Path) -> None:
    shutil.rmtree(project / "remote")
    with pytest.raises(DataError, match="`dvc remote list`"):
        materialise_data.fn(CONFIG)
    assert not (project / "data" / "finetune" / "test.tsv").exists()


def test_a_network_remote_that_does_not_answer_may_be_retried(project: Path) -> None:
    shutil.rmtree(project / "remote")
    dvc(project, "remote", "add", "--default", "web", "http://127.0.0.1:9/none")
    with pytest.raises(ServiceError, match="dvc pull"):
        materialise_data.fn(CONFIG)


def flip_a_bit(folder: Path) -> None:
    stored = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    stored.chmod(0o644)
    damaged = bytearray(stored.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    stored.write_bytes(damaged)


def test_a_flipped_bit_in_the_remote_never_reaches_training(project: Path) -> None:
    flip_a_bit(project / "remote")
    with pytest.raises(DataError, match="dvc"):
        materialise_data.fn(CONFIG)


def test_a_flipped_bit_in_the_cache_is_refused_or_healed(project: Path) -> None:
    version = materialise_data.fn(CONFIG)
    shutil.rmtree(project / "data")
    flip_a_bit(project / ".dvc" / "cache")
    try:
        assert materialise_data.fn(CONFIG) == version
    except DataError as error:
        assert "damaged" in str(error)


@pytest.mark.parametrize("text", ["", "outs: []", "outs: [{md5: abc, path: data}]", "a: [b", "- 1"])
def test_an_edited_data_dvc_gets_a_sentence(project: Path, text: str) -> None:
    (project / "data.dvc").write_text(text)
    with pytest.raises(DataError, match=r"data\.dvc"):
        materialise_data.fn(CONFIG)


def test_a_folder_that_is_not_there_is_named(project: Path) -> None:
    config = CONFIG.model_validate({"name": "any", "data": {"path": "nowhere"}})
    with pytest.raises(DataError, match="nowhere: no such folder"):
        materialise_data.fn(config)


def test_the_version_depends_on_names_and_bytes_alone() -> None:
    assert version_of({"b": "2", "a": "1"}) == version_of({"a": "1", "b": "2"})
    assert version_of({"a": "1"}) != version_of({"b": "1"})
