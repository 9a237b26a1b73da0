"""`commerce-clip ingest` in a real repository: what a person sees and what is on disk then."""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.__main__ import main
from tasks.data.card import card_in
from tasks.data.dvc import TrackedFolder, hash_folder, version_of
from tasks.runtime.environment import report_folder, state_folder
from tasks.runtime.locks import DATA, INGEST, locked, register_reader, release_reader
from tests.conftest import MINIATURE_SIZES
from tests.golden import jpeg
from tests.projects import dvc, git

pytestmark = pytest.mark.usefixtures("prefect_server")

Command = Callable[..., tuple[int, str, str]]
Events = list[dict[str, Any]]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """The events that were emitted."""
    emitted: Events = []

    def emit(event: str, resource: dict[str, str], payload: dict[str, Any]) -> None:
        emitted.append({"event": event, **resource, **payload})

    monkeypatch.setattr("tasks.ingest.ingest.emit_event", emit)
    return emitted


@pytest.fixture
def ingest(project: Path, events: Events, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `ingest` and return its exit code, what it printed and what it complained about."""

    def run(*options: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["ingest", *map(str, options)])
        output, errors = capfd.readouterr()
        assert "Traceback" not in output + errors
        return code, output, errors

    return run


@pytest.fixture
def drop(miniature: Path, tmp_path: Path) -> Path:
    """Another test split with a side table, one of whose lines has no tab."""
    folder = tmp_path / "drop"
    folder.mkdir()
    lines = (
        (miniature / "finetune" / "test.tsv")
        .read_bytes()
        .replace(b"\t", b" again\t")
        .splitlines(keepends=True)
    )
    (folder / "test.tsv").write_bytes(b"".join([*lines[:-1], b"no picture\n"]))
    shutil.copy(miniature / "finetune" / "test.products.csv", folder)
    return folder


TOLERANT = ("--set", "data.max_fault_share=0.1")


def snapshot(project: Path) -> tuple[str, dict[str, str]]:
    return (project / "data.dvc").read_text(), hash_folder(project / "data")


def refusal(done: tuple[int, str, str]) -> str:
    code, _, errors = done
    assert code == 1
    (sentence,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return sentence


def test_a_drop_becomes_a_version_that_is_judged_pushed_and_announced(
    ingest: Command, project: Path, drop: Path, events: Events
) -> None:
    old = TrackedFolder(project / "data").promised()
    code, output, _ = ingest("--name", "autumn", "--test", drop / "test.tsv", *TOLERANT)
    assert code == 0
    version = TrackedFolder(project / "data").promised()
    assert version == version_of(hash_folder(project / "data")) != old
    assert (project / "data" / "finetune" / "test.tsv").read_bytes() == (
        drop / "test.tsv"
    ).read_bytes()
    card = card_in((project / "data.dvc").read_text())
    assert card is not None
    assert (card.name, card.previous, card.faults) == ("autumn", old, {"no_tab": 1})
    assert card == card.model_validate_json((report_folder(version) / "version.json").read_bytes())
    assert (report_folder(version) / "test.profile.parquet").is_file()
    assert dvc(project, "status", "--cloud", "--json", "data.dvc").strip() == "{}"
    (event,) = events
    rows = {"accepted": MINIATURE_SIZES["test"] - 1, "quarantined": 1}
    assert (event["event"], event["prefect.resource.id"]) == (
        "data.version.changed",
        "commerce-clip.data",
    )
    assert (event["version"], event["previous"], event["rows"]["test"]) == (version, old, rows)
    assert 'git commit data.dvc -m "Data version autumn"' in output
    assert git(project, "status", "--porcelain").split() == ["M", "data.dvc"]
    again, output, _ = ingest("--name", "autumn", "--test", drop / "test.tsv", *TOLERANT)
    assert (again, TrackedFolder(project / "data").promised(), len(events)) == (0, version, 1)
    assert "nothing new" in output


def test_mended_lines_of_a_quarantine_make_a_version_of_their_own(
    ingest: Command, project: Path, drop: Path, events: Events
) -> None:
    assert ingest("--name", "autumn", "--test", drop / "test.tsv", *TOLERANT)[0] == 0
    quarantine = report_folder(TrackedFolder(project / "data").promised()) / "test.quarantine.tsv"
    mended = b"a mended caption\t" + base64.b64encode(jpeg())
    quarantine.write_bytes(quarantine.read_bytes().replace(b"no picture", mended))
    code, output, _ = ingest("--name", "autumn-b", "--mend", quarantine)
    assert code == 0
    assert (project / "data" / "finetune" / "test.tsv").read_bytes().splitlines()[-1] == mended
    assert "1 of 1 faulty lines mended" in output
    assert events[-1]["rows"]["test"] == {"accepted": MINIATURE_SIZES["test"], "quarantined": 0}


def test_a_drop_that_is_refused_leaves_the_current_version_alone(
    ingest: Command, project: Path, drop: Path, events: Events
) -> None:
    before = snapshot(project)
    sentence = refusal(ingest("--name", "autumn", "--test", drop / "test.tsv"))
    assert "data.max_fault_share" in sentence
    assert "test.quarantine.tsv" in sentence
    assert (snapshot(project), events) == (before, [])
    assert not (state_folder() / "ingest" / "autumn").exists()


def test_an_ingest_while_another_is_at_work_is_refused(
    ingest: Command, project: Path, drop: Path
) -> None:
    before = snapshot(project)
    with locked(INGEST, "ingest winter"):
        assert "ingest winter (process" in refusal(
            ingest("--name", "autumn", "--test", drop / "test.tsv")
        )
    with locked(DATA, "run"):
        reader = register_reader("run sample-1")
    assert "run sample-1 (process" in refusal(
        ingest("--name", "autumn", "--test", drop / "test.tsv")
    )
    release_reader(reader)
    assert snapshot(project) == before


def test_a_change_of_the_pairs_that_nobody_tracked_is_not_lost(
    ingest: Command, project: Path, drop: Path
) -> None:
    mine = project / "data" / "finetune" / "valid.tsv"
    mine.write_bytes(b"mine")
    sentence = refusal(ingest("--name", "autumn", "--test", drop / "test.tsv"))
    assert "differs from the data version in data.dvc (finetune/valid.tsv)" in sentence
    assert mine.read_bytes() == b"mine"


def test_a_name_belongs_to_one_version(
    ingest: Command, project: Path, drop: Path, miniature: Path
) -> None:
    assert ingest("--name", "autumn", "--test", drop / "test.tsv", *TOLERANT)[0] == 0
    sentence = refusal(ingest("--name", "autumn", "--test", miniature / "finetune" / "test.tsv"))
    assert (
        f"is the name of data version {TrackedFolder(project / 'data').promised()} already"
        in sentence
    )


def test_a_remote_inside_the_repository_gets_nothing_and_the_command_for_ones_own_is_told(
    ingest: Command, project: Path, drop: Path, events: Events
) -> None:
    dvc(project, "remote", "add", "--default", "sample", "sample-remote")
    code, output, _ = ingest("--name", "autumn", "--test", drop / "test.tsv", *TOLERANT)
    assert code == 0
    assert "lies in this git repository" in output
    assert "`dvc remote add --default --force shop" in output
    assert not (project / "sample-remote").exists()
    assert len(events) == 1


def test_nothing_is_taken_over_from_the_drawn_sample(
    ingest: Command, project: Path, drop: Path
) -> None:
    assert ingest("--name", "sample", "--test", drop / "test.tsv", *TOLERANT)[0] == 0
    sentence = refusal(ingest("--name", "autumn", "--test", drop / "test.tsv"))
    assert "train: not in the drop" in sentence


def test_what_an_interrupted_push_did_not_send_is_sent_by_the_same_command(
    ingest: Command, project: Path, drop: Path, events: Events
) -> None:
    remote = project.parent / "remote"
    kept = Path(shutil.move(remote, project.parent / "away"))
    remote.write_bytes(b"no folder")
    assert "`dvc push` failed" in refusal(
        ingest("--name", "autumn", "--test", drop / "test.tsv", *TOLERANT)
    )
    assert events == []
    remote.unlink()
    shutil.move(kept, remote)
    assert ingest("--name", "autumn", "--test", drop / "test.tsv", *TOLERANT)[0] == 0
    assert len(events) == 1
    assert dvc(project, "status", "--cloud", "--json", "data.dvc").strip() == "{}"


def test_without_git_a_sentence_says_what_to_do(ingest: Command, project: Path, drop: Path) -> None:
    shutil.rmtree(project / ".git")
    sentence = refusal(ingest("--name", "autumn", "--test", drop / "test.tsv"))
    assert "not a git repository" in sentence
    assert "`dvc config core.no_scm true`" in sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--name", "autumn"], "nothing to ingest"),
        (["--name", "../up", "--test", "README.md"], "cannot be a name"),
        (["--name", "autumn", "--test", "nowhere.tsv"], "nowhere.tsv: no such file"),
        (
            ["--name", "autumn", "--test", "README.md", "--mend", "README.md"],
            "--mend takes lines of the current version alone",
        ),
    ],
)
def test_options_that_make_no_sense_get_a_sentence(
    ingest: Command, options: list[str], sentence: str
) -> None:
    assert sentence in refusal(ingest(*options))
