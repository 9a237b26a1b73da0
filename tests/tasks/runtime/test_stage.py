import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.states import Failed

from model.config.load import RunConfig
from model.errors import CheckpointError, DataError, ServiceError, TrainingDiverged
from tasks.runtime.log import _drop_traceback
from tasks.runtime.records import DataVersion, Record, Run, TrainedModel
from tasks.runtime.stage import is_service_error, service_task, stage
from tests.runs import lineage

Shared = Callable[..., "tuple[Made, int]"]


class Made(Record):
    file: Path
    calls: int


@pytest.fixture
def run(tmp_path: Path) -> Run:
    data = DataVersion(folder=tmp_path, version="v", is_tracked=False, file_md5={})
    return Run(
        config=RunConfig(name="any"),
        data=data,
        lineage=lineage(),
        folder=tmp_path,
        mlflow_run_id="",
    )


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


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run) -> Shared:
    """Return a stage that works in a run of its own, and gives its result and number of calls."""
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path / "state"))
    calls: list[int] = []

    @stage("count", Made, reads=("model", "finetune"))
    def count(run: Run, start: TrainedModel) -> Made:
        calls.append(1)
        path = run.folder / f"made-{len(calls)}"
        path.write_text("made")
        return Made(file=path, calls=len(calls))

    def again(data: str = "v", weights: str = "w", **changed: object) -> tuple[Made, int]:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        config = RunConfig.model_validate({"name": "any"} | changed)
        version = run.data.model_copy(update={"version": data})
        start = TrainedModel(
            folder=folder, weights_sha256=weights, best_epoch=1, valid_mean_recall=0.0
        )
        here = run.model_copy(
            update={
                "config": config,
                "folder": folder,
                "data": version,
                "lineage": lineage(str(folder)),
            }
        )
        return count.fn(here, start), len(calls)

    return again


def test_a_changed_setting_of_the_evaluation_or_the_gate_trains_nothing_again(
    shared: Shared,
) -> None:
    made, _ = shared()
    assert shared(evaluate={"gallery_queries": 3}, gate={"margin": 0.1}, name="other") == (made, 1)
    assert shared(finetune={"epochs": 3}, data="v")[1] == 2


def test_other_data_limits_seed_code_or_results_before_it_make_a_stage_work_again(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared()
    changes: list[dict[str, object]] = [
        {"data": "v2"},
        {"weights": "w2"},
        {"seed": 1},
        {"precision": "bf16"},
        {"model": {"name": "ViT-L-14"}},
    ]
    for number, change in enumerate(changes, 2):
        assert shared(**change)[1] == number
    monkeypatch.setattr("tasks.runtime.lineage.code_version", lambda *doors: "other code")
    assert shared()[1] == len(changes) + 2


@pytest.mark.faults(kind="S12: cached result without files", trials=3)
def test_a_shared_result_whose_files_are_gone_is_a_miss(shared: Shared) -> None:
    for trial in (1, 2, 3):
        made, calls = shared()
        assert calls == trial
        made.file.unlink()


def test_a_stage_that_fails_leaves_no_result(run: Run) -> None:
    @stage("fails", Made)
    def fails(run: Run) -> Made:
        raise DataError("no")

    with pytest.raises(DataError):
        fails.fn(run)
    assert not (run.folder / "fails" / "result.json").exists()


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (ServiceError, True),
        (DataError, False),
        (CheckpointError, False),
        (TrainingDiverged, False),
        (KeyError, False),
    ],
)
def test_only_a_service_error_is_retried(error: type[Exception], is_retried: bool) -> None:
    task = service_task("any")(lambda: None)
    state = Failed(data=error("x"))  # what Prefect's engine asks with
    assert is_service_error(task, None, state) is is_retried  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "has_trace"), [(DataError("one sentence"), False), (KeyError("bug"), True)]
)
def test_logs_show_our_errors_as_their_sentence_and_bugs_with_their_trace(
    error: Exception, has_trace: bool
) -> None:
    record = logging.LogRecord(
        "any",
        logging.ERROR,
        "",
        0,
        "Encountered exception",
        (),
        (type(error), error, error.__traceback__),
    )
    assert _drop_traceback(record)
    assert bool(record.exc_info) is has_trace
    assert has_trace or record.getMessage() == "one sentence"
