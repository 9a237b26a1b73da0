"""An ingest that is killed at any point leaves the old version or the new one, and the next command
heals the rest."""

import multiprocessing
import signal
from pathlib import Path

import pytest

from model.errors import DataError
from tasks.data.card import card_in
from tasks.data.dvc import TrackedFolder, hash_folder, version_of
from tasks.data.version import materialise
from tests.faults.killed_ingest import commit_drop
from tests.gears import first_of

pytestmark = pytest.mark.faults(kind="S13 ingest")

CHILD_LIMIT_S = 120
# Children fork from a server that has imported Prefect once, seconds that each would spend
# otherwise.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.killed_ingest"])
POINTS = {
    "ingest:between_renames": "old",
    "ingest:after_add": "new",
    "ingest:before_swap": "old",
    "ingest:after_swap": "old",
    "ingest:before_cleaning": "new",
}


@pytest.fixture
def test_tsv(miniature: Path, tmp_path: Path) -> Path:
    """Another test split."""
    tsv = tmp_path / "drop" / "test.tsv"
    tsv.parent.mkdir()
    tsv.write_bytes((miniature / "finetune" / "test.tsv").read_bytes().replace(b"\t", b" again\t"))
    return tsv


def ingest(project: Path, tsv: Path, fault: str | None = None) -> int:
    """Ingest in a child and return its exit code."""
    process = CONTEXT.Process(
        target=commit_drop, args=(project, project.parent / "state", tsv, fault)
    )
    process.start()
    process.join(CHILD_LIMIT_S)
    code = process.exitcode
    process.kill()
    process.join()
    process.close()
    assert code in (0, -signal.SIGKILL)
    return code


def leftovers(project: Path) -> list[str]:
    state = project.parent / "state" / "ingest"
    return [path.name for path in project.glob(".data.*")] + [
        path.name for path in state.glob("swap.json")
    ]


@pytest.mark.parametrize("point", first_of(list(POINTS), 2))
def test_a_killed_ingest_leaves_one_version_whole_and_can_be_repeated(
    project: Path, test_tsv: Path, point: str
) -> None:
    old = TrackedFolder(project / "data").promised()
    assert ingest(project, test_tsv, point) == -signal.SIGKILL
    healed = materialise(project / "data")
    assert healed.version == version_of(hash_folder(project / "data"))
    assert (healed.version == old) == (POINTS[point] == "old")
    assert leftovers(project) == []
    if POINTS[point] == "old":
        assert ingest(project, test_tsv) == 0
    version = TrackedFolder(project / "data").promised()
    card = card_in((project / "data.dvc").read_text())
    assert card is not None and (card.version, card.name) == (version, "autumn")
    assert version != old
    assert (project / "data" / "finetune" / "test.tsv").read_bytes() == test_tsv.read_bytes()
    assert leftovers(project) == []


def test_a_data_dvc_that_was_cut_in_the_middle_of_an_ingest_is_restored(
    project: Path, test_tsv: Path
) -> None:
    tracked = project / "data.dvc"
    before = tracked.read_bytes()
    assert ingest(project, test_tsv, "ingest:after_swap") == -signal.SIGKILL
    tracked.write_bytes(before[:10])
    assert materialise(project / "data").version == version_of(hash_folder(project / "data"))
    assert tracked.read_bytes() == before


@pytest.mark.full
def test_a_data_dvc_that_a_person_checked_out_after_a_killed_ingest_is_kept(
    project: Path, test_tsv: Path
) -> None:
    tracked, first = project / "data.dvc", (project / "data.dvc").read_text()
    assert ingest(project, test_tsv) == 0
    train = test_tsv.with_name("train.tsv")
    train.write_bytes(test_tsv.read_bytes().replace(b"again", b"anew"))
    assert ingest(project, train, "ingest:after_swap") == -signal.SIGKILL
    tracked.write_text(first)
    with pytest.raises(DataError, match=r"`dvc checkout --force data\.dvc` goes back"):
        materialise(project / "data")
    assert tracked.read_text() == first
    assert leftovers(project) == []
