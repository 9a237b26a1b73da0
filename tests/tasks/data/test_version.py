import shutil
from pathlib import Path

import pytest

from model.config.load import RunConfig
from model.errors import DataError, ServiceError
from tasks.data.dvc import TrackedFolder, expected_files, hash_folder, version_of
from tasks.data.version import materialise_data, reading_pairs
from tasks.runtime.locks import DATA, locked, refuse_while_read
from tasks.runtime.records import DataVersion
from tests.projects import dvc, flip_a_bit, forget, object_of

CONFIG = RunConfig(name="any")


def cache(project: Path) -> Path:
    return project / ".dvc" / "cache"


def test_a_fresh_clone_pulls_its_data_and_names_it_as_dvc_does(project: Path) -> None:
    forget(project)
    version = materialise_data.fn(CONFIG)
    assert f"md5: {version.version}.dir" in (project / "data.dvc").read_text()
    assert (
        version.file_md5
        == hash_folder(project / "data")
        == expected_files(cache(project), version.version)
    )


def test_an_untracked_folder_gets_the_hash_that_dvc_would_give_it(
    project: Path, miniature: Path
) -> None:
    config = CONFIG.model_validate({"name": "any", "data": {"path": str(miniature)}})
    untracked = materialise_data.fn(config)
    assert (untracked.version, untracked.is_tracked) == (
        TrackedFolder(project / "data").promised(),
        False,
    )


def test_a_file_that_went_missing_is_pulled_again(project: Path) -> None:
    version = materialise_data.fn(CONFIG)
    (project / "data" / "finetune" / "test.tsv").unlink()
    assert materialise_data.fn(CONFIG) == version


def test_a_file_that_went_missing_is_pulled_again_without_a_cache(project: Path) -> None:
    version = materialise_data.fn(CONFIG)
    (project / "data" / "finetune" / "test.tsv").unlink()
    shutil.rmtree(cache(project))
    assert materialise_data.fn(CONFIG) == version


def test_a_file_that_a_person_changed_is_named_and_left_alone(project: Path) -> None:
    changed = project / "data" / "finetune" / "test.tsv"
    changed.write_bytes(b"mine")
    with pytest.raises(
        DataError, match=r"differs from the data version in data\.dvc \(finetune/test\.tsv\)"
    ):
        materialise_data.fn(CONFIG)
    assert changed.read_bytes() == b"mine"


def test_a_version_that_was_checked_out_in_git_takes_the_place_of_another_that_the_cache_holds(
    project: Path,
) -> None:
    older, recorded = materialise_data.fn(CONFIG), (project / "data.dvc").read_bytes()
    (project / "data" / "finetune" / "test.tsv").write_bytes(b"newer pairs")
    dvc(project, "add", "data")
    newer = materialise_data.fn(CONFIG)
    (project / "data.dvc").write_bytes(recorded)
    assert newer.version != older.version
    assert materialise_data.fn(CONFIG) == older


def test_what_a_killed_pull_left_beside_a_file_is_no_change_of_a_person(project: Path) -> None:
    version = materialise_data.fn(CONFIG)
    leftover = project / "data" / "finetune" / ".AAAAAAAAAAAAAAAAAAAAAA.tmp"
    leftover.write_bytes(b"half a file")
    (project / "data" / "finetune" / "test.tsv").unlink()
    assert materialise_data.fn(CONFIG) == version
    assert not leftover.exists()


def test_without_data_dvc_there_is_no_data_version(project: Path) -> None:
    (project / "data.dvc").unlink()
    with pytest.raises(DataError, match=r"data\.dvc: not there"):
        materialise_data.fn(CONFIG)


def test_a_network_remote_that_does_not_answer_may_be_retried(project: Path) -> None:
    forget(project)
    dvc(project, "remote", "add", "--default", "web", "http://127.0.0.1:9/none")
    with pytest.raises(ServiceError, match="dvc pull"):
        materialise_data.fn(CONFIG)


def test_a_damaged_list_of_files_in_the_cache_is_healed_from_the_remote(project: Path) -> None:
    version = materialise_data.fn(CONFIG)
    flip_a_bit(object_of(cache(project), f"{version.version}.dir"))
    (project / "data" / "finetune" / "test.tsv").unlink()
    assert materialise_data.fn(CONFIG) == version


@pytest.mark.parametrize(
    "text", ["", "outs: []", "outs: [{md5: abc, path: data}]", "a: [b", "- 1", "<<<<<<< HEAD"]
)
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


def test_pairs_that_a_run_reads_are_not_replaced_until_it_ends(project: Path) -> None:
    data = tracked_version(project)
    with (
        reading_pairs(data, "run 1"),
        locked(DATA, "ingest"),
        pytest.raises(DataError, match=r"run 1 .*still reads"),
    ):
        refuse_while_read()
    with locked(DATA, "ingest autumn"):
        refuse_while_read()


def test_a_run_does_not_begin_on_pairs_that_were_replaced_since_it_looked(project: Path) -> None:
    data = tracked_version(project).model_copy(update={"version": "0" * 32})
    with (
        pytest.raises(DataError, match="a new data version came in"),
        reading_pairs(data, "run sample-1"),
    ):
        pass


def test_a_folder_of_ones_own_may_be_read_at_any_time(project: Path, tmp_path: Path) -> None:
    own = DataVersion(folder=tmp_path, version="0" * 32, is_tracked=False, file_md5={})
    with reading_pairs(own, "run mine"), locked(DATA, "ingest autumn"):
        refuse_while_read()


def tracked_version(project: Path) -> DataVersion:
    version = TrackedFolder(project / "data").promised()
    return DataVersion(folder=project / "data", version=version, is_tracked=True, file_md5={})
