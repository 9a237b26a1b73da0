"""Work shared out to processes that never outlive their caller; results come back in order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Items a process that are handed out before their turn.
AHEAD = 3


def in_processes(
    function: Callable[[_Item], _Result], items: Iterable[_Item], processes: int
) -> Iterator[_Result]:
    """Yield ``function(item)`` in order, computed by so many processes; with 1, in this one.

    The processes are spawned, because a fork of one that runs threads can hang. ``function`` must
    be importable; items and results are sent between the processes.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a process was killed.
    """
    if processes <= 1:
        yield from map(function, items)
        return

    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _follow_parent)
    waiting, remaining = deque[Future[_Result]](), iter(items)
    try:
        waiting.extend(pool.submit(function, item) for item in islice(remaining, processes * AHEAD))
        while waiting:
            # One more is handed out for each that is done, so no process waits for the caller.
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a spawned process"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
