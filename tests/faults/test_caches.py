"""A cache with one bit flipped, cut at any length or half written by a killed process is made
again, never used."""

import logging
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.storage.cache import Array, Layout, cached_array

FLIPS, CUTS = 100, 50
ROWS = np.random.default_rng(0).integers(0, 2**16, (50, 20)).astype(np.uint16)
LAYOUT = Layout("tokens", "ab" * 32, ROWS.shape, ROWS.dtype)


class Cache:
    """A folder with a whole cache file, and how often its array was made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, 0
        self.open()
        (self.path,) = folder.glob("*.cache")
        self.whole = self.path.read_bytes()

    def open(self) -> None:
        assert np.array_equal(cached_array(self.folder, LAYOUT, self._make), ROWS)

    def _make(self) -> Iterator[Array]:
        self.made += 1
        yield ROWS

    def is_made_again_after(self, content: bytes) -> bool:
        before = self.made
        self.path.write_bytes(content)
        self.open()
        return self.made == before + 1 and self.path.read_bytes() == self.whole


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


@pytest.mark.faults(kind="D3: cache", trials=FLIPS)
def test_a_flipped_bit_is_found_and_the_cache_made_again(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(0)
    for _ in range(FLIPS):
        damaged = bytearray(cache.whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        assert cache.is_made_again_after(bytes(damaged))
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "cut or damaged; it is made again" in warned[0]


@pytest.mark.faults(kind="D4: cache", trials=CUTS + 2)
def test_a_cache_cut_at_any_length_or_longer_is_made_again(cache: Cache) -> None:
    rng = random.Random(0)
    lengths = [
        0,
        1,
        len(cache.whole) - 1,
        len(cache.whole) - 32,
        *rng.sample(range(len(cache.whole)), CUTS - 4),
    ]
    for length in lengths:
        assert cache.is_made_again_after(cache.whole[:length])
    assert cache.is_made_again_after(cache.whole + b"\0")
    assert cache.is_made_again_after(bytes(len(cache.whole)))


def make_and_die(folder: Path, rows_before: int) -> None:
    def make() -> Iterator[Array]:
        yield ROWS[:rows_before]
        os.kill(os.getpid(), signal.SIGKILL)

    cached_array(folder, LAYOUT, make)


@pytest.mark.faults(kind="K: killed while a cache is made", trials=3)
@pytest.mark.parametrize("rows_before", [0, 1, 25, 50])
def test_what_a_killed_process_began_is_made_again_and_nothing_of_it_stays(
    tmp_path: Path, rows_before: int
) -> None:
    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(
            target=make_and_die, args=(tmp_path, rows_before)
        )
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert not list(tmp_path.glob("*.cache"))
    Cache(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".cache", ".lock"]
