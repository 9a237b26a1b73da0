import json

import httpx
import pytest
import yaml
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.workers.process import ProcessJobConfiguration

from flows.__main__ import main
from flows.heartbeat import require_settings
from flows.servers.deploy import TEMPLATE, create_pool
from model.errors import ConfigError, ServiceError
from tasks.runtime.environment import HEARTBEAT_S, ROOT


def test_a_run_has_the_heartbeat_that_the_automation_counts_on() -> None:
    text = json.dumps(TEMPLATE["job_configuration"])
    assert f'"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "{HEARTBEAT_S}"' in text
    fields = set(ProcessJobConfiguration.model_fields)
    assert set(TEMPLATE["job_configuration"]) == {"env", "stream_output"} <= fields
    assert "{{" not in text  # nothing is filled in by whoever asks for a run


def test_every_deployment_has_the_pull_step_and_the_pool_gets_our_template() -> None:
    config = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert config["pull"] == [{"flows.stack.enter_checkout": {}}]
    assert not [each for each in config["deployments"] if "pull" in each or "job_variables" in each]
    steps = [step for each in config["deployments"] for step in each.get("build", [])]
    assert {"flows.servers.deploy.renew_pool": {}} in steps


def test_a_run_with_another_heartbeat_is_refused_at_its_start() -> None:
    with (
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 180}),
        pytest.raises(ConfigError, match=r"every 180 s, the server expects one every 30 s"),
    ):
        require_settings()


def test_a_run_without_our_settings_is_refused_at_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    with pytest.raises(ConfigError, match="MLFLOW_DISABLE_TELEMETRY is not set"):
        require_settings()


@pytest.mark.parametrize(("status", "said"), [(401, "status 401"), (None, "Connection refused")])
def test_a_server_that_refuses_or_is_away_is_a_sentence(status: int | None, said: str) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        if status is None:
            raise httpx.ConnectError("[Errno 111] Connection refused")
        return httpx.Response(status, json={"exception_message": "Unauthorized"}, request=request)

    with (
        SyncPrefectClient(
            "http://ada:lovelace@127.0.0.1:9/api",
            httpx_settings={"transport": httpx.MockTransport(reply)},
            server_type=ServerType.SERVER,
        ) as client,
        pytest.raises(ServiceError) as refused,
    ):
        client.raise_for_api_version_mismatch = lambda: None  # type: ignore[method-assign]
        create_pool(client)
    assert said in str(refused.value) and "PREFECT_API_AUTH_STRING" in str(refused.value)
    assert "lovelace" not in str(refused.value) and "\n" not in str(refused.value)


def test_deploying_without_a_server_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("flows.__main__.prepare", lambda: None)
    assert main(["deploy"]) == 1
    assert "start one with `make up`, or set PREFECT_API_URL" in capsys.readouterr().err
