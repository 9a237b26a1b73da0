"""What is loaded ahead arrives in order, errors in their place, and no thread stays behind."""

import threading
from collections.abc import Iterator

import pytest

from model.batches.prefetch import prefetch
from model.errors import DataError


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_loading_ahead_keeps_the_order(threads: int) -> None:
    assert list(prefetch(range(50), lambda item: item * item, threads)) == [
        item * item for item in range(50)
    ]
    assert list(prefetch([], lambda item: item, threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_loading_goes_ahead_by_the_depth_and_no_further(threads: int) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    loaded = prefetch(items(), lambda item: item, threads, depth=4)
    assert next(loaded) == 0
    assert taken == [0, 1, 2, 3, 4]
    loaded.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_loading_raises_arrives_in_its_place(threads: int) -> None:
    def load(item: int) -> int:
        if item == 7:
            raise DataError("line 7: bad_base64")
        return item

    seen = []
    with pytest.raises(DataError, match="line 7"):
        for item in prefetch(range(50), load, threads):
            seen.append(item)
    assert seen == list(range(7))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_stopping_early_leaves_no_thread_behind(threads: int) -> None:
    before = threading.active_count()
    loaded = prefetch(iter(int, 1), lambda item: item, threads)
    for _ in range(3):
        next(loaded)
    loaded.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
