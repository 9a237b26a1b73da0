"""A profile on a full disk, with flipped bits or cut short is never used: the old one stays or a
new one is made."""

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pytest

from model.config.sections import DataConfig
from model.errors import CommerceClipError, DataError
from model.pairs import profile
from model.pairs.profile import (
    ProfileFiles,
    existing_profile,
    profile_files,
    read_profile,
    write_profile,
)
from model.storage.files import atomic_write, file_digest
from tests.golden import golden_lines

LIMITS = DataConfig()
FLIPS = 200
CUTS = 50
SINKS = ("table", "quarantine", "words", "summary")


def each_sink(kind: str, trials: int = 1) -> pytest.MarkDecorator:
    """Run a test for each file of a profile, each a kind of fault of its own."""
    marks = {
        name: pytest.mark.faults(kind=f"{kind} the profile's {name}", trials=trials)
        for name in SINKS
    }
    return pytest.mark.parametrize(
        "sink", [pytest.param(name, marks=mark) for name, mark in marks.items()]
    )


@pytest.fixture(scope="module")
def tsv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TSV with a profile of some kilobytes and a quarantine."""
    path = tmp_path_factory.mktemp("profiled") / "test.tsv"
    short = [golden.raw for golden in golden_lines() if len(golden.raw) < 100_000]
    path.write_bytes(b"".join(line + b"\n" for line in short * 5))
    write_profile(path, files_of(path), LIMITS, processes=1)
    return path


def files_of(tsv: Path) -> ProfileFiles:
    return profile_files(tsv.parent, "test")


# --- D1: a full disk ---


@contextmanager
def full_disk(sink: Path, room_bytes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no file grow over some bytes from the moment on that the sink is opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def limited(path: Path) -> Iterator[IO[bytes]]:
        with atomic_write(path) as file:
            if path == sink:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(profile, "atomic_write", limited)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fill", [0, 0.5, 0.99])
@pytest.mark.parametrize(
    "sink",
    [
        pytest.param(name, marks=pytest.mark.faults(kind=f"D1: disk full at the profile's {name}"))
        for name in SINKS
    ],
)
def test_a_full_disk_leaves_the_old_file_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, fill: float
) -> None:
    tsv = tmp_path / "test.tsv"
    files = files_of(tsv)
    tsv.write_bytes(b"no tab\n")
    write_profile(tsv, files, LIMITS, processes=1)
    old = [file_digest(path) for path in files]
    words = b" ".join(b"word%d" % number for number in range(2000))
    tsv.write_bytes(
        b"\n".join([words, *(golden.raw[:5000] for golden in golden_lines()), b"no tab" * 30_000])
    )
    whole = profile_files(tmp_path, "whole")
    write_profile(tsv, whole, LIMITS, "pair" if sink == "quarantine" else "text", processes=1)

    room = int(getattr(whole, sink).stat().st_size * fill)
    columns = "pair" if sink == "quarantine" else "text"
    with (
        full_disk(getattr(files, sink), room, monkeypatch),
        pytest.raises(CommerceClipError, match="MB free") as error,
    ):
        write_profile(tsv, files, LIMITS, columns, processes=1)
    assert str(error.value).startswith(f"{tmp_path}/test.")
    failed_at = SINKS.index(sink)
    assert [file_digest(path) for path in files][failed_at:] == old[failed_at:]
    assert not list(tmp_path.glob(".*"))
    assert existing_profile(tsv, files, LIMITS, columns) is None
    assert write_profile(tsv, files, LIMITS, columns, processes=1).lines > 1
    assert existing_profile(tsv, files, LIMITS, columns) is not None


# --- D3 and D4: flipped bits, cut files ---


def damaged_reads(files: ProfileFiles, whole: pa.Table) -> str:
    """Return what opening the table says: its rows as they were, or a DataError; anything else
    fails."""
    try:
        assert read_profile(files.table).equals(whole), "other rows than were written"
    except DataError:
        return "refused"
    return "same"


@pytest.mark.parametrize(
    "sink",
    [
        pytest.param(name, marks=pytest.mark.faults(kind=f"D3: the profile's {name}", trials=FLIPS))
        for name in SINKS
    ],
)
def test_a_flipped_bit_is_found(tsv: Path, sink: str) -> None:
    files, rng = files_of(tsv), random.Random(sink)
    path, whole = getattr(files, sink), read_profile(files.table)
    data = path.read_bytes()
    try:
        for _ in range(FLIPS):
            changed = bytearray(data)
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            assert existing_profile(tsv, files, LIMITS) is None
            damaged_reads(files, whole)
    finally:
        path.write_bytes(data)
    assert existing_profile(tsv, files, LIMITS) is not None


@pytest.mark.faults(kind="D3: the profile's footer", trials=FLIPS)
def test_a_flipped_bit_in_the_footer_changes_no_row(tsv: Path) -> None:
    files, rng = files_of(tsv), random.Random(0)
    data, whole = files.table.read_bytes(), read_profile(files.table)
    footer, said = int.from_bytes(data[-8:-4], "little"), []
    try:
        for _ in range(FLIPS):
            changed = bytearray(data)
            changed[-rng.randint(1, footer + 8)] ^= 1 << rng.randrange(8)
            files.table.write_bytes(changed)
            said.append(damaged_reads(files, whole))
    finally:
        files.table.write_bytes(data)
    assert said.count("refused") > FLIPS / 4


@pytest.mark.parametrize(
    "sink",
    [
        pytest.param(name, marks=pytest.mark.faults(kind=f"D4: the profile's {name}", trials=CUTS))
        for name in SINKS
    ],
)
def test_a_cut_file_is_found(tsv: Path, sink: str) -> None:
    files, rng = files_of(tsv), random.Random(sink)
    path = getattr(files, sink)
    data = path.read_bytes()
    try:
        for length in [0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(CUTS - 2))]:
            path.write_bytes(data[:length])
            assert existing_profile(tsv, files, LIMITS) is None
            if sink == "table":
                with pytest.raises(DataError, match="damaged profile"):
                    read_profile(path)
        path.unlink()
        assert existing_profile(tsv, files, LIMITS) is None
    finally:
        path.write_bytes(data)
