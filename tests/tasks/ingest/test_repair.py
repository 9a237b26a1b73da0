import base64
import shutil
from pathlib import Path

import pytest

from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.profile import profile_files, write_profile
from tasks.data.dvc import hash_folder
from tasks.data.version import untracked_version
from tasks.ingest.repair import stage_repaired
from tasks.ingest.staging import Staged
from tasks.runtime.environment import report_folder
from tasks.runtime.records import DataVersion
from tests.golden import jpeg

LIMITS = DataConfig()
# What stands on the first lines of train, and the reason that validation gives.
SPOILT = {2: b"a caption alone", 5: b"two\ttabs\t" + base64.b64encode(jpeg()), 7: b"a hat\t!!!!"}


@pytest.fixture
def current(miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataVersion:
    """A validated version three lines of whose train split are faulty."""
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("tasks.data.dvc.cache_folder", lambda cwd: tmp_path / "cache")
    folder = Path(shutil.copytree(miniature, tmp_path / "data"))
    tsv = folder / "finetune" / "train.tsv"
    lines = tsv.read_bytes().split(b"\n")
    for number, line in SPOILT.items():
        lines[number - 1] = line
    tsv.write_bytes(b"\n".join(lines).removesuffix(b"\n"))
    version = untracked_version(folder)
    write_profile(tsv, profile_files(report_folder(version.version), "train"), LIMITS)
    return version


@pytest.fixture
def quarantine(current: DataVersion) -> Path:
    return profile_files(report_folder(current.version), "train").quarantine


def mend(quarantine: Path, *mends: tuple[bytes, bytes]) -> None:
    content = quarantine.read_bytes()
    for before, after in mends:
        assert before in content
        content = content.replace(before, after)
    quarantine.write_bytes(content)


def staged_lines(staged: Staged) -> list[bytes]:
    return (staged.folder / "finetune" / "train.tsv").read_bytes().split(b"\n")


GOOD = b"a mended caption\t" + base64.b64encode(jpeg(seed=3))


def test_mended_lines_take_their_places_and_all_other_bytes_stay(
    current: DataVersion, quarantine: Path
) -> None:
    before = (current.folder / "finetune" / "train.tsv").read_bytes().split(b"\n")
    mend(quarantine, (SPOILT[2], GOOD), (SPOILT[5], b"one tab\t" + base64.b64encode(jpeg())))
    staged = stage_repaired("autumn", quarantine, current, LIMITS)
    after = staged_lines(staged)
    assert {
        number for number, (old, new) in enumerate(zip(before, after, strict=True), 1) if old != new
    } == {2, 5}
    assert after[1] == GOOD
    assert after[6] == SPOILT[7]
    assert staged.notes[0] == "finetune/train.tsv: 2 of 3 faulty lines mended"
    assert staged.notes[1].endswith("line 7 bad_base64")


def test_everything_but_the_mended_tsv_is_taken_over(
    current: DataVersion, quarantine: Path
) -> None:
    mend(quarantine, (SPOILT[2], GOOD))
    staged = stage_repaired("autumn", quarantine, current, LIMITS)
    assert staged.file_md5 == hash_folder(staged.folder)
    changed = {path for path, md5 in staged.file_md5.items() if current.file_md5[path] != md5}
    assert (changed, staged.file_md5.keys()) == ({"finetune/train.tsv"}, current.file_md5.keys())


def test_lines_that_were_removed_from_the_quarantine_stay_as_they_are(
    current: DataVersion, quarantine: Path
) -> None:
    quarantine.write_bytes(b"5\textra_tab\t" + GOOD + b"\n")
    after = staged_lines(stage_repaired("autumn", quarantine, current, LIMITS))
    assert (after[1], after[4], after[6]) == (SPOILT[2], GOOD, SPOILT[7])


def test_the_order_of_lines_and_a_missing_newline_do_not_matter(
    current: DataVersion, quarantine: Path
) -> None:
    quarantine.write_bytes(b"7\tbad_base64\t" + GOOD + b"\n\n2\tno_tab\t" + GOOD)
    after = staged_lines(stage_repaired("autumn", quarantine, current, LIMITS))
    assert (after[1], after[4], after[6]) == (GOOD, SPOILT[5], GOOD)


def test_a_quarantine_may_be_mended_in_a_copy_elsewhere(
    current: DataVersion, quarantine: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(quarantine, tmp_path / quarantine.name))
    mend(copy, (SPOILT[2], GOOD))
    assert staged_lines(stage_repaired("autumn", copy, current, LIMITS))[1] == GOOD


def test_nothing_mended_is_told_with_the_reasons(current: DataVersion, quarantine: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"no line of it is a pair now \(line 2 no_tab, line 5 extra_tab, line 7 bad_b",
    ):
        stage_repaired("autumn", quarantine, current, LIMITS)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"3\tno_tab\t" + GOOD, "line 1: line 3 is no faulty line of the current data version"),
        (b"9999\tno_tab\t" + GOOD, "line 9999 is no faulty line"),
        (b"2\tno_tab\t" + GOOD + b"\n2\tno_tab\t" + GOOD, "line 2: line 2 stands there twice"),
        (b"2\tno_tab\t" + GOOD + b"\ngarbage", "line 2: not `line number<TAB>reason<TAB>bytes`"),
        (GOOD, "line 1: not `line number"),
    ],
)
def test_a_line_that_belongs_nowhere_is_named(
    current: DataVersion, quarantine: Path, content: bytes, sentence: str
) -> None:
    quarantine.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        stage_repaired("autumn", quarantine, current, LIMITS)


def test_a_quarantine_of_another_version_is_refused(current: DataVersion, quarantine: Path) -> None:
    other = report_folder("0" * 32) / quarantine.name
    other.parent.mkdir(parents=True)
    shutil.copy(quarantine, other)
    with pytest.raises(DataError, match="belongs to data version 0000"):
        stage_repaired("autumn", other, current, LIMITS)


@pytest.mark.parametrize("name", ["train.tsv", "holiday.quarantine.tsv"])
def test_a_file_that_is_no_quarantine_of_a_split_is_refused(
    current: DataVersion, quarantine: Path, tmp_path: Path, name: str
) -> None:
    other = Path(shutil.copy(quarantine, tmp_path / name))
    with pytest.raises(DataError, match=name):
        stage_repaired("autumn", other, current, LIMITS)
