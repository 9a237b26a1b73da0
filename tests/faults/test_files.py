"""A file that is no TSV, changes, or loses its readers is refused in one sentence, and nothing
half-made stays."""

import base64
import bz2
import gzip
import lzma
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.support.measure import children
from model.config.sections import DataConfig
from model.errors import DataError
from model.pairs.profile import profile_files, write_profile
from model.pairs.tsv import check_file, detect_columns, likely_encoding
from tests.golden import jpeg
from tests.tiny import names

ROOT = Path(__file__).parents[2]
LIMITS = DataConfig()
LINE = b"red dress\n"


def refused(tsv: Path) -> str:
    """Return the sentence of everybody who opens a TSV first, after checking that nothing was
    left."""
    sentences = []
    files = profile_files(tsv.parent, "test")
    for reader in (check_file, detect_columns, lambda path: write_profile(path, files, LIMITS)):
        with pytest.raises(DataError) as error:
            reader(tsv)
        sentences.append(str(error.value))
    assert len(set(sentences)) == 1 and sentences[0].startswith(f"{tsv}: ")
    assert names(tsv.parent) in ([tsv.name], [])
    return sentences[0]


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("test.tsv", LINE)


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "bom alone": (lambda path: path.write_bytes(b"\xef\xbb\xbf"), "is empty"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "fifo": (lambda path: os.mkfifo(path), "is not a regular file"),
    "link to nothing": (lambda path: path.symlink_to("nowhere.tsv"), "no such file"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(LINE)), "gunzip"),
    "xz": (lambda path: path.write_bytes(lzma.compress(LINE)), "unxz"),
    "bzip2": (lambda path: path.write_bytes(bz2.compress(LINE)), "bunzip2"),
    "zstd": (lambda path: path.write_bytes(pa.compress(LINE, "zstd", asbytes=True)), "unzstd"),
    "zip": (zipped, "unzip"),
    "parquet": (lambda path: pq.write_table(pa.table({"caption": ["red dress"]}), path), "Parquet"),
    "utf-16": (lambda path: path.write_bytes("red dress\n".encode("utf-16")), "UTF-16"),
    "utf-16, big end first": (
        lambda path: path.write_bytes(b"\xfe\xff" + "red".encode("utf-16-be")),
        "UTF-16",
    ),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.faults(kind=f"file: {k}")) for k in FOREIGN]
)
def test_what_is_no_tsv_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    write, words = FOREIGN[kind]
    write(tmp_path / "test.tsv")
    assert words in refused(tmp_path / "test.tsv")


@pytest.mark.faults(kind="file: no permission")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    tsv = tmp_path / "test.tsv"
    tsv.write_bytes(LINE)
    tsv.chmod(0)
    assert "check its permissions" in refused(tsv)


# --- encodings ---

WESTERN = "Robe d'été à manches\tAAAA\nChapeau façonné\tAAAA\nGrößere Tasche für Mädchen\tAAAA\n"
CHINESE = "红色连衣裙\tAAAA\n蓝色 T 恤 100%棉\tAAAA\n"


@pytest.mark.faults(kind="file: other encodings")
@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (WESTERN, "latin-1", "Windows-1252 (latin-1)"),
        (WESTERN.split("\n")[2], "latin-1", "Windows-1252 (latin-1)"),
        (WESTERN, "utf-16-le", "UTF-16LE"),
        (CHINESE, "gb18030", "GB18030"),
        (CHINESE * 3000, "gbk", "GB18030"),
        (CHINESE, "utf-8", None),
        (CHINESE * 3000, "utf-8-sig", None),
        ("red dress\tAAAA", "ascii", None),
    ],
)
def test_the_likely_encoding_of_captions_is_named(
    tmp_path: Path, text: str, encoding: str, named: str | None
) -> None:
    (tmp_path / "test.tsv").write_bytes(text.encode(encoding))
    assert likely_encoding(tmp_path / "test.tsv") == named


@pytest.mark.faults(kind="file: utf-16 without bom")
def test_utf_16_without_a_bom_is_quarantined_and_named(tmp_path: Path) -> None:
    tsv = tmp_path / "test.tsv"
    tsv.write_bytes(CHINESE.encode("utf-16-be"))
    summary = write_profile(tsv, profile_files(tmp_path, "test"), LIMITS)
    assert summary.accepted == 0 < summary.quarantined
    assert likely_encoding(tsv) == "UTF-16BE"


# --- files that change, processes that end ---


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TSV of captions in enough pieces that several processes are busy with it."""
    monkeypatch.setattr("model.pairs.profile.PIECE_BYTES", 20_000)
    monkeypatch.setattr("model.pairs.profile.ROWS_A_GROUP", 1000)
    tsv = tmp_path / "test.tsv"
    tsv.write_bytes(b"".join(b"red dress no %d\n" % number for number in range(40_000)))
    return tsv


def profile_and(tsv: Path, meanwhile: Callable[[], object], processes: int, when: int = 3) -> None:
    calls = []

    def on_rows(rows: int) -> None:
        calls.append(rows)
        if len(calls) == when:
            meanwhile()

    write_profile(tsv, profile_files(tsv.parent, "test"), LIMITS, "text", on_rows, processes)


def grow(tsv: Path) -> None:
    with tsv.open("ab") as file:
        file.write(LINE)


CHANGES: dict[str, Callable[[Path], object]] = {
    "grows": grow,
    "shrinks": lambda tsv: os.truncate(tsv, 30_000),
    "is emptied": lambda tsv: os.truncate(tsv, 0),
    "is replaced": lambda tsv: (
        tsv.with_name("other").write_bytes(LINE) and tsv.with_name("other").replace(tsv)
    ),
    "is written again": lambda tsv: os.utime(tsv, ns=(1, 1)),
    "vanishes": lambda tsv: tsv.unlink(),
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(name, marks=pytest.mark.faults(kind=f"file: {name} while read"))
        for name in CHANGES
    ],
)
def test_a_file_that_changes_while_it_is_read_is_refused(
    large: Path, change: str, processes: int
) -> None:
    with pytest.raises(
        DataError, match=r"changed while it was read|cannot be read any more"
    ) as error:
        profile_and(large, lambda: CHANGES[change](large), processes)
    assert str(error.value).startswith(f"{large}: ")
    assert names(large.parent) in ([large.name], [])


@pytest.mark.faults(kind="K: a profiling process is killed")
@pytest.mark.parametrize("when", [1, 5, 20])
def test_a_killed_profiling_process_ends_in_a_sentence(large: Path, when: int) -> None:
    with pytest.raises(DataError, match="was killed, perhaps for memory") as error:
        profile_and(large, lambda: multiprocessing.active_children()[0].kill(), 2, when)
    assert str(error.value).startswith(f"{large}: ")
    assert names(large.parent) == [large.name]
    assert not multiprocessing.active_children()


PARENT = """
import sys
from pathlib import Path
from model.config.sections import DataConfig
from model.pairs.profile import profile_files, write_profile
tsv = Path(sys.argv[1])
report = lambda rows: print(rows, flush=True)
write_profile(tsv, profile_files(tsv.parent, "test"), DataConfig(), "pair", report, 2)
"""
GONE_S = 5


@pytest.mark.faults(kind="K4: the parent of profiling processes ends")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_profiling_processes_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    tsv = tmp_path / "test.tsv"
    tsv.write_bytes((b"red dress\t" + base64.b64encode(jpeg(300, 300)) + b"\n") * 8000)
    command = [sys.executable, "-c", PARENT, str(tsv)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline()
        workers = children(parent.pid)
        assert len(workers) >= 2
        parent.send_signal(number)
        assert parent.wait() == -number
        deadline = time.monotonic() + GONE_S
        while any(map(is_running, workers)):
            assert time.monotonic() < deadline, "a profiling process outlives its parent"
            time.sleep(0.02)
    assert [name for name in names(tmp_path) if not name.endswith(".tmp")] == [tsv.name]


def is_running(process: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped by whoever adopted it."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
