"""Make a function a stage: a task retried on ServiceError alone, never repeated when finished.

A stage's result is JSON of ours beside its files, written once it has ended well (DECISIONS 1). A
rerun of the same fingerprint finds it there, checks that its files still exist, and goes on; a
result whose files are gone counts as never made. A stage that names the sections of the config that
it reads is also found by runs of other fingerprints: a changed setting of the evaluation trains
nothing again.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun

from model.errors import ServiceError
from tasks.runtime.environment import state_folder
from tasks.runtime.lineage import stage_key
from tasks.runtime.log import run_logger
from tasks.runtime.records import Record, Run

RETRY_DELAYS_S = [2, 10, 30]

_P = ParamSpec("_P")
_R = TypeVar("_R", bound=Record)
_T = TypeVar("_T")


def is_service_error(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether trying again may help; a failed state holds what was raised."""
    return isinstance(state.data, ServiceError)


def service_task(name: str) -> Callable[[Callable[_P, _T]], Task[_P, _T]]:
    """Make a Prefect task that is retried, with growing delays, on ServiceError alone."""
    return task(
        name=name,
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=list(RETRY_DELAYS_S),
        retry_condition_fn=is_service_error,
        persist_result=False,
    )


def stage(
    name: str, result_type: type[_R], reads: Sequence[str] = ()
) -> Callable[[Callable[Concatenate[Run, _P], _R]], Task[Concatenate[Run, _P], _R]]:
    """Make a function of a run a stage whose finished result is picked up instead of repeated.

    ``reads`` are the sections of the config that its result depends on. With them, other runs pick
    it up, too, where these, the data version, the stage's code and the results before it are equal.
    """

    def decorate(function: Callable[Concatenate[Run, _P], _R]) -> Task[Concatenate[Run, _P], _R]:
        @functools.wraps(function)
        def once(run: Run, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            places = [run.folder / name / "result.json"]
            if reads:
                upstream = [record.identity() for record in args if isinstance(record, Record)]
                key = stage_key(run, function.__module__, reads, upstream)
                places.append(state_folder() / "results" / name / f"{key}.json")

            for path in places:
                finished = result_type.read(path)
                if finished is not None and all(file.exists() for file in finished.files()):
                    run_logger().info(
                        "%s was finished before; its result is used again (%s)", name, path
                    )
                    return finished

            result = function(run, *args, **kwargs)
            for path in places:
                result.write(path)
            return result

        return service_task(name)(once)

    return decorate
