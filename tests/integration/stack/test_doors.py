"""Requests that were open, by hand and from a page of another origin in a browser: nothing runs."""

import http.client
import json
import stat
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from flows.servers.deploy import POOL
from tests.integration.servers import CHROMIUM, NO_HEADERS, QUIET_BROWSER, Stack, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(600)]

EVIL = {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}
WRONG = {"Authorization": "Basic YWRtaW46YWRtaW4="}, {"Authorization": "Bearer x"}
AUTOMATION = {
    "name": "evil",
    "trigger": {
        "type": "event", "posture": "Reactive", "expect": ["prefect.flow-run.Running"],
        "match": {}, "threshold": 1, "within": 0,
    },
    "actions": [{"type": "pause-work-pool", "source": "selected", "work_pool_id": "x"}],
}  # fmt: skip
WORK_POOL = {"name": "evil", "type": "process", "base_job_template": {}}
EXPERIMENT = {"name": "evil"}
# What a page can do without being let: send what is "simple", and read what CORS allows.
PAGE = """
<!doctype html><title>other origin</title><script>
const {prefect, mlflow, pool, experiment} = CHOSEN, seen = [];
const types = [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json"}];
async function attempt(url, options) {
  try {
    const reply = await fetch(url, {credentials: "include", ...options});
    seen.push([url, reply.type === "opaque" ? "sent" : reply.status + " " + await reply.text()]);
  } catch (error) { seen.push([url, "refused"]); }
}
async function attack() {
  const created = "/api/2.0/mlflow/experiments/create";
  for (const mode of ["no-cors", "cors"]) {
    for (const headers of types) {
      const options = {method: "POST", mode, headers};
      await attempt(prefect + "/api/work_pools/", {body: JSON.stringify(pool), ...options});
      await attempt(mlflow + created, {body: JSON.stringify(experiment), ...options});
    }
    await attempt(prefect + "/api/work_pools/commerce-clip", {mode});
    await attempt(mlflow + "/api/2.0/mlflow/experiments/search?max_results=5", {mode});
  }
  window.seen = seen;
  document.title = "done";
}
attack();
</script>
"""


def ask(
    address: str, method: str, path: str, headers: Mapping[str, str] = NO_HEADERS, body: Any = None
) -> int:
    """Send a request as it stands, without the headers that a library adds; return its status."""
    host = address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)
    data = b"" if body is None else json.dumps(body).encode()
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Host": host, "Content-Length": str(len(data))} | dict(headers)).items():
        connection.putheader(name, value)
    connection.endheaders(data)
    status = connection.getresponse().status
    connection.close()
    return status


def made_by_others(stack: Stack) -> list[str]:
    """What there would be if one of the requests had come through."""
    pools = stack.prefect_api("work_pools/filter", {})
    automations = stack.prefect_api("automations/filter", {})
    experiments = stack.mlflow_api("experiments/search", max_results="100")["experiments"]
    names = [each["name"] for each in (*pools, *automations, *experiments)]
    assert POOL in names
    return [name for name in names if name == "evil"]


@pytest.mark.faults(kind="P4: requests from elsewhere", trials=35)
def test_requests_without_password_or_from_elsewhere_are_refused_and_nothing_runs(
    stack: Stack,
) -> None:
    deployment = stack.prefect_api("deployments/name/validate/sample")["id"]
    changes = {
        stack.prefect: {
            "/api/automations/": AUTOMATION,
            "/api/work_pools/": WORK_POOL,
            f"/api/deployments/{deployment}/create_flow_run": {},
        },
        stack.mlflow: {"/api/2.0/mlflow/experiments/create": EXPERIMENT},
    }
    before = len(stack.flow_runs())
    for address, bodies in changes.items():
        login = stack.login | (stack.csrf() if address == stack.prefect else {})
        for path, body in bodies.items():
            for wrong in ({}, *WRONG, *(login | evil for evil in EVIL)):
                assert ask(address, "POST", path, wrong, body) in (401, 403), (path, wrong)
        for other in (stack.prefect, stack.mlflow, "http://127.0.0.1:9", "http://localhost:80"):
            if other != address:
                headers = login | {"Origin": other}
                assert ask(address, "POST", next(iter(bodies)), headers, body) == 403, other
        embedded = login | {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}
        assert ask(address, "GET", "/", embedded) == 403
        assert ask(address, "GET", "/health", EVIL[0]) == 403
    assert ask(stack.prefect, "POST", "/api/work_pools/", stack.login, WORK_POOL) == 403
    assert made_by_others(stack) == [] and len(stack.flow_runs()) == before


@pytest.mark.faults(kind="P4: requests from elsewhere", trials=4)
def test_a_websocket_of_another_page_is_refused(stack: Stack) -> None:
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "prefect",
    }  # fmt: skip
    for path in ("/api/events/in", "/api/events/out"):
        for evil in EVIL[:2]:
            assert ask(stack.prefect, "GET", path, upgrade | stack.login | evil) == 403


@pytest.mark.faults(kind="P4: requests from elsewhere", trials=3)
def test_a_run_may_choose_neither_command_nor_environment_nor_folder(stack: Stack) -> None:
    deployment = stack.prefect_api("deployments/name/validate/sample")["id"]
    headers = stack.login | stack.csrf() | {"Content-Type": "application/json"}
    path = f"/api/deployments/{deployment}/create_flow_run"
    for chosen in ({"command": "id"}, {"env": {"PYTHONPATH": "/tmp"}}, {"working_dir": "/tmp"}):
        assert ask(stack.prefect, "POST", path, headers, {"job_variables": chosen}) in (409, 422)


@pytest.fixture
def other_page(stack: Stack) -> Iterator[str]:
    """The address of a page on another port, which a browser takes for another origin."""
    chosen = {"prefect": stack.prefect, "mlflow": stack.mlflow}
    chosen |= {"pool": WORK_POOL, "experiment": EXPERIMENT}  # type: ignore[dict-item]
    content = PAGE.replace("CHOSEN", json.dumps(chosen)).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")
@pytest.mark.faults(kind="P4: requests from elsewhere", trials=16)
def test_a_page_of_another_origin_reads_and_changes_nothing_for_a_browser_that_is_logged_in(
    stack: Stack, other_page: str
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    logins = (stack.shell.state / "stack" / "login.txt").read_text().splitlines()
    assert [line.split()[0] for line in logins] == ["Pages", "Prefect", "MLflow"]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=QUIET_BROWSER)
        page, refused = browser.new_page(), list[str]()
        page.on("requestfailed", lambda request: refused.append(f"{request.url} {request.failure}"))

        # Pages of ours see what is theirs, without a question.
        titles = ("commerce-clip", "Dashboard", "Home")
        for (_, address), title in zip(map(str.split, logins), titles, strict=True):
            page.goto(address)
            page.wait_for_function(f"document.title.includes('{title}')", timeout=90_000)
        assert [each for each in refused if "csp" not in each and "ERR_ABORTED" not in each] == []
        page.goto(other_page)
        page.wait_for_function("document.title == 'done'", timeout=60_000)
        seen = page.evaluate("window.seen")
        browser.close()

    assert len(seen) == 16
    assert [(url, what) for url, what in seen if what not in ("sent", "refused")] == []
    assert made_by_others(stack) == []


def test_the_password_is_in_files_of_its_owner_alone(stack: Stack) -> None:
    state = stack.shell.state
    password = (state / "stack" / "password").read_text().encode()
    holders = {
        path.relative_to(state).as_posix()
        for path in state.rglob("*")
        if path.is_file() and password in path.read_bytes()
    }
    assert holders == {
        "stack/password", "stack/addresses.json", "stack/login.txt", "prefect/profiles.toml",
    }  # fmt: skip
    private = [*holders, "mlflow.db", "prefect/prefect.db"]
    assert {stat.S_IMODE((state / name).stat().st_mode) for name in private} == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700

    commands = [
        word
        for name in ("prefect", "mlflow", "worker")
        for pid in stack.processes(name)
        for word in psutil.Process(pid).cmdline()
    ]
    assert commands and password.decode() not in " ".join(commands)


def test_the_commands_of_prefect_reach_the_stack_from_another_folder(
    stack: Stack, tmp_path: Path
) -> None:
    elsewhere = type(stack.shell)(
        tmp_path, {"PREFECT_HOME": str(stack.shell.state / "prefect")}, tmp_path
    )
    done = elsewhere.python("-m", "prefect", "deployment", "ls")
    assert done.returncode == 0 and "retrain/sample" in done.stdout, done.stderr
    assert list(elsewhere.home.rglob("*")) == []


def test_typing_make_up_again_leaves_the_password_as_it_is(stack: Stack) -> None:
    before = stack.environment
    done = stack.shell.flows("up")
    assert done.returncode == 0 and "already up" in done.stdout
    assert stack.environment == before
    assert before["MLFLOW_TRACKING_PASSWORD"] not in done.stdout  # it may be a file of somebody's
    assert "login.txt" in done.stdout
    wait_for(lambda: stack.prefect_api("health"), "the server")
