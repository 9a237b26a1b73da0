"""Arrays that are made once, kept on disk and mapped into memory: token ids, decoded images.

A cache file is the array's bytes and the SHA-256 of its key and these bytes; its name is a part of
the key, so what was made from other pairs or by other code is never found. A file that is cut,
longer or has a bit flipped counts as never made. It is written whole or not at all; what a killed
process left goes when the cache is made the next time. Checking costs about 0.6 s a gigabyte
whenever a cache is opened. An open cache is mapped, so cutting its file would end the process with
a signal; nothing here ever cuts one.
"""

import fcntl
import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.storage.files import atomic_write, write_failure
from model.storage.sealed import require_space

READ_BYTES = 1 << 20
DIGEST_BYTES = hashlib.sha256().digest_size

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


class Layout(NamedTuple):
    """What a cache holds (``tokens``), the SHA-256 (hex) of its sources, and its array's form."""

    kind: str
    key: str
    shape: tuple[int, ...]
    dtype: npt.DTypeLike

    @property
    def bytes(self) -> int:
        """Size of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def cached_array(folder: Path, layout: Layout, make: Callable[[], Iterable[Array]]) -> Array:
    """Return an array of a folder, mapped and read-only.

    Where it is missing or damaged, ``make`` yields its rows. Of several processes that want the
    same array one makes it and the others wait.

    Raises:
        CheckpointError: the disk lacks room or the folder cannot be written.
    """
    path = folder / f"{layout.kind}-{layout.key[:16]}.cache"
    if not _is_intact(path, layout):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = path.with_suffix(".lock").open("wb")
        except OSError as error:
            raise write_failure(path, error) from error

        # The kernel's lock on a file beside the cache ends with the process that holds it.
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_intact(path, layout):
                _write(path, layout, make())
    return np.memmap(path, layout.dtype, "r", shape=layout.shape)


def _is_intact(path: Path, layout: Layout) -> bool:
    try:
        with path.open("rb") as file:
            is_intact = os.fstat(file.fileno()).st_size == layout.bytes + DIGEST_BYTES
            if is_intact:
                digest = _new_digest(layout)
                for start in range(0, layout.bytes, READ_BYTES):
                    digest.update(file.read(min(READ_BYTES, layout.bytes - start)))
                is_intact = digest.digest() == file.read()
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("%s: cannot be read (%s); it is made again", path, error.strerror)
        return False

    if not is_intact:
        log.warning("%s: cut or damaged; it is made again", path)
    return is_intact


def _new_digest(layout: Layout) -> "hashlib._Hash":
    return hashlib.sha256(f"{layout.key} {layout.shape} {np.dtype(layout.dtype).str}".encode())


def _write(path: Path, layout: Layout, rows: Iterable[Array]) -> None:
    # What killed processes left goes first, and may be the room that is wanted.
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        stale.unlink(missing_ok=True)
    require_space(path.parent, layout.bytes, layout.kind.replace("-", " "))

    digest, written = _new_digest(layout), 0
    with atomic_write(path) as file:
        for block in rows:
            data = np.ascontiguousarray(block, dtype=layout.dtype).data
            digest.update(data)
            written += file.write(data)
        assert written == layout.bytes, "the rows fill the array"
        file.write(digest.digest())
