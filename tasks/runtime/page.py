"""What a run publishes in the Prefect UI: tables, links, texts and progress.

People read them and they decide nothing, so a Prefect server that goes away in the middle of a run
costs a warning and what the UI would have shown. It never ends a stage, and progress never holds
one up.
"""

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from tasks.runtime.log import run_logger

# What Prefect's client raises: httpx's errors (and its own for a status, which is one of them),
# objects that are gone, an embedded server that does not start, replies that cannot be read.
REFUSALS = (httpx.HTTPError, PrefectException, OSError, RuntimeError, ValueError)
UPDATE_EVERY_S = 2.0
LAST_UPDATE_S = 5.0


def publish_table(rows: list[dict[str, Any]], key: str, description: str) -> None:
    """Publish rows as a table."""
    _try(f"the table {key}", lambda: create_table_artifact(rows, key=key, description=description))


def publish_link(address: str, text: str, key: str, description: str) -> None:
    """Publish a link."""
    _try(
        f"the link {key}",
        lambda: create_link_artifact(address, link_text=text, key=key, description=description),
    )


def publish_text(markdown: str, key: str, description: str) -> None:
    """Publish a text in Markdown."""
    _try(
        f"the text {key}",
        lambda: create_markdown_artifact(markdown, key=key, description=description),
    )


class ProgressArtifact:
    """A progress artifact of the current task run that a thread of its own keeps up to date."""

    def __init__(self, what: str) -> None:
        """Begin to publish; ``what`` is its description and, hyphenated, its key."""
        self.percent = 0.0
        self._what, self._published, self._is_warned = what, -1.0, False
        self._id: UUID | None = None
        self._closed = threading.Event()
        # The artifact belongs to the task run, which Prefect knows by the context of this thread.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._keep_up_to_date,), daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Publish the last percentage; do not wait any longer for a server that does not answer."""
        self._closed.set()
        self._thread.join(LAST_UPDATE_S)

    def _keep_up_to_date(self) -> None:
        self._try_update()
        while not self._closed.wait(UPDATE_EVERY_S):
            self._try_update()
        self._try_update()

    def _try_update(self) -> None:
        is_taken = _try(f"the progress of {self._what}", self._update, is_quiet=self._is_warned)
        self._is_warned = not is_taken

    def _update(self) -> None:
        percent = self.percent
        if self._id is None:
            key = f"{self._what.replace(' ', '-')}-progress"
            made = create_progress_artifact(percent, key=key, description=self._what)
            assert isinstance(made, UUID)  # no coroutine: this thread has no event loop
            self._id = made
        elif percent != self._published:
            update_progress_artifact(self._id, percent)
        self._published = percent


def _try(what: str, publish: Callable[[], object], is_quiet: bool = False) -> bool:
    """Return whether Prefect took something; log a warning where it did not."""
    try:
        publish()
    except REFUSALS as error:
        if not is_quiet:
            run_logger().warning(
                "Prefect did not take %s (%s: %s); the run goes on",
                what,
                type(error).__name__,
                error,
            )
        return False
    return True
