"""Work done ahead in threads, results in order; nothing outlives the caller."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetch(
    items: Iterable[Item], load: Callable[[Item], Loaded], threads: int, depth: int = 4
) -> Iterator[Loaded]:
    """Yield ``load(item)`` in order, loading up to ``depth`` items ahead in threads; 0 threads load in line."""
    if threads == 0:
        yield from map(load, items)
        return
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
