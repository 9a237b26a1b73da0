"""One MLflow server with passwords for all tests that need one: it takes seconds to start."""

from collections.abc import Callable, Iterator

import pytest

from tests.tasks.registry.remote.server import Server, Way, mlflow_server, proxy

Enter = Callable[[str, str], None]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def way() -> Way:
    return Way()


@pytest.fixture
def address(server: Server, way: Way) -> Iterator[str]:
    """The server behind a proxy of the test's own."""
    with proxy(server.address, way) as found:
        yield found


@pytest.fixture
def enter(server: Server, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """A function that makes this process a user's at an address."""

    def be(user: str, at: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", at)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.add_user(user))

    return be
