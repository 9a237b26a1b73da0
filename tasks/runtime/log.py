"""The log of a run: its flow's or task's logger, errors as one sentence, lines beside bars."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from tqdm import tqdm

from model.errors import CommerceClipError


def run_logger() -> Any:
    """Return the logger of the current flow or task run, or a plain one outside of any."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)


class _SentenceFilter(logging.Filter):
    """Drop the traceback of errors that are one sentence for the user."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], CommerceClipError):
            record.msg, record.args = "%s", (str(record.exc_info[1]),)
            record.exc_info = record.exc_text = None
        return True


def log_sentences() -> None:
    """Make Prefect's log handlers print our errors without a trace, and spare progress bars."""
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(existing, _SentenceFilter) for existing in handler.filters):
                handler.addFilter(_SentenceFilter())
                handler.emit = _beside_bars(handler.emit)  # type: ignore[method-assign, assignment]


def _beside_bars(emit: Callable[[logging.LogRecord], None]) -> Callable[[logging.LogRecord], None]:
    def around(record: logging.LogRecord) -> None:
        with tqdm.external_write_mode():
            emit(record)

    return around if sys.stderr.isatty() else emit
