"""Progress that is seen twice: a bar in the terminal and a progress artifact in the Prefect UI.

What ends within two seconds draws no bar, and what has nothing to do never does.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from importlib import import_module
from typing import Any

from tqdm import tqdm

from tasks.runtime.log import STAGE_WIDTH, loaded

FIRST_AFTER_S = 2.0
LINE_EVERY_S = 10.0
LINE = (
    "{desc} {percentage:.0f} %, {n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
)
LINE_WITHOUT_TOTAL = "{desc} {n_fmt}{unit} [{elapsed}, {rate_fmt}{postfix}]"


class Progress:
    """Counts units of work; ``advance`` is cheap enough for every step."""

    def __init__(self, bar: "tqdm[Any]", artifact: Any = None) -> None:
        """Wrap a bar and, inside a task run, a `tasks.runtime.page.ProgressArtifact`."""
        self._bar, self._artifact = bar, artifact

    def start_at(self, done: int, total: int) -> None:
        """Set how much was done before (a resumed stage) and how much there is."""
        self._bar.total = total
        self._bar.initial = self._bar.n = done

    def advance(self, units: int = 1, **measured: str) -> None:
        """Count units as done; ``measured`` stands behind the bar."""
        if measured:
            self._bar.set_postfix(measured, refresh=False)
        self._bar.update(units)
        if self._artifact:
            self._artifact.percent = min(100.0, 100 * self._bar.n / max(self._bar.total or 1, 1))


class _LateBar(tqdm):  # type: ignore[type-arg]
    """A bar that is not drawn before there is something to see."""

    def display(self, *args: Any, **kwargs: Any) -> None:
        """Draw it, once the first seconds are over and something is done."""
        if self.n > self.initial and time.time() - self.start_t >= FIRST_AFTER_S:
            self.draw(*args, **kwargs)

    def draw(self, *args: Any, **kwargs: Any) -> None:
        """Draw it over what was drawn before."""
        super().display(*args, **kwargs)


class _Lines(_LateBar):
    """A line every ten seconds, for where no terminal is."""

    monitor_interval = 0  # tqdm's thread would draw one line more between two steps

    def draw(self, *_: Any, **__: Any) -> None:
        """Print a line of its own."""
        self.bar_format = LINE if self.total else LINE_WITHOUT_TOTAL
        self.fp.write(f"{self}\n")
        self.fp.flush()

    def close(self) -> None:
        """End without a last line: the stage's own sentence follows."""
        self.disable = True


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Progress]:
    """Draw a bar with rate and time left; outside a terminal print a line every ten seconds.

    A ``total`` of 0 is one that nobody knows.
    """
    # Inside a task run Prefect is loaded, and shows the progress, too.
    prefect = loaded("prefect.context")
    published: AbstractContextManager[Any] = nullcontext()
    if prefect is not None and prefect.TaskRunContext.get():
        published = closing(import_module("tasks.runtime.page").ProgressArtifact(what))

    is_terminal = sys.stderr.isatty()
    made = (_LateBar if is_terminal else _Lines)(
        total=total or None,
        desc=what if is_terminal else f"{what:<{STAGE_WIDTH}}",
        unit=f" {unit}",
        mininterval=0.2 if is_terminal else LINE_EVERY_S,
        miniters=None if is_terminal else 1,
        dynamic_ncols=is_terminal,
    )
    with published as artifact, made as bar:
        yield Progress(bar, artifact)
