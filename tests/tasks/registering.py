"""Processes that register versions at once, forked from one that has imported all."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier

from tasks.registry import package, register, serving
from tasks.runtime.records import Evaluation, Run, TrainedModel, Validation, Version
from tests.tasks.shop import serve_by_torch, write_files

Registration = tuple[Run, Validation, TrainedModel, Evaluation]


@contextmanager
def registrars(processes: int) -> Iterator[Callable[[list[Registration]], list[Version]]]:
    """Yield a function by which as many processes register one version each, at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(processes, _begin, (context.Barrier(processes), dict(os.environ))) as pool:
        yield lambda registrations: pool.map(_register, registrations, chunksize=1)


_all_ready: Barrier


def _begin(barrier: Barrier, environment: dict[str, str]) -> None:
    global _all_ready
    os.environ.update(environment)
    _all_ready = barrier
    # As the shop does: what makes a model loadable takes seconds.
    package.write_package, serving.serve_model = write_files, serve_by_torch


def _register(registration: Registration) -> Version:
    _all_ready.wait(120)
    version: Version = register.register.fn(*registration)
    return version
