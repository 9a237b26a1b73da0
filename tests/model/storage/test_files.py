"""A file is the old one or the new one, never half."""

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model.errors import CheckpointError, CommerceClipError
from model.storage.files import atomic_write, file_digest
from tests.tiny import names


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let no file grow over a size, which the kernel reports as it reports a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "table.parquet"
    path.write_bytes(b"old")
    return path


def assert_untouched(old: Path) -> None:
    assert old.read_bytes() == b"old"
    assert names(old.parent) == [old.name]


def test_a_file_is_replaced_by_what_was_written_with_mode_0644(old: Path) -> None:
    mask = os.umask(0o077)
    try:
        with atomic_write(old) as file:
            file.write(b"new")
            assert old.read_bytes() == b"old"
    finally:
        os.umask(mask)
    assert old.read_bytes() == b"new"
    assert stat.S_IMODE(old.stat().st_mode) == 0o644
    assert names(old.parent) == [old.name]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new" / "folder" / "a.json") as file:
        file.write(b"{}")
    assert (tmp_path / "new" / "folder" / "a.json").read_bytes() == b"{}"


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyboardInterrupt()])
def test_the_old_file_stays_and_no_temporary_when_the_block_raises(
    old: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)), atomic_write(old) as file:
        file.write(b"half")
        raise error
    assert_untouched(old)


def test_a_full_disk_is_a_sentence_and_the_old_file_stays(old: Path) -> None:
    with (
        pytest.raises(CheckpointError) as caught,
        file_size_limit(10_000),
        atomic_write(old) as file,
    ):
        for _ in range(100):
            file.write(b"x" * 1000)
    assert str(caught.value).startswith(f"{old}: disk full (")
    assert str(caught.value).endswith("free some space and run again")
    assert_untouched(old)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_only_when_synced_is_a_sentence_too(
    old: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="disk full"), atomic_write(old) as file:
        file.write(b"new")
    assert_untouched(old)


def test_a_folder_that_cannot_be_written_is_a_sentence(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below, sentence = (
        old / "a" / "b",
        r"table\.parquet/a/b: cannot be written \(.*\); check .*table\.parquet",
    )
    with pytest.raises(CommerceClipError, match=sentence), atomic_write(below):
        pass
    assert_untouched(old)

    def read_only(self: Path, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", read_only)
    with (
        pytest.raises(CommerceClipError, match=r"cannot be written \(Read-only file system\)"),
        atomic_write(old),
    ):
        pass
    assert_untouched(old)


def test_a_digest_is_that_of_the_bytes(old: Path) -> None:
    assert file_digest(old, "md5") == "149603e6c03516362a8da23f624db945"
    assert file_digest(old) == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"
