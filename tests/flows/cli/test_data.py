"""`commerce-clip data …` and `import …`: what a person reads in the terminal."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.__main__ import main
from flows.cli import terminal
from model.config.sections import DataConfig
from model.errors import typed
from model.pairs.drift import counts_of
from model.pairs.profile import profile_files, read_profile, write_profile
from model.storage.tables import write_table
from tasks.data.card import SplitRows, VersionCard, annotate, write_version_card
from tasks.data.dvc import TrackedFolder
from tasks.registry.reading import DATA_VERSION_TAG, KnownModelVersion, Registry
from tasks.runtime.environment import report_folder
from tasks.validation.leaks import comparison_files
from tests.golden import jpeg
from tests.projects import dvc, forget, git, objects

Printed = Callable[..., str]


@pytest.fixture
def printed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Printed:
    """Run a command and return what it printed; ``code`` is the exit code that it must end with."""
    monkeypatch.setenv("COLUMNS", "300")
    tags = {DATA_VERSION_TAG: TrackedFolder(project / "data").promised}
    monkeypatch.setattr(
        "flows.cli.data.read_registry",
        lambda: Registry(
            [KnownModelVersion("commerce-clip", 3, {tag: read() for tag, read in tags.items()})], {}
        ),
    )

    def run(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code
        output, errors = capsys.readouterr()
        assert "Traceback" not in output + errors
        return str(errors if code else output)

    return run


def card_of(version: str, name: str, created: str = "2026-11-24T10:00:00+00:00") -> VersionCard:
    splits = {"train": SplitRows(lines=50, accepted=48, faults={"no_tab": 2})}
    return VersionCard(version=version, name=name, created=created, previous=None, splits=splits)


def change_version(project: Path, name: str) -> str:
    """Track other bytes under a name, without an ingest."""
    tsv = project / "data" / "finetune" / "test.tsv"
    tsv.write_bytes(tsv.read_bytes().replace(b"\t", b" again\t"))
    dvc(project, "add", "data")
    version = TrackedFolder(project / "data").promised()
    annotate(project / "data.dvc", card_of(version, name))
    write_version_card(card_of(version, name))
    return version


def validated(project: Path) -> str:
    """Leave what validation leaves of the tracked version's test split, and return the version."""
    version, tsv = (
        TrackedFolder(project / "data").promised(),
        project / "data" / "finetune" / "test.tsv",
    )
    files = profile_files(report_folder(version), "test")
    write_profile(tsv, files, DataConfig())
    counts = counts_of(read_profile(files.table), pq.read_table(files.words), None)
    write_table(counts, comparison_files(report_folder(version), "test").counts)
    return version


def row_of(output: str, version: str) -> str:
    (row,) = [line for line in output.splitlines() if version[:8] in line]
    return row


def test_log_lists_committed_and_local_versions_and_marks_the_current_one(
    project: Path, printed: Printed
) -> None:
    first = TrackedFolder(project / "data").promised()
    second = change_version(project, "autumn")
    output = printed("data", "log")
    assert "→" not in row_of(output, first)
    row = row_of(output, second)
    for part in ("→", "autumn", "2026-11-24 10:00", "train 48", "commerce-clip 3"):
        assert part in row
    git(project, "commit", "--all", "--quiet", "--message=Autumn")
    shutil.rmtree(report_folder(second))
    assert "autumn" in row_of(printed("data", "log"), second)


def test_a_card_that_a_later_dvc_add_kept_is_not_taken_for_the_new_versions(
    project: Path, printed: Printed
) -> None:
    change_version(project, "autumn")
    (project / "data" / "finetune" / "mine.tsv").write_bytes(b"mine\n")
    dvc(project, "add", "data")
    assert "autumn" in (project / "data.dvc").read_text()
    assert "autumn" not in row_of(
        printed("data", "log"), TrackedFolder(project / "data").promised()
    )


def test_status_tells_what_is_right_and_what_is_not(project: Path, printed: Printed) -> None:
    output = printed("data", "status")
    for part in (
        "every MD5 right",
        "data.dvc is committed",
        "has all of it",
        f"not on this machine; `{typed('validate')}`",
    ):
        assert part in output
    change_version(project, "autumn")
    output = printed("data", "status")
    for part in ("autumn", "data.dvc is not committed", "lacks the list of files", "validated  ok"):
        assert part in output


def test_status_names_what_a_remote_has_lost(project: Path, printed: Printed) -> None:
    objects(project.parent / "remote")[0].unlink()
    assert "lacks finetune/train.tsv; `dvc push`" in printed("data", "status")


def test_status_names_changed_and_missing_files(project: Path, printed: Printed) -> None:
    (project / "data" / "finetune" / "train.tsv").write_bytes(b"mine")
    (project / "data" / "finetune" / "test.tsv").unlink()
    output = printed("data", "status")
    assert "changed finetune/train.tsv; missing finetune/test.tsv; " in output
    assert "`dvc checkout --force data.dvc` goes back" in output


def test_pull_brings_a_fresh_clone_its_pairs_and_says_that_every_file_is_right(
    project: Path, printed: Printed
) -> None:
    forget(project)
    assert f"data version {TrackedFolder(project / 'data').promised()}: 10 files" in printed(
        "data", "pull"
    )


def test_diff_counts_rows_in_and_out_and_names_what_drifted(
    project: Path, printed: Printed
) -> None:
    first = validated(project)
    change_version(project, "autumn")
    validated(project)
    output = printed("data", "diff", first[:8], "autumn")
    (row,) = [line for line in output.splitlines() if "│ test" in line and "+" in line]
    assert "+24" in row and "-24" in row
    assert "words" in output and "again" in output
    same = printed("data", "diff", "current", "autumn")
    assert "+0" in same and "no column drifted by more than chance" in same


def test_diff_of_a_version_that_was_not_validated_here_says_how_to_do_it(
    project: Path, printed: Printed
) -> None:
    sentence = printed("data", "diff", "current", "current", code=1)
    assert f"`{typed('validate --data data')}`" in sentence


@pytest.mark.parametrize(
    ("which", "sentence"),
    [("autum", "no such data version; did you mean 'autumn'?"), ("0000000", "no such data")],
)
def test_a_version_that_nobody_knows_is_refused(
    project: Path, printed: Printed, which: str, sentence: str
) -> None:
    write_version_card(card_of("a" * 32, "autumn"))
    assert sentence in printed("data", "diff", which, "current", code=1)


def test_a_name_of_two_versions_asks_for_the_hash(project: Path, printed: Printed) -> None:
    write_version_card(card_of("a" * 32, "autumn"))
    write_version_card(card_of("b" * 32, "autumn"))
    assert "means 2 data versions" in printed("data", "diff", "autumn", "current", code=1)


def test_what_would_act_on_a_terminal_is_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31mred\x07 [bold]loud[/bold] \u202etxt"
    terminal.print_table(hostile, [{"name": hostile}])
    terminal.print_facts(hostile, {"name": hostile})
    terminal.print_line(hostile)
    output = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert output.count("\\x1b[31mred\\x07 [bold]loud[/bold] \\u202etxt") == 5


def test_an_import_tells_what_became_a_pair_and_the_command_that_ingests_it(
    project: Path, printed: Printed, tmp_path: Path
) -> None:
    (tmp_path / "hat.jpg").write_bytes(jpeg())
    table = tmp_path / "train.csv"
    table.write_text("image,title\nhat.jpg,a red hat\nscarf.jpg,a scarf\n")
    output = printed("import", "csv", table, "--out", tmp_path / "drop", "--set", "caption=title")
    assert "1 missing_image (scarf.jpg)" in output
    assert f"ingest --name NAME --train {tmp_path / 'drop' / 'train.tsv'}" in output
    assert (tmp_path / "drop" / "train.tsv").read_bytes().startswith(b"a red hat\t")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cvs", ".", "--out", "y"], "did you mean 'csv'?"),
        (["csv", ".", "--out", "y", "--set", "a"], "expected key="),
    ],
)
def test_an_import_that_makes_no_sense_gets_a_sentence(
    printed: Printed, arguments: list[str], sentence: str
) -> None:
    assert sentence in printed("import", *arguments, code=1)
