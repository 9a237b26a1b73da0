"""The quick way of a command answers as the long way does, or not at all."""

import fcntl
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.__main__ import main
from flows.cli import quick
from flows.outcome import Report, nothing_new
from flows.settings import read_config
from model.errors import CommerceClipError
from tasks.data.dvc import TrackedFolder
from tasks.data.version import materialise_data
from tasks.registry import aliases, reading
from tasks.registry.register import find_registered
from tasks.registry.tracking import tracking_client
from tasks.registry.versions import aliases_of, trained_on
from tasks.runtime.environment import ROOT, state_folder
from tasks.runtime.lineage import trace_lineage
from tasks.runtime.records import DataVersion

CONFIG = str(ROOT / "configs/sample.yaml")
NAME = "commerce-clip"


def long_way(config: str = CONFIG, data: str | None = None, **knobs: object) -> Report | None:
    """The answer of the flow, whose tasks are called as plain functions; None where it trains."""
    settings = read_config(config, [f"{key}={value}" for key, value in knobs.items()], data)
    version = materialise_data.fn(settings)
    found = find_registered(settings, trace_lineage(settings, version).fingerprint)
    if found is None:
        return None
    return nothing_new(settings.name, version.version, found.name, found.number, aliases_of(found))


def both(**given: object) -> Report | None:
    """The quick answer, after it was compared with the long one."""
    knobs = {key: value for key, value in given.items() if key not in ("config", "data")}
    overrides = [f"{key}={value}" for key, value in knobs.items()]
    answer = quick.find_nothing_new(
        str(given.get("config", CONFIG)), given.get("data"), overrides=overrides
    )
    if answer is not None:
        assert answer == long_way(**given)
    return answer


def same_registry() -> reading.Registry:
    """What is read without MLflow, after it was compared with MLflow's own answers."""
    found = reading.read_registry()
    assert found is not None, "MLflow's schema is known: look at its migrations, then add its head"
    expected = {data: sorted(names) for data, names in trained_on().items()}
    assert {data: sorted(names) for data, names in found.trained_on().items()} == expected
    for version in found.versions:
        assert found.aliases_of(version) == aliases_of(version)
    for name in (NAME, "other", "nobody"):
        settings = read_config(CONFIG, [f"registered_model={name}"])
        for mark in ("a", "b", "c"):
            long = find_registered(settings, mark)
            short = found.find_finished(name, mark)
            assert (long and (long.name, long.number)) == (short and (short.name, short.number))
        changes = [change.model_dump(mode="json") for change in aliases.history(name)]
        assert reading.read_changes(name) == changes
    return found


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of an MLflow of this test alone."""
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path / "own-state"))
    return tracking_client()


def add_version(client: MlflowClient, name: str, **tags: str) -> str:
    return str(client.create_model_version(name, "file:///nowhere", tags=tags).version)


def finished(mark: str) -> dict[str, str]:
    """The tags of a version that the run of a fingerprint registered, exported and decided on."""
    return {
        reading.FINGERPRINT_TAG: mark,
        reading.EXPORT_TAG: "9 rows",
        reading.decided_tag(mark): "true",
        reading.DATA_VERSION_TAG: f"data of {mark}",
    }


def test_the_registry_reads_as_mlflow_reads_it_in_every_state(client: MlflowClient) -> None:
    assert reading.read_registry() == reading.Registry([], {})  # there is no file yet
    same_registry()
    for name in (NAME, "other"):
        client.create_registered_model(name)
    same_registry()

    # Registered, exported, decided: three steps, and a kill between any two.
    first = add_version(client, NAME, **{reading.FINGERPRINT_TAG: "a"})
    assert same_registry().find_finished(NAME, "a") is None
    client.set_model_version_tag(NAME, first, reading.EXPORT_TAG, "9 rows")
    assert same_registry().find_finished(NAME, "a") is None
    client.set_model_version_tag(NAME, first, reading.decided_tag("a"), "true")
    assert same_registry().find_finished(NAME, "a") is not None

    # A second one of the same, one of another model, one that another run led to.
    second = add_version(client, NAME, **finished("a"))
    add_version(client, "other", **finished("b"))
    third = add_version(client, NAME, **finished("c"))
    client.set_model_version_tag(NAME, third, reading.run_tag("b"), "run")
    client.set_model_version_tag(NAME, third, reading.decided_tag("b"), "true")
    found = same_registry().find_finished(NAME, "b")
    assert found is not None and found.number == 3

    for alias, number in (("champion", second), ("challenger", third), ("mine", first)):
        client.set_registered_model_alias(NAME, alias, number)
    same_registry()
    client.set_registered_model_alias(NAME, "previous", second)
    client.set_registered_model_alias(NAME, "champion", third)
    same_registry()
    client.delete_registered_model_alias(NAME, "challenger")
    client.delete_model_version(NAME, third)
    assert same_registry().find_finished(NAME, "c") is None
    client.rename_registered_model("other", "another")
    same_registry()
    client.delete_registered_model(NAME)
    assert list(same_registry().aliases) == ["another"]


def test_the_history_reads_as_mlflow_reads_it_and_its_run_ends(client: MlflowClient) -> None:
    client.create_registered_model(NAME)
    numbers = [int(add_version(client, NAME, **finished(mark))) for mark in "abc"]
    for before, after in zip([None, *numbers], numbers, strict=False):
        aliases.change_champion(client, NAME, before, after, f"{after} is better", [])
        same_registry()
    changes = reading.read_changes(NAME)
    assert changes is not None and [change["after"] for change in changes] == numbers

    experiment = client.get_experiment_by_name(reading.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    client.delete_run(run.info.run_id)
    same_registry()


def test_who_asks_for_a_history_that_is_not_there_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path))
    assert main(["history", "--registered-model", "commerce-clap"]) == 1
    sentence = capsys.readouterr().err
    assert "commerce-clap: no such registered model; did you mean 'commerce-clip'?" in sentence
    assert main(["history"]) == 0 and "no champion yet" in capsys.readouterr().out
    assert not any(path.is_file() for path in tmp_path.rglob("*"))

    # MLflow's own way says the same and makes no run.
    tracking_client().create_registered_model("mine")
    monkeypatch.setattr("flows.cli.quick.read_registry", lambda: None)
    assert main(["history", "--registered-model", "nope"]) == 1
    assert main(["history", "--registered-model", "mine"]) == 0
    experiments = tracking_client().search_experiments()
    assert tracking_client().search_runs([each.experiment_id for each in experiments]) == []


def unknown_schema(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("update alembic_version set version_num = 'later'")


def no_table(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("alter table tags rename to others")


def no_database(database: Path) -> None:
    database.write_bytes(b"no database at all" * 1000)


@pytest.mark.parametrize("spoil", [unknown_schema, no_table, no_database])
def test_a_file_that_is_not_as_it_is_known_is_no_answer(
    client: MlflowClient, spoil: Callable[[Path], None]
) -> None:
    client.create_registered_model(NAME)
    spoil(state_folder() / "mlflow.db")
    assert reading.read_changes(NAME) is None
    assert (reading.read_registry() is None) == (spoil is not no_table)


def test_a_registry_that_somebody_writes_or_that_lies_elsewhere_is_no_answer(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_registered_model(NAME)
    monkeypatch.setattr(reading, "BUSY_S", 0.01)
    writer = sqlite3.connect(state_folder() / "mlflow.db", isolation_level=None)
    writer.execute("begin exclusive")
    assert reading.read_registry() is None and reading.read_changes(NAME) is None
    writer.execute("rollback")
    writer.close()
    assert reading.read_registry() is not None

    database = f"sqlite:///{state_folder() / 'mlflow.db'}"
    for uri in (
        "postgresql://u:p@h/d",
        "sqlite:///mlflow.db",
        f"{database}?timeout=1",
        "databricks",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert reading.read_registry() is None and reading.read_changes(NAME) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    assert reading.read_registry() is not None
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:////another.db")
    assert reading.read_registry() is None


# ---- a server ----

MODELS = {"registered_models": [{"name": NAME, "aliases": [{"alias": "champion", "version": "2"}]}]}
VERSIONS = {
    "model_versions": [
        {"name": NAME, "version": "10", "tags": [{"key": "b", "value": "c"}]},
        {"name": NAME, "version": "2"},
    ]
}


class Server(ThreadingHTTPServer):
    """Answers what MLflow's REST API answers; ``seen`` are the headers of the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.seen = 200, list[str | None]()
        self.replies: dict[str, object] = {"registered-models": MODELS, "model-versions": VERSIONS}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append(self.headers["Authorization"])
        self.send_response(self.server.status)
        self.end_headers()
        reply = self.server.replies[self.path.split("/")[4]]
        self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{made.server_port}")
        yield made
        made.shutdown()


def test_a_server_is_asked_by_two_gets(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reading.read_registry()
    assert found is not None and [version.number for version in found.versions] == [2, 10]
    assert found.aliases == {NAME: {"champion": 2}} and found.versions[1].tags == {"b": "c"}
    assert server.seen == [None, None]
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert reading.read_registry() is not None and server.seen[-1] == "Basic YW5uOnNlY3JldA=="


@pytest.mark.parametrize(
    "reply", [b"<html>sign in</html>", [], {"model_versions": [{"name": NAME}]}, b""]
)
def test_a_reply_that_is_not_mlflows_is_no_answer(server: Server, reply: object) -> None:
    server.replies["model-versions"] = reply
    assert reading.read_registry() is None


def test_a_server_that_refuses_or_has_more_pages_is_no_answer(server: Server) -> None:
    server.status = 403
    assert reading.read_registry() is None
    server.status, server.replies["registered-models"] = 200, {**MODELS, "next_page_token": "x"}
    assert reading.read_registry() is None
    server.shutdown()
    server.server_close()
    assert reading.read_registry() is None


# ---- a run with nothing new ----


@pytest.fixture
def registered(project: Path, prefect_server: None) -> MlflowClient:
    """The project's data version has a finished version of the sample config."""
    client = tracking_client()
    client.create_registered_model(NAME)
    register(client, TrackedFolder(project / "data").promised())
    client.set_registered_model_alias(NAME, "champion", "1")
    return client


def register(client: MlflowClient, version: str, *overrides: str) -> None:
    data = DataVersion(folder=Path(), version=version, is_tracked=True, file_md5={})
    mark = trace_lineage(read_config(CONFIG, overrides), data).fingerprint
    add_version(client, NAME, **finished(mark))


def test_nothing_new_is_found_without_prefect_or_mlflow_and_just_as_the_flow_finds_it(
    registered: MlflowClient, project: Path, tmp_path: Path
) -> None:
    answer = both()
    assert answer is not None and "commerce-clip version 1" in answer.headline
    assert answer.facts["aliases"] == "champion"
    assert both(workers=3) is not None  # another way to the same results
    assert both(seed=7) is None
    assert both(registered_model="other") is None

    # A folder that nobody tracks: its hash counts, too.
    folder = Path(shutil.copytree(project / "data", tmp_path / "Herbst 2026 (neu)"))
    assert both(data=str(folder)) is not None
    (folder / "finetune" / "test.tsv").write_bytes(b"another\tline\n")
    assert both(data=str(folder)) is None
    register(registered, long_way_version(folder))
    assert both(data=str(folder)) is not None


def long_way_version(folder: Path) -> str:
    return materialise_data.fn(read_config(CONFIG, data=str(folder))).version


def test_data_that_are_not_their_version_are_left_to_the_flow(
    registered: MlflowClient, project: Path
) -> None:
    tsv, data_dvc = project / "data" / "finetune" / "train.tsv", project / "data.dvc"
    content, named = tsv.read_bytes(), data_dvc.read_text()
    for spoil in (b"", content + b"one more\tline\n"):
        tsv.write_bytes(spoil)
        assert both() is None
    tsv.unlink()
    assert both() is None
    tsv.write_bytes(content)
    assert both() is not None

    (project / "data" / "mine.tsv").write_bytes(b"mine")
    assert both() is None
    (project / "data" / "mine.tsv").unlink()
    for text in ("", "outs: []", named.replace("md5: ", "md5: 0")):
        data_dvc.write_text(text)
        assert both() is None
    data_dvc.unlink()
    assert both() is None
    shutil.rmtree(project / "data")
    assert both() is None


def test_what_another_process_does_or_a_server_wants_is_left_to_the_flow(
    registered: MlflowClient,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert quick.print_nothing_new(CONFIG) and "nothing new" in capsys.readouterr().out
    for name in ("retrain-commerce-clip", "data"):
        with open(state_folder() / "locks" / f"{name}.lock", "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert both() is None
    journal = state_folder() / "ingest" / "swap.json"
    journal.parent.mkdir()
    journal.touch()
    assert both() is None
    journal.unlink()
    assert quick.find_nothing_new(CONFIG, overrides=["gate.approval=manual"]) is None

    # A run on a Prefect server leaves a flow run, with nothing new, too.
    profiles = state_folder() / "profiles.toml"
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(profiles))
    profiles.write_text("[profiles.local]\n")
    assert quick.print_nothing_new(CONFIG)
    profiles.write_text('[profiles.shop]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    assert not quick.print_nothing_new(CONFIG)
    profiles.unlink()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert not quick.print_nothing_new(CONFIG)
    monkeypatch.delenv("PREFECT_API_URL")
    for name, text in (("prefect.toml", "[api]\n"), ("pyproject.toml", "[tool.prefect.api]\n")):
        monkeypatch.chdir(project)
        (project / name).write_text(text)
        assert not quick.print_nothing_new(CONFIG)
        (project / name).write_text("no table")
        assert not quick.print_nothing_new(CONFIG)
        (project / name).unlink()
    monkeypatch.chdir(ROOT)
    assert quick.print_nothing_new(CONFIG)


def test_the_mistakes_of_the_flow_are_those_of_the_quick_way(registered: MlflowClient) -> None:
    for knobs in ({"finetune.epoch": 2}, {"seed": -1}):
        with pytest.raises(CommerceClipError) as long:
            long_way(**knobs)
        with pytest.raises(CommerceClipError) as short:
            both(**knobs)
        assert str(long.value) == str(short.value)
