"""Signals that ask a stage to stop: the first is answered at the end of a step, the second at once.

Ctrl-C and SIGTERM reach the main thread alone; a stage that runs in another one ends as Python and
Prefect see fit.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from model.errors import TrainingStopped

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A request to stop; returns, when called, whether a signal has made it."""

    def __init__(self) -> None:
        """Take the place of all handlers but those that ignore a signal, as in background jobs."""
        self.number: int | None = None
        self._before: dict[int, Any] = {}
        with suppress(ValueError):  # not the main thread
            for number in STOPPING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._take)

    def __call__(self) -> bool:
        """Return whether a signal came."""
        return self.number is not None

    def leave(self) -> None:
        """Put the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.leave()  # so a second signal ends the process at once


@contextmanager
def stop_by_signal() -> Iterator[StopRequest]:
    """Yield what knows of a signal; deliver the signal again when the block ends.

    That is when it ends well or with TrainingStopped. The signal then does what it always does:
    Ctrl-C raises KeyboardInterrupt, Prefect makes SIGTERM a crash or a cancellation.

    Raises:
        TrainingStopped: the block stopped without a signal, or the signal's handler lets the
        process live.
    """
    request, stopped = StopRequest(), None
    try:
        yield request
    except TrainingStopped as error:
        stopped = error
    finally:
        request.leave()

    # The handlers of before are back, so they get the signal that came.
    if request.number is not None:
        signal.raise_signal(request.number)
    if stopped is not None:
        raise stopped
