"""Locks on what a machine shares: one ingest at a time, and no new pairs under a run that reads.

They are the kernel's locks on files in ``state/locks``, so they end with their process, `kill -9`
included; a lock costs two system calls. A command that a process started keeps the lock of that
process until it ends, too: an orphaned `dvc add` still writes. What stands in the files only serves
the sentence that names the holder.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from model.errors import DataError
from tasks.runtime.environment import state_folder
from tasks.runtime.log import run_logger

DATA, INGEST = "data", "ingest"

_held: set[int] = set()


@contextmanager
def locked(name: str, what: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock for the block; ``what`` names the holder, ``wait`` waits instead of refusing.

    Raises:
        DataError: another process holds it and ``wait`` is False; names that process.
    """
    with locked_or_busy(name, what, wait) as holder:
        if holder is not None:
            raise DataError(f"{holder} is at work; run the command again when it has ended")
        yield


@contextmanager
def locked_or_busy(name: str, what: str, wait: bool) -> Iterator[str | None]:
    """Hold a lock for the block and yield None; without ``wait``, yield who else holds it."""
    path = state_folder() / "locks" / f"{name}.lock"
    descriptor = _open(path)
    try:
        if not _take(descriptor):
            if not wait:
                yield _holder(path)
                return
            run_logger().info("waiting for %s", _holder(path))
            fcntl.flock(descriptor, fcntl.LOCK_EX)

        # From here on, commands that this process starts keep the lock, too.
        _sign(descriptor, what)
        _held.add(descriptor)
        yield None
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def held_descriptors() -> tuple[int, ...]:
    """Return the descriptors of the locks of this process, for the commands that it starts."""
    return tuple(sorted(_held))


def register_reader(what: str) -> int:
    """Keep the tracked pairs from being replaced until `release_reader`; the caller holds DATA.

    Without DATA, `refuse_while_read` could take the new file for what a dead reader left.
    """
    descriptor = _open(_readers() / f"{uuid4()}.lock")
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    _sign(descriptor, what)
    return descriptor


def release_reader(descriptor: int) -> None:
    """End what `register_reader` began; the file stays until the next replacement looks."""
    os.close(descriptor)


def refuse_while_read() -> None:
    """Refuse to go on while a run reads the tracked pairs; the caller holds DATA.

    Raises:
        DataError: names the runs.
    """
    busy = []
    for path in sorted(_readers().glob("*.lock")):
        descriptor = _open(path)
        try:
            is_free = _take(descriptor)
        finally:
            os.close(descriptor)

        # Nobody holds the file of a reader that has ended.
        if is_free:
            path.unlink(missing_ok=True)
        else:
            busy.append(_holder(path))
    if busy:
        raise DataError(
            f"{', '.join(busy)}: still reads the current data version; "
            "run the same command again when it has ended"
        )


def _readers() -> Path:
    return state_folder() / "locks" / "readers"


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int, what: str) -> None:
    """Write down who holds the lock; in place, for a rename would leave it on a nameless file."""
    signed = {
        "what": what,
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(signed).encode(), 0)


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        signed = json.loads(path.read_text(encoding="utf-8"))
        return f"{signed['what']} (process {signed['pid']}, since {signed['since']})"
    return "another process"
