import asyncio
import logging
from pathlib import Path

import pytest

from model.config import RunConfig
from model.errors import CheckpointError, DataError, ServiceError, TrainingDiverged
from tasks.records import DataVersion, Record, Run
from tasks.stage import _SentenceFilter, is_service_error, service_task, stage


class Made(Record):
    file: Path
    calls: int


@pytest.fixture
def run(tmp_path: Path) -> Run:
    data = DataVersion(folder=tmp_path, version="v", is_tracked=False, file_md5={})
    return Run(config=RunConfig(name="any"), data=data, fingerprint="f", folder=tmp_path, mlflow_run_id="")


def counting_stage(run: Run) -> tuple[list[int], object]:
    calls: list[int] = []

    @stage("count", Made)
    def count(run: Run) -> Made:
        calls.append(1)
        path = run.folder / f"made-{len(calls)}"
        path.write_text("made")
        return Made(file=path, calls=len(calls))

    return calls, count


def test_a_finished_stage_is_picked_up_instead_of_repeated(run: Run) -> None:
    calls, count = counting_stage(run)
    assert count.fn(run) == count.fn(run)  # type: ignore[attr-defined]
    assert len(calls) == 1


def test_a_result_whose_files_are_gone_counts_as_never_made(run: Run) -> None:
    _, count = counting_stage(run)
    count.fn(run).file.unlink()  # type: ignore[attr-defined]
    assert count.fn(run).calls == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["", "{", '{"file": 3}', '{"file": "x", "calls": 1, "more": 2}'])
def test_a_damaged_result_counts_as_never_made(run: Run, text: str) -> None:
    calls, count = counting_stage(run)
    (run.folder / "count").mkdir()
    (run.folder / "count" / "result.json").write_text(text)
    count.fn(run)  # type: ignore[attr-defined]
    assert len(calls) == 1


def test_a_stage_that_fails_leaves_no_result(run: Run) -> None:
    @stage("fails", Made)
    def fails(run: Run) -> Made:
        raise DataError("no")

    with pytest.raises(DataError):
        fails.fn(run)
    assert not (run.folder / "fails" / "result.json").exists()


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [(ServiceError, True), (DataError, False), (CheckpointError, False), (TrainingDiverged, False), (KeyError, False)],
)
def test_only_a_service_error_is_retried(error: type[Exception], is_retried: bool) -> None:
    class Failed:
        async def aresult(self) -> None:
            raise error("x")

    task = service_task("any")(lambda: None)
    assert asyncio.run(is_service_error(task, None, Failed())) is is_retried  # type: ignore[arg-type]


@pytest.mark.parametrize(("error", "has_trace"), [(DataError("one sentence"), False), (KeyError("bug"), True)])
def test_logs_show_our_errors_as_their_sentence_and_bugs_with_their_trace(error: Exception, has_trace: bool) -> None:
    record = logging.LogRecord(
        "any", logging.ERROR, "", 0, "Encountered exception", (), (type(error), error, error.__traceback__)
    )
    assert _SentenceFilter().filter(record)
    assert bool(record.exc_info) is has_trace
    assert has_trace or record.getMessage() == "one sentence"
