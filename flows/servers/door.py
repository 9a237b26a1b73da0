"""A door in front of a server on loopback: who is not meant to enter gets 401 or 403.

Loopback keeps out other machines, not the pages that a browser on this one has open. So a request
must name this server as its host (against DNS rebinding), and come of a page of this server or of
no page at all. A server without passwords of its own gets one here. It costs 20 µs a request.
"""

import base64
import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
LOGIN_PATH = "/enter"
HEALTH_PATH = "/health"
FOREIGN_HOST, FOREIGN_PAGE = "this server has another name", "a page of another origin asked"
KEEP_IN = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; "
    "form-action 'self'; connect-src 'self' data: blob: "
)
POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; connect-src 'self'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


class Door:
    """An ASGI app that passes on what may enter."""

    def __init__(
        self, app: ASGIApp, port: int, login_page: str, credentials: str | None = None
    ) -> None:
        """``credentials`` are ``user:password`` where the door asks for them, not the app."""
        self.app, self.login_page = app, login_page
        self.hosts = {f"{host}:{port}" for host in HOSTS}
        self.origins = {f"http://{host}" for host in self.hosts}
        sockets = (f"ws://{host}" for host in sorted(self.hosts))
        self.policy = KEEP_IN + " ".join(sorted(self.origins) + list(sockets))
        self.expected = None
        if credentials is not None:
            self.expected = f"Basic {base64.b64encode(credentials.encode()).decode()}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        refusal = self._refusal(scope)
        if refusal is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, self._kept_in(send))

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to what may not enter, or to who asks for the login page."""
        headers, path = Headers(scope=scope), scope["path"]
        if headers.get("host") not in self.hosts:
            return PlainTextResponse(FOREIGN_HOST, 403)
        if not self._is_of_this_page(headers):
            return PlainTextResponse(FOREIGN_PAGE, 403)

        if path == LOGIN_PATH and scope.get("method") == "GET":
            return HTMLResponse(self.login_page, headers=POLICY)
        if self.expected is None or path == HEALTH_PATH:
            return None

        given = headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), self.expected.encode()):
            return None
        asked = {"WWW-Authenticate": 'Basic realm="commerce-clip", charset="UTF-8"'}
        return PlainTextResponse("user and password, please", 401, asked)

    def _is_of_this_page(self, headers: Headers) -> bool:
        """Whether no page asks, one of this server does, or a link to this server was followed."""
        if origin := headers.get("origin"):
            return origin in self.origins
        is_elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        return not is_elsewhere or headers.get("sec-fetch-mode") == "navigate"

    def _kept_in(self, send: Send) -> Send:
        """Return a ``send`` that lets no page of others frame answers, nor a page of ours call out.

        Prefect's and MLflow's pages would report their use from the browser.
        """

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Frame-Options", "SAMEORIGIN")
                headers.setdefault("Content-Security-Policy", self.policy)
            await send(message)

        return send_on
