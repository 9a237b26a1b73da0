"""Work done ahead in threads, results in order; nothing outlives the caller.

An item costs about 10 µs of a core more than in line; 0 threads load in line.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")


def prefetch(
    items: Iterable[_Item], load: Callable[[_Item], _Loaded], threads: int, depth: int = 4
) -> Iterator[_Loaded]:
    """Yield ``load(item)`` in order, loading up to ``depth`` items ahead in threads."""
    if threads == 0:
        yield from map(load, items)
        return

    waiting: deque[Future[_Loaded]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(load, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        # A caller that stops early leaves no thread behind.
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
