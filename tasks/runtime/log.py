"""The log of a run: its flow's or task's logger, and what of it a terminal shows.

A line in the terminal is the stage and a sentence. Prefect's own lines are shown from WARNING on;
an error that is one sentence for the user is left to the command, which prints it once. Prefect's
UI gets every line. Light: Prefect is used where it is loaded, and where it is not there is no run.
"""

import logging
import shutil
import sys
import textwrap
from typing import Any

from model.errors import STARTED_IN, CommerceClipError
from tasks.runtime.environment import ROOT

OUR_CODE = tuple(f"{ROOT / package}/" for package in ("flows", "tasks", "model"))
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
RETRIED = "Task run failed with %s: %r - Retry"
# How Prefect repeats an error that is raised on, and is printed by the command in the end.
REPEATED = (
    "Task run failed with",
    "Encountered exception during execution",
    "Finished in state",
    "Crash detected!",
)
STAGE_WIDTH = 12


def loaded(module: str) -> Any:
    """Return a module that this process has loaded already, else None."""
    return sys.modules.get(module)


def run_logger() -> Any:
    """Return the logger of the current flow or task run, or a plain one outside of any."""
    prefect = loaded("prefect.logging")
    if prefect is not None:
        try:
            return prefect.get_run_logger()
        except loaded("prefect.exceptions").MissingContextError:
            pass
    return logging.getLogger(__name__)


def flow_run_id() -> str | None:
    """Return the id of the current flow run, None outside of any."""
    # Every flow has loaded it for its name (flows/names.py).
    return getattr(loaded("prefect.runtime.flow_run"), "id", None)


def log_sentences() -> None:
    """Make Prefect's handlers log our errors without a trace, and its console only what matters."""
    for name in ("", "prefect", *RUN_LOGGERS):
        for handler in logging.getLogger(name).handlers:
            if _drop_traceback in handler.filters:
                continue
            handler.addFilter(_drop_traceback)
            if not hasattr(handler, "console"):  # Prefect's way to its UI, or somebody else's
                continue

            handler.addFilter(_is_shown)
            handler.setFormatter(_Sentence())
            if loaded("tqdm") and sys.stderr.isatty():
                beside_bars = loaded("tqdm").tqdm.external_write_mode()
                handler.emit = beside_bars(handler.emit)  # type: ignore[method-assign]


def _drop_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of errors that are one sentence for the user; every record passes."""
    if record.exc_info and isinstance(record.exc_info[1], CommerceClipError):
        record.msg, record.args = "%s", (record.exc_info[1],)
        record.exc_info = record.exc_text = None
    return True


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a terminal shows a record: all of ours, of Prefect's what warns."""
    if not record.name.startswith("prefect") or record.pathname.startswith(OUR_CODE):
        return True
    if record.name in RUN_LOGGERS:
        first = record.args[0] if isinstance(record.args, tuple) and record.args else None
        is_error = record.msg == "%s" and isinstance(first, CommerceClipError)
        if is_error or str(record.msg).startswith(REPEATED):
            return str(record.msg).startswith(RETRIED)
    return record.levelno >= logging.WARNING


class _Sentence(logging.Formatter):
    """The stage, or the flow between stages, and a sentence."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; a trace, where there is one, follows it."""
        if str(record.msg).startswith(RETRIED) and isinstance(record.args, tuple):
            _, error, tried, tries, when = record.args
            record.msg = f"{error}; try {tried} of {tries} failed, the next one starts {when}"
            record.args = ()

        stage = getattr(record, "task_name", None) or getattr(record, "flow_name", record.name)
        warning = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        sentence = super().format(record).removeprefix(f"{stage}: ").removeprefix(f"{stage} ")
        line = f"{stage:<{STAGE_WIDTH}} {warning}{sentence.replace(f'{STARTED_IN}/', '')}"
        if record.exc_info or not sys.stderr.isatty():
            return line
        # A long sentence goes on below itself, its words whole.
        return textwrap.fill(
            line,
            shutil.get_terminal_size().columns,
            subsequent_indent=" " * (STAGE_WIDTH + 1),
            break_long_words=False,
            break_on_hyphens=False,
        )
