"""A cached array is the one that was made, made once, by one process, where the disk has room."""

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import CheckpointError
from model.storage.cache import Array, Layout, cached_array

ROWS = np.arange(24, dtype=np.uint16).reshape(8, 3)
LAYOUT = Layout("tokens", "ab" * 32, ROWS.shape, ROWS.dtype)


class Maker:
    """Yields rows in two blocks and counts how often it was asked."""

    def __init__(self, rows: Array = ROWS) -> None:
        self.rows, self.asked = rows, 0

    def __call__(self) -> Iterator[Array]:
        self.asked += 1
        yield self.rows[: len(self.rows) // 2]
        yield self.rows[len(self.rows) // 2 :]


def test_an_array_is_made_once_and_mapped_read_only_afterwards(tmp_path: Path) -> None:
    make = Maker()
    for _ in range(3):
        array = cached_array(tmp_path / "cache", LAYOUT, make)
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert np.array_equal(array, ROWS) and array.dtype == ROWS.dtype
    assert make.asked == 1


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([np.uint8, np.uint16, np.int32]))
@settings(deadline=None, max_examples=30)
def test_any_shape_and_type_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, dtype: type[np.generic]
) -> None:
    array = np.random.default_rng(0).integers(0, 255, (rows, columns, 2)).astype(dtype)
    layout, folder = Layout("any", "cd" * 32, array.shape, dtype), tmp_path_factory.mktemp("any")
    for _ in range(2):
        assert np.array_equal(cached_array(folder, layout, Maker(array)), array)


@pytest.mark.parametrize(
    "other",
    [
        LAYOUT._replace(key="ef" * 32),
        LAYOUT._replace(key="ab" * 31 + "00"),
        LAYOUT._replace(kind="other"),
        LAYOUT._replace(shape=(4, 6)),
        LAYOUT._replace(dtype=np.int16),
    ],
    ids=["key", "key of the same name", "kind", "shape", "type"],
)
def test_what_was_made_of_something_else_is_not_taken(tmp_path: Path, other: Layout) -> None:
    cached_array(tmp_path, LAYOUT, Maker())
    make = Maker(ROWS[::-1].reshape(other.shape).astype(other.dtype))
    assert np.array_equal(cached_array(tmp_path, other, make), make.rows) and make.asked == 1


def test_a_disk_without_room_is_reported_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=30_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    make, layout = Maker(), Layout("decoded-images", "ab" * 32, (1000, 3, 224, 224), np.uint8)
    with pytest.raises(
        CheckpointError, match="30 MB free, but decoded images need 151 MB; free some space"
    ):
        cached_array(tmp_path, layout, make)
    assert make.asked == 0 and not list(tmp_path.glob("*.cache"))


def test_what_a_failing_maker_began_is_not_left(tmp_path: Path) -> None:
    def make() -> Iterator[Array]:
        yield ROWS[:4]
        raise CheckpointError("stop")

    with pytest.raises(CheckpointError, match="stop"):
        cached_array(tmp_path, LAYOUT, make)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert np.array_equal(cached_array(tmp_path, LAYOUT, Maker()), ROWS)


def make_together(folder: Path, together: Barrier, asked: Path) -> None:
    def make() -> Iterator[Array]:
        with asked.open("ab") as file:
            file.write(b"x")
        yield from Maker()()

    together.wait(60)
    assert np.array_equal(cached_array(folder, LAYOUT, make), ROWS)
    os._exit(0)  # a fork of a process that ran servers must not run their exit handlers


def test_of_processes_that_want_the_same_array_one_makes_it(tmp_path: Path) -> None:
    context, asked = multiprocessing.get_context("fork"), tmp_path / "asked"
    together = context.Barrier(4)
    processes = [
        context.Process(target=make_together, args=(tmp_path / "cache", together, asked))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert asked.read_bytes() == b"x"
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".cache", ".lock"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be written"):
        cached_array(tmp_path / "cache" / "deeper", LAYOUT, Maker())
