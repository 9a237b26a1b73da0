"""An MLflow that does not answer is reported within seconds in one sentence, however it fails."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from model.errors import AccessDenied, ServiceError
from tasks.registry import tracking

REPLIES = {
    "fails": (b"HTTP/1.0 500 Internal Server Error\r\n\r\n", "status 500"),
    "closes at once": (b"", "closed connection"),
    "is another service": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP"),
}


@contextmanager
def server(reply: bytes | None) -> Iterator[str]:
    """Serve a reply to whoever connects, none where it is None; yield the address."""
    is_over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)
            if reply is None:
                is_over.wait()
            else:
                self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        is_over.set()
        serving.shutdown()


def sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//ada:CANARY@"))
    with pytest.raises(ServiceError) as refused:
        tracking.tracking_client()
    found = str(refused.value)
    assert (
        found.startswith(f"MLflow at {address} does not answer (")
        and "start it with `make up`" in found
    )
    return found


@pytest.mark.faults(kind="S1: MLflow is away", trials=1)
@pytest.mark.parametrize("how", REPLIES)
def test_a_server_that_gives_no_health_is_told_with_what_it_gave(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply, told = REPLIES[how]
    with server(reply) as address:
        assert told in sentence(address, monkeypatch)


@pytest.mark.faults(kind="P2: MLflow's rights", trials=1)
@pytest.mark.parametrize(
    ("reply", "told"),
    [(b"401 Unauthorized", "credentials of .*status 401"), (b"403 Forbidden", "status 403")],
)
def test_who_is_not_let_in_is_told_once_and_not_retried(
    reply: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(b"HTTP/1.0 " + reply + b"\r\n\r\n") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//ada:CANARY@"))
        with pytest.raises(AccessDenied, match=f"MLflow at {address}.*{told}") as refused:
            tracking.tracking_client()
        assert "CANARY" not in str(refused.value)


@pytest.mark.faults(kind="S1: MLflow is away", trials=1)
def test_where_nobody_listens_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert "refused" in sentence(address, monkeypatch)


@pytest.mark.faults(kind="S1: MLflow is away", trials=1)
def test_a_server_that_never_replies_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "HEALTH_TIMEOUT_S", 0.2)
    with server(None) as address:
        assert "timed out" in sentence(address, monkeypatch)
