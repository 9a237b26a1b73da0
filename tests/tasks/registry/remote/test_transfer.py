"""Files come whole over slow, cut and silent ways, and what is done never looks failed."""

import os
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from model.errors import ServiceError
from tasks.registry import aliases, calls, register, transfer
from tasks.registry.tracking import begin_mlflow_run, tracking_client
from tests.gears import rounds
from tests.tasks.registry.remote.conftest import Enter
from tests.tasks.registry.remote.server import Way
from tests.tasks.shop import Shop

pytestmark = pytest.mark.timeout(900)

MIB = 1 << 20
SIZE = 12 * MIB
VIT_L_BYTES = 1_700_000_000
PROXY_BYTES_A_S = 20_000_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small calls wait for a second and pauses are short, so that nobody waits for the tests."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr(transfer, "PAUSES_S", (0, 0))


def make_folder(folder: Path, size: int) -> Path:
    """A model folder by the size of its weights: a small file, and one of random beginnings."""
    (folder / "artifacts").mkdir(parents=True)
    (folder / "MLmodel").write_text("x: 1")
    with open(folder / "artifacts" / "weights", "wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(size)
    return folder


@pytest.fixture
def run_id(enter: Enter, address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path / "state"))
    enter("ada", address)
    with calls.longer_calls(60):
        return begin_mlflow_run(tracking_client(), str(tmp_path), "transfer", {}, {})


def fetched(client: MlflowClient, run_id: str, to: Path) -> Path:
    return transfer.download_folder(f"{client.get_run(run_id).info.artifact_uri}/model", to)


@pytest.mark.faults(kind="P3: slow ways", trials=2)
def test_a_transfer_that_is_cut_goes_on_with_the_file_that_it_was_at(
    run_id: str, way: Way, tmp_path: Path
) -> None:
    folder, client = make_folder(tmp_path / "model", SIZE), tracking_client()
    sums = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    way.cuts += [8 * MIB] * 2
    transfer.upload_folder(client, run_id, folder, "model")
    assert len([path for method, path in way.requests if method == "PUT"]) >= len(sums)

    # What is there is not sent again, and what came is not fetched again.
    way.requests.clear()
    transfer.upload_folder(client, run_id, folder, "model")
    assert ["weights" in path for method, path in way.requests if method == "PUT"] == [False]
    way.cuts += [8 * MIB] * 2
    for _ in range(2):
        copy = fetched(client, run_id, tmp_path / "copy")
        assert {p.name: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == sums
        way.requests.clear()
    assert [path for _, path in way.requests if path.endswith("weights")] == []


@pytest.mark.faults(kind="P3: slow ways", trials=1)
def test_a_store_that_answers_long_after_the_last_byte_is_waited_for(
    run_id: str, way: Way, tmp_path: Path
) -> None:
    folder, client = make_folder(tmp_path / "model", MIB), tracking_client()
    way.delays["artifacts/weights"] = 2.5  # a small call would have given up twice
    transfer.upload_folder(client, run_id, folder, "model")
    assert fetched(client, run_id, tmp_path / "copy").is_dir()
    assert len([path for _, path in way.requests if path.endswith("weights")]) == 2


@pytest.mark.faults(kind="P3: slow ways", trials=1)
def test_time_grows_with_the_file_and_small_calls_stay_short() -> None:
    before = dict(os.environ)
    with calls.longer_calls(calls.file_seconds(VIT_L_BYTES), retries=0):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "400"
        with calls.longer_calls(60, 5):
            assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "400"
            assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert dict(os.environ) == before


@pytest.mark.faults(kind="P3: slow ways", trials=2)
def test_a_slow_mlflow_promotes_and_a_lost_reply_is_looked_up(
    shop: Shop, enter: Enter, address: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter("ada", address)
    with calls.longer_calls(60):
        shop.register(0.3, "f1")
    way.delays["registered-models/alias"] = 1.2
    lost = MlflowClient.set_registered_model_alias

    def set_without_reply(self: MlflowClient, *arguments: str) -> None:
        lost(self, *arguments)
        raise MlflowException("API request failed with timeout exception")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", set_without_reply)
    client = tracking_client()
    with register.registry_lock(shop.name, "the test"), calls.longer_calls():
        aliases.change_champion(client, shop.name, None, 1, "first", [])
        assert shop.alias("champion") == 1


@pytest.mark.faults(kind="P3: slow ways", trials=1)
def test_a_version_whose_reply_was_lost_is_made_once(
    shop: Shop, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_model_version

    def create_without_reply(self: MlflowClient, *arguments: str) -> None:
        create(self, *arguments)
        raise MlflowException("API request failed with timeout exception")

    monkeypatch.setattr(MlflowClient, "create_model_version", create_without_reply)
    assert shop.register(0.3, "f1").number == 1
    assert shop.register(0.3, "f1").number == 1


@pytest.mark.faults(kind="P3: slow ways", trials=1)
def test_a_store_that_is_gone_is_one_sentence_to_try_again(
    run_id: str, way: Way, tmp_path: Path
) -> None:
    folder, client = make_folder(tmp_path / "model", SIZE), tracking_client()
    way.cuts += [2 * MIB] * 20
    with (
        pytest.raises(ServiceError, match=r"could not send: .*check the server and run again"),
        calls.registry_call("could not send: "),
    ):
        transfer.upload_folder(client, run_id, folder, "model")


@pytest.mark.full
@pytest.mark.faults(kind="P3: slow ways", trials=rounds(0, 1))
def test_a_version_as_large_as_vit_l_passes_a_proxy_of_20_mb_a_second(
    run_id: str, way: Way, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, client = make_folder(tmp_path / "model", VIT_L_BYTES), tracking_client()
    way.bytes_a_s = PROXY_BYTES_A_S
    began = time.monotonic()
    transfer.upload_folder(client, run_id, folder, "model")
    uri = f"{client.get_run(run_id).info.artifact_uri}/model"
    with calls.longer_calls():
        client.create_registered_model("vit-l")
        version = client.create_model_version("vit-l", uri, run_id)
    seconds = time.monotonic() - began
    (weights,) = client.list_artifacts(run_id, "model/artifacts")
    assert (version.version, weights.file_size) == ("1", VIT_L_BYTES)
    with capsys.disabled():
        sys.stdout.write(f"\n1.7 GB registered through 20 MB/s in {seconds:.0f} s")
