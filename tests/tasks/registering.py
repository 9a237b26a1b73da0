"""Processes that register versions at once, forked from one that has imported all: many of them cost little."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier

from tasks import registry
from tasks.records import Evaluation, Run, TrainedModel, Validation, Version

from .shop import log_files

Registration = tuple[Run, Validation, TrainedModel, Evaluation]


class Registrars:
    """As many processes, each of which registers one version whenever all do."""

    def __init__(self, processes: int) -> None:
        """Start them."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        barrier = context.Barrier(processes)
        self._pool = context.Pool(processes, _begin, (barrier, dict(os.environ)))

    def __call__(self, registrations: list[Registration]) -> list[Version]:
        """Let each process register one of as many, at once."""
        return self._pool.map(_register, registrations, chunksize=1)

    def close(self) -> None:
        """End the processes."""
        self._pool.terminate()
        self._pool.join()


@contextmanager
def registrars(processes: int) -> Iterator[Registrars]:
    """Yield processes that end with the block."""
    started = Registrars(processes)
    try:
        yield started
    finally:
        started.close()


_all_ready: Barrier


def _begin(barrier: Barrier, environment: dict[str, str]) -> None:
    global _all_ready
    os.environ.update(environment)
    _all_ready = barrier
    registry.log_model = log_files  # as the shop does: what makes a model loadable takes seconds


def _register(registration: Registration) -> Version:
    _all_ready.wait(120)
    version: Version = registry.register.fn(*registration)
    return version
