"""What Prefect's page shows arrives there, and a page that nobody serves costs a warning."""

import logging
import time
from typing import Any

import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.runtime import page
from tasks.runtime.progress import progress


def artifact(key: str) -> Any:
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        (found,) = client.read_artifacts(artifact_filter=wanted)
    return found


@pytest.mark.usefixtures("prefect_server")
def test_progress_is_that_of_its_task_run_and_ends_where_the_work_did() -> None:
    @task
    def work() -> None:
        with progress("some work", 4, "steps") as shown:
            for _ in range(3):
                shown.advance()

    @flow
    def job() -> None:
        work()

    job()
    found = artifact("some-work-progress")
    assert found.data == 75 and found.task_run_id is not None


@pytest.mark.faults(kind="S3: Prefect is away", trials=3)
def test_tables_links_and_texts_that_nobody_takes_cost_a_warning_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        caplog.at_level(logging.WARNING),
    ):
        page.publish_table([{"a": 1}], "numbers", "some")
        page.publish_link("file:///there", "there", "place", "some")
        page.publish_text("# words", "words", "some")
    for what in ("the table numbers", "the link place", "the text words"):
        assert f"Prefect did not take {what}" in caplog.text


@pytest.mark.faults(kind="S3: Prefect is away", trials=1)
@pytest.mark.usefixtures("prefect_server")
def test_a_server_that_goes_away_holds_no_work_up_and_learns_the_end_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(page, "UPDATE_EVERY_S", 0.01)
    update, is_away, tries = page.update_progress_artifact, True, 0

    def send(*arguments: Any) -> None:
        nonlocal tries
        if is_away:
            tries += 1
            raise httpx.ConnectError("refused")
        update(*arguments)

    monkeypatch.setattr(page, "update_progress_artifact", send)

    @task
    def work() -> None:
        nonlocal is_away
        with progress("long work", 100, "steps") as shown:
            for _ in range(80):
                shown.advance()
                time.sleep(0.01)
            is_away = False

    @flow
    def job() -> None:
        work()

    with caplog.at_level(logging.WARNING):
        job()
    assert tries > 1 and caplog.text.count("Prefect did not take the progress of long work") == 1
    assert artifact("long-work-progress").data == 80
