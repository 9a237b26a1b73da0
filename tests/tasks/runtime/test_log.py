"""What a terminal shows of a run's log: a stage and a sentence, each once."""

import logging

import pytest

from model.errors import STARTED_IN, DataError, ServiceError
from tasks.runtime import progress as bars
from tasks.runtime.environment import ROOT
from tasks.runtime.log import _drop_traceback, _is_shown, _Sentence
from tasks.runtime.progress import progress

OURS, PREFECTS = str(ROOT / "tasks/training/train.py"), "/x/site-packages/prefect/task_engine.py"


def shown(
    message: str,
    *arguments: object,
    level: int = logging.INFO,
    path: str = OURS,
    error: Exception | None = None,
    name: str = "prefect.task_runs",
) -> str | None:
    """Return the line of a record in the terminal, None where it is not shown."""
    trace = (type(error), error, None) if error else None
    record = logging.LogRecord(name, level, path, 1, message, arguments, trace)
    record.task_name, record.flow_name = "pretrain", "retrain"
    _drop_traceback(record)
    return _Sentence().format(record) if _is_shown(record) else None


def test_a_line_is_the_stage_and_a_sentence() -> None:
    assert shown("train: %d lines", 3) == "pretrain     train: 3 lines"
    assert shown("pretrain: 3 pairs") == "pretrain     3 pairs"
    assert shown("pretrain epoch 1") == "pretrain     epoch 1"
    assert shown("little", level=logging.WARNING) == "pretrain     warning: little"
    assert shown(f"in {STARTED_IN}/state/x") == "pretrain     in state/x"


def test_prefects_own_lines_are_shown_from_warning_on_and_an_error_not_at_all() -> None:
    assert shown("Finished in state Completed()", path=PREFECTS) is None
    assert shown("Starting temporary server", path=PREFECTS, name="prefect") is None
    assert shown("server is old", path=PREFECTS, name="prefect", level=logging.WARNING) is not None
    bug = "Encountered exception during execution: KeyError()"
    failed = "Finished in state Failed('x')"
    for message, error in ((bug, KeyError()), (failed, None), (bug, DataError("no pairs"))):
        assert shown(message, path=PREFECTS, level=logging.ERROR, error=error) is None
    assert shown("a hook failed", path=PREFECTS, level=logging.ERROR, error=KeyError())


def test_a_try_that_is_repeated_is_one_sentence() -> None:
    line = shown(
        "Task run failed with %s: %r - Retry %s/%s will start %s",
        "exception",
        ServiceError("MLflow does not answer"),
        1,
        3,
        "2 second(s) from now",
        path=PREFECTS,
    )
    assert line == (
        "pretrain     MLflow does not answer; try 1 of 3 failed, the next one starts "
        "2 second(s) from now"
    )


def test_piped_progress_is_a_line_now_and_then_and_never_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    monkeypatch.setattr(bars.time, "time", lambda: now)
    with progress("short", 3, "pairs") as bar:
        bar.advance(3)
    with progress("nothing", 0, "pairs"):
        pass
    with progress("long", 100, "pairs") as bar:
        for _ in range(100):
            now += 0.5
            bar.advance()
    with progress("unknown", 0, "rows") as bar:
        for _ in range(50):
            now += 1
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert 6 <= len(lines) <= 12 and len(set(lines)) == len(lines)
    assert all(line.startswith(("long         ", "unknown      ")) for line in lines)
    assert " of 100 [" in lines[0] and " rows [" in lines[-1]
