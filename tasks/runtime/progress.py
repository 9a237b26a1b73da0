"""Progress that is seen twice: a bar in the terminal and a progress artifact in the Prefect UI."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

from prefect.context import TaskRunContext
from tqdm import tqdm

from tasks.runtime.page import ProgressArtifact

PLAIN_LINE = (
    "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt} "
    "[{elapsed}<{remaining}, {rate_fmt}{postfix}]\n"
)


class Progress:
    """Counts units of work; ``advance`` is cheap enough for every step."""

    def __init__(self, bar: "tqdm[Any]", artifact: ProgressArtifact | None) -> None:
        """Wrap a bar and, inside a task run, a progress artifact."""
        self._bar, self._artifact = bar, artifact

    def start_at(self, done: int, total: int) -> None:
        """Set how much was done before (a resumed stage) and how much there is."""
        self._bar.total = total
        self._bar.initial = self._bar.n = done
        self._bar.refresh()

    def advance(self, units: int = 1, **measured: str) -> None:
        """Count units as done; ``measured`` stands behind the bar."""
        if measured:
            self._bar.set_postfix(measured, refresh=False)
        self._bar.update(units)
        if self._artifact:
            self._artifact.percent = min(100.0, 100 * self._bar.n / max(self._bar.total or 1, 1))


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Progress]:
    """Draw a bar with rate and time left; outside a terminal print a line every ten seconds."""
    shape: dict[str, Any] = (
        {"mininterval": 0.2, "dynamic_ncols": True}
        if sys.stderr.isatty()
        else {"mininterval": 10.0, "bar_format": PLAIN_LINE}
    )
    published = closing(ProgressArtifact(what)) if TaskRunContext.get() else nullcontext()
    with published as artifact, tqdm(total=total, desc=what, unit=f" {unit}", **shape) as bar:
        yield Progress(bar, artifact)
