"""What all tests share: a state folder of their own, no network but loopback, and a miniature data
set."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.gears import IS_FULL
from tests.scheduling import ByFixture, longest_first

# Prefect and MLflow read their settings at import, so the session's state folder is chosen before
# any test module.
os.environ["COMMERCE_CLIP_STATE"] = tempfile.mkdtemp(prefix="commerce-clip-tests-")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many tests as cores run at once

from tasks.runtime.environment import prepare

prepare()

STATE = os.environ["COMMERCE_CLIP_STATE"]

settings.register_profile("no clock", deadline=None)  # a busy machine is no failure
settings.load_profile("no clock")

MINIATURE_SIZES = {"pretrain": 48, "train": 48, "valid": 16, "test": 24}
LOOPBACK = ("127.", "::1", "localhost")


def pytest_unconfigure() -> None:
    shutil.rmtree(STATE, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFixture:
    return ByFixture(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not IS_FULL:
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=longest_first)
    wanted = {
        "real": ("REAL_PAIRS", "REAL_PAIRS names no folder of real pairs"),
        "large": ("LARGE_MODELS", "LARGE_MODELS=1 runs towers of several GB"),
    }
    for marker, (variable, reason) in wanted.items():
        if not os.environ.get(variable):
            for item in filter(lambda item: item.get_closest_marker(marker), items):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def only_loopback() -> Iterator[None]:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    socket.socket.connect = guarded  # type: ignore[method-assign]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def no_database_of_an_earlier_test() -> Iterator[None]:
    """Forget the MLflow address that MLflow leaves in the environment once it is used."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn pairs in the project's layout, with side tables; read it, copy it, do not
    change it."""
    from scripts.draw_sample import write_sample

    folder = tmp_path_factory.mktemp("miniature")
    write_sample(folder, MINIATURE_SIZES, seed=7)
    return folder


@pytest.fixture(scope="session")
def tracked_project(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Path:
    """A git and DVC repository that tracks the miniature; clone it, do not change it."""
    from tests.projects import make_project

    return make_project(tmp_path_factory.mktemp("tracked"), miniature)


@pytest.fixture
def project(tracked_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository that this process works in, with a remote of its own beside it."""
    from tests.projects import clone_project, use

    clone = clone_project(tracked_project, tmp_path)
    use(clone, tmp_path / "state", monkeypatch)
    return clone


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server for every flow that tests run in this process."""
    from prefect.logging.configuration import setup_logging
    from prefect.testing.utilities import prefect_test_harness

    setup_logging()  # its console handler must not bind to one test's captured stderr
    with prefect_test_harness(server_startup_timeout=120):
        yield
