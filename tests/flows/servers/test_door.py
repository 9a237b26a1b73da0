"""The door alone, in front of an app that answers everybody."""

import base64

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.servers.door import Door

HERE, BASE = {"host": "127.0.0.1:5000"}, "http://127.0.0.1:5000"
LOGIN = {"authorization": f"Basic {base64.b64encode(b'ada:lovelace').decode()}"}

pytestmark = pytest.mark.faults(kind="P4: requests from elsewhere")


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("inside")


async def greet(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


def client(credentials: str | None = None) -> TestClient:
    routes = [
        Route("/{path:path}", answer, methods=["GET", "POST", "OPTIONS"]),
        WebSocketRoute("/events", greet),
    ]
    door = Door(Starlette(routes=routes), 5000, "<p>login page</p>", credentials)
    return TestClient(door, base_url=BASE)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "127.0.0.1", "127.0.0.1:5001", "0.0.0.0:5000", ""]
)
def test_a_foreign_host_is_refused(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost:5000"])
def test_both_names_of_loopback_are_ours(host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert client().post("/", headers=headers).text == "inside"


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:5001", "https://127.0.0.1:5000", "file://"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(origin: str, method: str) -> None:
    reply = client("ada:lovelace").request(method, "/", headers=HERE | LOGIN | {"origin": origin})
    assert reply.status_code == 403


def test_a_followed_link_is_no_attack_and_an_embedded_part_is() -> None:
    site = {"sec-fetch-site": "cross-site"}
    assert client().get("/", headers=site | {"sec-fetch-mode": "navigate"}).text == "inside"
    assert client().get("/", headers=site | {"sec-fetch-mode": "no-cors"}).status_code == 403
    assert client().get("/", headers={"sec-fetch-site": "same-origin"}).text == "inside"


@pytest.mark.parametrize(
    "given", [{}, {"authorization": "Basic YWRhOg=="}, {"authorization": "Bearer lovelace"}]
)
def test_a_browser_is_asked_for_a_password_where_the_door_has_one(given: dict[str, str]) -> None:
    reply = client("ada:lovelace").get("/", headers=given)
    assert reply.status_code == 401 and reply.headers["www-authenticate"].startswith("Basic ")
    assert client("ada:lovelace").get("/", headers=LOGIN).text == "inside"


def test_health_needs_no_password_but_our_name() -> None:
    assert client("ada:lovelace").get("/health").text == "inside"
    assert client("ada:lovelace").get("/health", headers={"host": "evil"}).status_code == 403


def test_the_login_page_is_the_door_s_and_is_kept_nowhere() -> None:
    reply = client("ada:lovelace").get("/enter")
    assert reply.text == "<p>login page</p>" and reply.headers["cache-control"] == "no-store"


def test_answers_may_not_be_shown_in_a_frame_of_others_nor_call_out() -> None:
    headers = client().get("/").headers
    assert headers["x-frame-options"] == "SAMEORIGIN"
    parts = headers["content-security-policy"].split(";")
    policy = dict(part.strip().split(" ", 1) for part in parts)
    assert policy["frame-ancestors"] == "'self'"
    reached = {word for word in policy["connect-src"].split() if "://" in word}
    hosts = ("127.0.0.1:5000", "localhost:5000")
    assert reached == {f"{scheme}://{host}" for scheme in ("http", "ws") for host in hosts}


def test_a_websocket_of_another_page_is_refused() -> None:
    with client().websocket_connect("/events", headers=HERE | {"origin": BASE}):
        pass
    refused = client().websocket_connect("/events", headers=HERE | {"origin": "http://evil"})
    with pytest.raises(WebSocketDisconnect), refused:
        pass
