"""The log of a run: its flow's or task's logger, errors as one sentence, lines beside bars."""

import logging
import sys
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


def _drop_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of errors that are one sentence for the user; every record passes."""
    if record.exc_info and isinstance(record.exc_info[1], CommerceClipError):
        record.msg, record.args = "%s", (str(record.exc_info[1]),)
        record.exc_info = record.exc_text = None
    return True


def log_sentences() -> None:
    """Make Prefect's log handlers print our errors without a trace, and spare progress bars."""
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if _drop_traceback in handler.filters:
                continue
            handler.addFilter(_drop_traceback)
            if sys.stderr.isatty():
                beside_bars = tqdm.external_write_mode()
                handler.emit = beside_bars(handler.emit)  # type: ignore[method-assign]
