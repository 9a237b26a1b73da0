"""Files that are hashed on their way: every byte arrives, wherever pieces and blocks end, whatever the disk can do."""

import errno
import fcntl
import hashlib
import mmap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.zoo import streams
from model.zoo.streams import Pieces, write_hashed

BLOCK, PIECE = mmap.PAGESIZE, 1000
parts = st.lists(
    st.integers(0, 3 * BLOCK) | st.sampled_from([PIECE, BLOCK, 2 * BLOCK]), max_size=6
).map(lambda sizes: [bytes([number + 1]) * size for number, size in enumerate(sizes)])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(streams, "PIECE_BYTES", PIECE)


def refuse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a file system that has no direct writing."""
    real = fcntl.fcntl

    def control(file: object, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & streams.DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return int(real(file, command, argument))  # type: ignore[call-overload]

    monkeypatch.setattr(streams.fcntl, "fcntl", control)


@pytest.mark.parametrize("has_direct", [True, False])
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(content=parts)
def test_every_byte_arrives_and_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_direct: bool, content: list[bytes]
) -> None:
    path, whole = tmp_path / "written", b"".join(content)
    with monkeypatch.context() as patched:
        if not has_direct:
            refuse_at_once(patched)
        digest = write_hashed(map(memoryview, content), path)
    assert path.read_bytes() == whole
    assert digest == hashlib.sha256(whole).hexdigest()


def test_a_block_that_cannot_be_written_directly_goes_through_the_page_cache(
    tmp_path: Path,
) -> None:
    # The offset is no multiple of the disk's blocks, which direct writing refuses.
    with open(tmp_path / "written", "wb", buffering=0) as file:
        file.write(b"a")
        streams._go_direct(file, True)
        streams._write(file, memoryview(mmap.mmap(-1, BLOCK)))
    assert (tmp_path / "written").read_bytes() == b"a" + bytes(BLOCK)


def test_what_fails_in_the_disks_thread_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, block: memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(streams, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        write_hashed([memoryview(bytes(BLOCK))], tmp_path / "written")


def test_pieces_end_where_they_are_told(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20
    (tmp_path / "file").write_bytes(content)
    with open(tmp_path / "file", "rb", buffering=0) as file:
        pieces = Pieces(file)
        read = [b"".join(map(bytes, pieces.until(end))) for end in (0, 10, 10, 3000, 2000, 10**9)]
    assert read == [b"", content[:10], b"", content[10:3000], b"", content[3000:]]
