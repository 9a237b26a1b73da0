"""The README's production section, typed as it stands there, by a user of MLflow with ordinary
rights."""

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration import production
from tests.integration.conftest import KEPT, Shell
from tests.integration.project import make_shop
from tests.integration.servers import request
from tests.integration.worker import PlainWorker, plain_worker

pytestmark = [
    pytest.mark.integration,
    pytest.mark.full,
    pytest.mark.faults,
    pytest.mark.timeout(1800),
]

PATIENCE_S = 1200  # MLflow hashes the password for every request
USER = "retrainer"
PASSWORD = "a password of twenty letters"


@dataclass(frozen=True)
class Production:
    """What was typed and what came of it."""

    folder: Path
    shell: Shell
    worker: PlainWorker
    store: dict[str, str]
    typed: "list[subprocess.CompletedProcess[str]]"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Iterator[Production]:
    folder = tmp_path_factory.mktemp("production")
    project = make_shop(folder, miniature)
    plain = {name: os.environ[name] for name in KEPT if name in os.environ}
    plain |= {"HOME": str(folder / "servers"), "PYTHONPATH": str(project)}
    (folder / "servers").mkdir()
    with ExitStack() as stack:
        database = stack.enter_context(production.postgres())
        store = stack.enter_context(production.bucket())
        port = stack.enter_context(production.mlflow_server(folder, database, store, plain))
        mlflow, trusted = stack.enter_context(production.tls_proxy(port, folder))
        prefect = stack.enter_context(production.prefect_server(folder, database, plain))
        add_user(f"http://{production.HOST}:{port}")

        typed = {
            "PREFECT_API_URL": prefect,
            "PREFECT_API_AUTH_STRING": f"shop:{production.SECRET}",
            "MLFLOW_TRACKING_URI": mlflow,
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(trusted),
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "COMMERCE_CLIP_STATE": str(folder / "state"),
        }
        shell = Shell(folder, typed | {"PYTHONPATH": str(project)}, project, PATIENCE_S)
        (project / "state").mkdir()  # as `make setup` does
        done = [shell.flows("deploy"), shell.python("-m", "prefect", "deploy", "--all")]
        worker = stack.enter_context(
            plain_worker(folder / "worker", project, typed, "commerce-clip")
        )
        run = "prefect deployment run retrain/sample --watch"
        done += [shell.python("-m", *run.split()), shell.flows("history")]
        yield Production(folder, shell, worker, store, done)


def add_user(mlflow: str) -> None:
    """Make a user as an administrator does; nothing is granted to it beyond the default."""
    administrator = f"admin:{production.SECRET}-of-the-administrator".encode()
    headers = {"Authorization": f"Basic {base64.b64encode(administrator).decode()}"}
    made = {"username": USER, "password": PASSWORD}
    request(f"{mlflow}/api/2.0/mlflow/users/create", made, headers)


@pytest.mark.faults(kind="P2: an ordinary user of MLflow", trials=1)
def test_what_is_typed_ends_in_a_promoted_version(shop: Production) -> None:
    for done in shop.typed:
        assert done.returncode == 0, done.stdout + done.stderr + shop.worker.log()
    assert "none → 1" in shop.typed[-1].stdout
    stored = production.client(shop.store).list_objects_v2(Bucket=production.BUCKET)
    assert any(each["Key"].endswith(".safetensors") for each in stored["Contents"])


def test_no_log_has_a_trace(shop: Production) -> None:
    for log in (*shop.folder.glob("*.log"), *shop.folder.glob("worker/*.log")):
        assert "Traceback" not in log.read_text(errors="replace"), log


@pytest.mark.faults(kind="P1: a plain worker", trials=1)
def test_nothing_is_in_home_and_no_name_was_looked_up(shop: Production) -> None:
    assert [*shop.worker.home.rglob("*"), *shop.shell.home.rglob("*")] == []
    assert shop.worker.looked_up() == []
