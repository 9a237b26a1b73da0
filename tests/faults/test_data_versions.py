"""Whatever happens to DVC's bytes, no run begins on other pairs than the promised ones; each fault
has its sentence."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import DataError
from model.storage.files import file_digest
from tasks.data.dvc import TrackedFolder, hash_folder, version_of
from tasks.data.version import materialise
from tasks.runtime.records import DataVersion
from tests.gears import first_of
from tests.projects import (
    clone_project,
    dvc,
    flip_a_bit,
    forget,
    git,
    object_of,
    objects,
    overwrite,
    use,
)

pytestmark = [pytest.mark.faults(kind="S13"), pytest.mark.timeout(600)]

TRIALS = first_of(range(3))


def promised(project: Path) -> str:
    return TrackedFolder(project / "data").promised()


def store(project: Path) -> Path:
    return project / ".dvc" / "cache"


def remote(project: Path) -> Path:
    return project.parent / "remote"


def refused(project: Path) -> str:
    """Try to begin a run and return the sentence that refuses it."""
    with pytest.raises(DataError) as error:
        materialise(project / "data")
    return str(error.value)


def assert_whole(project: Path) -> DataVersion:
    data = materialise(project / "data")
    assert data.version == promised(project) == version_of(hash_folder(project / "data"))
    return data


def assert_nothing_wrong_stays(project: Path, intact: dict[str, str]) -> None:
    """Check that what lies in ``data/`` is a part of what belongs there."""
    found = hash_folder(project / "data") if (project / "data").is_dir() else {}
    assert found.items() <= intact.items()


def truncate(path: Path) -> None:
    overwrite(path, path.read_bytes()[: path.stat().st_size // 3])


@pytest.mark.parametrize("trial", TRIALS)
@pytest.mark.parametrize("damage", first_of([flip_a_bit, truncate]))
def test_damaged_bytes_in_the_remote_never_reach_a_run(
    project: Path, damage: Callable[[Path], None], trial: int
) -> None:
    intact, damaged = hash_folder(project / "data"), objects(remote(project))[trial]
    whole = damaged.read_bytes()
    forget(project)
    damage(damaged)
    sentence = refused(project)
    assert f"holds damaged bytes for {name_of(intact, damaged)}" in sentence
    listing = object_of(remote(project), f"{promised(project)}.dir")
    told = [path.relative_to(remote(project)).as_posix() for path in (damaged, listing)]
    assert f"delete there {', '.join(told)}, then type `dvc push`" in sentence
    assert_nothing_wrong_stays(project, intact)
    overwrite(damaged, whole)
    assert_whole(project)


def name_of(intact: dict[str, str], stored: Path) -> str:
    return next(path for path, md5 in intact.items() if md5 == stored.parent.name + stored.name)


@pytest.mark.parametrize("trial", TRIALS)
def test_an_object_that_the_remote_lacks_is_named_and_comes_back_by_a_push(
    project: Path, tmp_path: Path, trial: int
) -> None:
    intact, missing = hash_folder(project / "data"), objects(remote(project))[trial]
    missing.unlink()
    shutil.copytree(store(project), tmp_path / "kept")
    forget(project)
    sentence = refused(project)
    assert (
        "`dvc pull` failed" in sentence
        and name_of(intact, missing) in sentence
        and "`dvc push`" in sentence
    )
    assert_nothing_wrong_stays(project, intact)
    listing = object_of(remote(project), f"{promised(project)}.dir")
    assert f"delete there {listing.relative_to(remote(project))}, then type `dvc push`" in sentence
    listing.unlink()
    shutil.rmtree(store(project), ignore_errors=True)
    shutil.copytree(tmp_path / "kept", store(project))
    TrackedFolder(project / "data").push()
    forget(project)
    assert_whole(project)


@pytest.mark.parametrize("trial", TRIALS)
def test_a_bit_that_flipped_in_the_cache_is_healed_from_the_remote(
    project: Path, trial: int
) -> None:
    shutil.rmtree(project / "data")
    flip_a_bit(objects(store(project))[trial])
    assert_whole(project)


@pytest.mark.parametrize("trial", TRIALS)
def test_a_bit_that_flipped_in_the_cache_stops_the_run_when_the_remote_lacks_it(
    project: Path, trial: int
) -> None:
    intact = hash_folder(project / "data")
    shutil.rmtree(project / "data")
    damaged = objects(store(project))[trial]
    flip_a_bit(damaged)
    (remote(project) / damaged.relative_to(store(project))).unlink()
    assert name_of(intact, damaged) in refused(project)
    assert_nothing_wrong_stays(project, intact)


def kill_when(process: "subprocess.Popen[bytes]", has_begun: Callable[[], bool]) -> bool:
    """Kill a process once it has begun; return whether it was still at work."""
    while process.poll() is None and not has_begun():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def start_dvc(project: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def large_original(tracked_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pushed version large enough that a transfer takes long enough to be killed in its
    middle."""
    project = clone_project(tracked_project, tmp_path_factory.mktemp("large"))
    rng = random.Random(1)
    for number in range(40):
        (project / "data" / "pretrain" / f"filler-{number}.products.csv").write_bytes(
            rng.randbytes(1_000_000)
        )
    dvc(project, "add", "data")
    dvc(project, "push")
    return project


@pytest.fixture
def large(large_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = clone_project(large_original, tmp_path)
    use(project, tmp_path / "state", monkeypatch)
    return project


@pytest.mark.parametrize("trial", TRIALS)
def test_a_push_that_was_killed_is_completed_by_the_next(large: Path, trial: int) -> None:
    whole = {
        object_of(remote(large), md5)
        for md5 in [*hash_folder(large / "data").values(), f"{promised(large)}.dir"]
    }
    shutil.rmtree(remote(large))
    wanted = (2, 20, 40)[trial]
    assert kill_when(start_dvc(large, "push"), lambda: len(objects(remote(large))) > wanted)
    TrackedFolder(large / "data").push()
    assert set(objects(remote(large))) == whole
    for path in objects(remote(large)):
        assert file_digest(path, "md5") == (path.parent.name + path.name).removesuffix(".dir")


@pytest.mark.parametrize("trial", TRIALS)
def test_a_pull_that_was_killed_is_completed_by_the_next(large: Path, trial: int) -> None:
    forget(large)
    watched, wanted = ((store(large), 3), (store(large), 40), (large / "data", 10))[trial]
    assert kill_when(
        start_dvc(large, "pull"),
        lambda: sum(path.is_file() for path in watched.rglob("*")) > wanted,
    )
    assert_whole(large)


def flip_version(text: str) -> str:
    at = text.index("md5: ") + len("md5: ")
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


EDITS: dict[str, Callable[[str], str]] = {
    "another version": flip_version,
    "cut": lambda text: text[: len(text) // 3],
    "merge conflict": lambda text: f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n",
}


@pytest.mark.parametrize("edit", first_of(list(EDITS)))
def test_an_edited_data_dvc_stops_the_run_and_leaves_the_pairs_alone(
    project: Path, edit: str
) -> None:
    intact, tracked = hash_folder(project / "data"), project / "data.dvc"
    text = tracked.read_text()
    tracked.write_text(EDITS[edit](text))
    assert "data.dvc" in refused(project)
    assert hash_folder(project / "data") == intact
    git(project, "checkout", "data.dvc")
    assert_whole(project)


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more\n")


def add_beside(path: Path) -> None:
    path.with_name("mine.tsv").write_bytes(b"mine\n")


@pytest.mark.parametrize("dirty", first_of([change, add_beside, flip_a_bit]))
def test_a_changed_work_tree_stops_the_run_and_is_left_alone(
    project: Path, dirty: Callable[[Path], None]
) -> None:
    dirty(project / "data" / "finetune" / "train.tsv")
    changed = hash_folder(project / "data")
    sentence = refused(project)
    assert "differs from the data version in data.dvc (finetune/" in sentence
    assert "`dvc checkout --force data.dvc` goes back" in sentence
    assert hash_folder(project / "data") == changed
