"""The pages of runs open in a browser, and nothing else of the state folder does."""

import re
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from starlette.testclient import TestClient

from search.app import create_app
from tasks.runtime.environment import page_address


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMMERCE_CLIP_STATE", str(tmp_path / "state"))
    for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "COMMERCE_CLIP_PAGES_URL"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "state"
    for name in (
        "runs/sample-1/evaluate/report.html",
        "runs/sample-1/finetune/training.html",
        "runs/sample-1/finetune/weights.safetensors",
        "data/abc/docs/index.html",
        "stack/password",
        "stack/addresses.json",
        "mlflow.db",
        "prefect/profiles.toml",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} <script>alert(1)</script>")
    (tmp_path / "secret.html").write_text("secret")
    (folder / "runs" / "link.html").symlink_to(tmp_path / "secret.html")
    return folder


@pytest.fixture
def browser(state: Path) -> TestClient:
    return TestClient(create_app())


def test_every_link_of_the_start_page_opens(browser: TestClient) -> None:
    page = browser.get("/").text
    links = re.findall(r'href="([^"]+)"', page)
    assert "/state/runs/sample-1/evaluate/report.html" in links
    assert {link: browser.get(link).status_code for link in links} == dict.fromkeys(links, 200)


@pytest.mark.faults(kind="P4", trials=11)
@pytest.mark.parametrize(
    "path",
    [
        "runs/sample-1/finetune/weights.safetensors",
        "runs/sample-1",
        "runs/",
        "",
        "stack/password",
        "stack/addresses.json",
        "mlflow.db",
        "runs/../stack/addresses.json",
        "runs/%2e%2e/stack/addresses.json",
        "runs/link.html",
        "runs/%00.html",
    ],
)
def test_what_is_no_page_of_a_run_or_a_data_version_is_not_served(
    browser: TestClient, path: str
) -> None:
    assert browser.get(f"/state/{path}").status_code == 404


def test_a_browser_is_told_to_run_nothing_and_load_nothing_from_elsewhere(
    browser: TestClient,
) -> None:
    for path in ("/", "/state/data/abc/docs/index.html", "/state/nope.html"):
        policy = browser.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'none';") and "script-src" not in policy
        assert "http" not in policy


def test_a_run_links_its_pages_where_a_browser_finds_them(
    state: Path, monkeypatch: pytest.MonkeyPatch, browser: TestClient
) -> None:
    page = state / "runs" / "sample-1" / "evaluate" / "report.html"
    assert page_address(page) == page.as_uri(), "without `make up`"

    monkeypatch.setenv("COMMERCE_CLIP_PAGES_URL", "http://testserver")
    assert browser.get(page_address(page)).text == page.read_text()


def test_the_start_page_says_what_does_not_answer(
    state: Path, browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "mlflow.db").unlink()
    assert "No version yet" in browser.get("/").text
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        page = browser.get("/")
    assert page.status_code == 200
    assert "Prefect does not answer" in page.text and "The registry does not answer" in page.text
