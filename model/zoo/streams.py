"""Large files piece by piece, in memory that is used again.

What a page costs that was never touched before is easily more than the byte in it: on a virtual
machine, writing 1.7 GB through the page cache took up to 6 s of a processor, and past it 0.1 s. So
a file is read in pieces that stay in the processor's cache while they are hashed, and written past
the page cache where the file system can.
"""

import errno
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import FileIO
from itertools import cycle
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 18
BLOCK_BYTES = 1 << 22
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux's; others write through their page cache


class Pieces:
    """A file that is read from its start to its end in pieces; each is to be used before the next is read."""

    def __init__(self, file: FileIO) -> None:
        """Read a file that was opened without a buffer."""
        self._file = file
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    def until(self, end: int) -> Iterator[memoryview]:
        """Yield what comes before the byte ``end``, or before the end of the file."""
        while (left := end - self._file.tell()) > 0 and (
            size := self._file.readinto(self._buffer[:left])
        ):
            yield self._buffer[:size]


def write_hashed(parts: Iterable[memoryview], path: Path) -> str:
    """Write parts, as bytes, to a file and return its SHA-256 (hex); the disk works while the next parts are made."""
    digest = hashlib.sha256()
    with open(path, "wb", buffering=0) as file, ThreadPoolExecutor(1) as disk:
        writing: Future[Any] = disk.submit(_go_direct, file, True)
        for block in _blocks(_pieces_of(parts, digest)):
            writing.result()
            writing = disk.submit(_write, file, block)
        writing.result()
    return digest.hexdigest()


def _pieces_of(parts: Iterable[memoryview], digest: "hashlib._Hash") -> Iterator[memoryview]:
    """Yield parts in pieces, each hashed just before, so that it is in the processor's cache for who copies it."""
    for part in parts:
        for start in range(0, len(part), PIECE_BYTES):
            piece = part[start : start + PIECE_BYTES]
            digest.update(piece)
            yield piece


def _blocks(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield what pieces hold in two blocks by turns, all but the last full; they start at a page, as O_DIRECT asks."""
    blocks = cycle(memoryview(mmap.mmap(-1, BLOCK_BYTES)) for _ in range(2))
    block, used = next(blocks), 0
    for piece in pieces:
        while len(piece):
            size = min(len(piece), BLOCK_BYTES - used)
            block[used : used + size] = piece[:size]
            piece, used = piece[size:], used + size
            if used == BLOCK_BYTES:
                yield block
                block, used = next(blocks), 0
    yield block[:used]


def _write(file: FileIO, block: memoryview) -> None:
    if len(block) % mmap.PAGESIZE:
        _go_direct(file, False)
    while len(block):
        try:
            block = block[file.write(block) :]
        except OSError as error:
            # A file system may want another alignment, or have no room for a whole page: the page
            # cache has the answer.
            if error.errno != errno.EINVAL or not _go_direct(file, False):
                raise


def _go_direct(file: FileIO, wanted: bool) -> bool:
    """Write past the page cache from now on, or no longer, and tell whether that changed anything."""
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    changed = flags | DIRECT if wanted else flags & ~DIRECT
    with suppress(OSError):
        fcntl.fcntl(file, fcntl.F_SETFL, changed)
        return changed != flags
    return False
