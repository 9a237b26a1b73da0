"""Promoters that run at once, die half-way or get no answer: there is one champion, and its
predecessor is known."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from model.errors import PromotionRefused, ServiceError, typed
from tasks.promotion import promote
from tasks.registry import aliases, calls, register, versions
from tasks.registry.tracking import tracking_client
from tasks.runtime.environment import ROOT
from tasks.runtime.records import Decision, Version
from tests.gears import rounds

pytestmark = pytest.mark.faults

VERSIONS, PROMOTERS, KILLS_A_POINT = 5, 50, rounds(1, 5)
POINTS = ("before_intent", "after_intent", "between_aliases", "after_alias", "before_strike")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry of the module's own, with five versions of nothing in one model."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMMERCE_CLIP_STATE", str(folder))
        yield folder


@pytest.fixture
def model(state: Path, request: pytest.FixtureRequest) -> str:
    client, name = tracking_client(), request.node.name.replace("_", "-").split("[")[0][:50]
    client.create_registered_model(name)
    for _ in range(VERSIONS):
        client.create_model_version(name, f"{state}/mlartifacts/nothing")
    return name


def champion_of(client: MlflowClient, model: str) -> int | None:
    return aliases.number_of(versions.read_alias(client, model, "champion"))


def decided(number: int, champion: int | None) -> Decision:
    return Decision(
        version=number,
        is_promoted=True,
        aliases=["champion"],
        reason=f"v{number}",
        champion=champion,
    )


@pytest.mark.faults(kind="S6: promoters at once", trials=PROMOTERS)
def test_50_promoters_with_stale_reads_leave_one_champion_its_predecessor_and_an_unbroken_history(
    model: str,
) -> None:
    client = tracking_client()
    assert promote.carry_out(_version(model, 1), decided(1, None), "first")
    read, done = threading.Barrier(10), threading.Event()
    outcomes: list[tuple[int | None, int, bool]] = []
    without: list[int] = []

    def take_turns(worker: int) -> None:
        own = MlflowClient(tracking_client()._tracking_client.tracking_uri)
        for turn in range(PROMOTERS // 10):
            number, champion = 1 + (worker + turn) % VERSIONS, champion_of(own, model)
            if turn == 0:
                read.wait()  # all have read the same champion: nine of ten are stale
            moved = promote.carry_out(
                _version(model, number), decided(number, champion), f"{worker}-{turn}"
            )
            outcomes.append((champion, number, moved))

    def watch() -> None:
        own = MlflowClient(tracking_client()._tracking_client.tracking_uri)
        while not done.is_set():
            without.extend([1] * (champion_of(own, model) is None))

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=take_turns, args=(worker,)) for worker in range(10)]
    watcher.start()
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    watcher.join()
    assert len(outcomes) == PROMOTERS and without == []
    moved = [
        (before, after) for before, after, is_moved in outcomes if is_moved and before != after
    ]
    changes = [(change.before, change.after) for change in aliases.history(model)]
    assert changes[0] == (None, 1)
    assert not Counter(changes[1:]) - Counter(
        moved
    )  # every change was somebody's, and was made once
    assert {after for _, after in moved} <= {
        after for _, after in changes
    }  # or his version was champion already
    assert all(one[1] == following[0] for one, following in pairwise(changes))
    last = changes[-1]
    assert (
        champion_of(client, model),
        aliases.number_of(versions.read_alias(client, model, "previous")),
    ) == last[::-1]


@pytest.mark.faults(kind="S7: killed promotion", trials=len(POINTS) * KILLS_A_POINT)
def test_a_promotion_that_was_killed_anywhere_is_finished_or_was_never_begun(
    state: Path, model: str
) -> None:
    client = tracking_client()
    assert promote.carry_out(_version(model, 1), decided(1, None), "first")
    champion, before, changes = 1, None, [1]
    promoter = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.faults.killed_promotion", model],
        env=os.environ | {"COMMERCE_CLIP_STATE": str(state)},
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert promoter.stdin is not None and promoter.stdout is not None
    for turn, point in enumerate(POINTS * KILLS_A_POINT):
        number = 2 + turn % (VERSIONS - 1)
        promoter.stdin.write(f"{point} {number}\n")
        promoter.stdin.flush()
        assert int(promoter.stdout.readline()) == -signal.SIGKILL
        assert champion_of(client, model) in (champion, number)
        with register.registry_lock(model, "the next promoter"):
            aliases.finish_change(client, model)
        if point != "before_intent":
            champion, before = number, champion
            changes.append(number)
        previous = aliases.number_of(versions.read_alias(client, model, "previous"))
        assert (champion_of(client, model), previous) == (champion, before), point
    promoter.communicate()
    assert [change.after for change in aliases.history(model)] == changes


@pytest.mark.faults(kind="S8: registry does not answer", trials=10)
def test_a_registry_that_fails_at_any_read_promotes_nothing(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tracking_client()
    assert promote.carry_out(_version(model, 1), decided(1, None), "first")
    reads = ("get_model_version_by_alias", "get_registered_model")
    for read in reads:
        for _ in range(10 // len(reads)):
            with monkeypatch.context() as patch:
                patch.setattr(f"mlflow.MlflowClient.{read}", _gone)
                with pytest.raises(ServiceError, match="check the server"):
                    promote.carry_out(_version(model, 2), decided(2, 1), "second")
            assert champion_of(client, model) == 1


@pytest.mark.faults(kind="S9: champion gone", trials=3)
def test_a_champion_that_is_gone_is_never_replaced_by_the_machine_and_a_rollback_heals(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promote, "loadable_folder", lambda version: Path(version.name))
    client = tracking_client()
    for number, champion in ((1, None), (2, 1)):
        assert promote.carry_out(_version(model, number), decided(number, champion), f"{number}")
    client.delete_registered_model_alias(model, "champion")
    assert versions.had_champion(client, model)
    assert promote.roll_back(model, "its alias was removed").is_promoted
    assert champion_of(client, model) == 1
    assert promote.promote_by_hand(model, 3, "again").is_promoted
    client.delete_model_version(model, "3")  # takes the alias along
    assert versions.had_champion(client, model) and champion_of(client, model) is None
    assert promote.roll_back(model, "its version was deleted").version == 1
    client.delete_model_version(model, "1")
    with pytest.raises(PromotionRefused, match="no version has the alias previous; name one with"):
        promote.roll_back(model, "nothing is left")
    assert versions.had_champion(client, model)


@pytest.mark.faults(kind="S9: champion gone", trials=2)
def test_versions_whose_files_are_gone_are_neither_promoted_nor_rolled_back_to(model: str) -> None:
    client = tracking_client()
    for number, champion in ((1, None), (2, 1)):
        assert promote.carry_out(_version(model, number), decided(number, champion), f"{number}")
    healing = f"restore its files, choose another, or go back with `{typed('rollback')}`"
    with pytest.raises(PromotionRefused, match=f"version 3 cannot serve .*{healing}"):
        promote.promote_by_hand(model, 3, "why not")
    with pytest.raises(PromotionRefused, match=f"version 1 cannot serve .*{healing}"):
        promote.roll_back(model, "it was better")
    assert champion_of(client, model) == 2


@pytest.mark.faults(kind="S11: retried promotion", trials=5)
def test_a_promotion_that_is_tried_again_after_any_failed_write_has_its_effect_once(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tracking_client()
    assert promote.carry_out(_version(model, 1), decided(1, None), "first")
    writes = (
        "set_registered_model_tag", "set_registered_model_alias", "set_model_version_tag",
        "update_model_version", "delete_registered_model_tag",
    )  # fmt: skip
    for turn, write in enumerate(writes):
        number, champion = (2, 1) if turn % 2 == 0 else (1, 2)
        with monkeypatch.context() as patch:
            patch.setattr(f"mlflow.MlflowClient.{write}", _gone)
            with pytest.raises(ServiceError, match="could not set aliases"):
                promote.carry_out(
                    _version(model, number), decided(number, champion), f"turn {turn}"
                )
        assert promote.carry_out(
            _version(model, number), decided(number, champion), f"turn {turn}"
        ), write
        assert champion_of(client, model) == number
        assert aliases.number_of(versions.read_alias(client, model, "previous")) == champion
    assert [change.after for change in aliases.history(model)] == [1, 2, 1, 2, 1, 2]


def test_a_change_that_a_person_overtook_is_dropped(model: str) -> None:
    client = tracking_client()
    assert promote.carry_out(_version(model, 1), decided(1, None), "first")
    change = aliases.ChampionChange(
        key="k", model=model, before=1, after=2, who="ada", when="", why="half done"
    )
    client.set_registered_model_tag(model, aliases.CHANGE_TAG, change.model_dump_json())
    client.set_registered_model_alias(model, "champion", "4")
    aliases.finish_change(client, model)
    assert champion_of(client, model) == 4
    assert aliases.CHANGE_TAG not in versions.model_tags(client, model)


@pytest.mark.faults(kind="X3: foreign source", trials=4)
def test_files_outside_of_the_artifact_store_are_not_even_looked_at(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> str:
        raise AssertionError("somebody else's files were fetched")

    monkeypatch.setattr("tasks.registry.files.download_folder", download)
    for source in (
        "file:///etc",
        "/etc/passwd",
        "http://169.254.169.254/latest",
        "{root}/../../etc",
    ):
        text = source.format(root=f"file://{state}/mlartifacts")
        monkeypatch.setattr(
            "mlflow.MlflowClient.get_model_version_download_uri", lambda *_, text=text: text
        )
        with pytest.raises(PromotionRefused, match="lies outside of the artifact store"):
            promote.promote_by_hand(model, 2, "why")


@pytest.mark.faults(kind="X5: secrets", trials=2)
def test_a_password_in_an_address_is_in_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:CANARY@127.0.0.1:9/mlflow")
    with pytest.raises(
        ServiceError, match=r"MLflow at http://127.0.0.1:9/mlflow does not answer"
    ) as away:
        tracking_client()
    error = MlflowException("API request to https://ada:CANARY@shop.example/api failed")
    said = str(calls.call_failure("could not read", error))
    assert "https://shop.example/api failed" in said
    assert "CANARY" not in str(away.value) + said


def _version(model: str, number: int) -> Version:
    return Version(name=model, number=number, mlflow_run_id="")


def _gone(*_: object, **__: object) -> None:
    raise MlflowException("database is gone")
