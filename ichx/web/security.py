"""Who may use the web app: a token becomes a cookie; requests of other sites, and under other names, are refused.

A page of another site can make a browser send requests to this server, and can point its own name to 127.0.0.1 (DNS
rebinding). The checks of `Host` and `Origin` refuse both; the token refuses other users of this machine.
"""

import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; style-src-attr 'unsafe-inline'; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of responses that do not set them. Charts in SVG have style attributes; style and script elements are not
allowed."""
MAX_BODY = 1_000_000
"""Bytes of a request."""
CHANGE_HEADER = "X-Ichx-Token"
"""Header of a request that changes something, with `Guard.change_token`; pages of other sites cannot send it."""


@dataclass(frozen=True)
class Guard:
    """What a request must have to be answered."""

    hosts: frozenset[str]
    """Accepted `Host` headers in lower case, with the port."""
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """In the first URL and in the cookie."""
    change_token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """In the pages; needed by requests that change something."""

    @property
    def cookie(self) -> str:
        """Name of the cookie. Browsers do not separate the cookies of several ports."""
        return f"ichx-{self.port}"


class Security:
    """Middleware: refuse what `guard` does not admit, and add `HEADERS` to each response."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        """Wrap `app`."""
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return  # neither websockets nor events of the server's life are used

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the response to a request that the app must not see; None if it may."""
        guard, headers = self._guard, Headers(scope=scope)
        if headers.get("host", "").lower() not in guard.hosts:
            return PlainTextResponse("This server has another name. Use the URL that `ichx ui` printed.", 421)
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in guard.hosts}:
            return PlainTextResponse("Requests of other sites are refused.", 403)
        if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and scope["method"] != "GET":
            return PlainTextResponse("Requests of other sites are refused.", 403)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if _same(query.pop("token", None), guard.token):
            return self._admit(scope, query)
        if not _same(_cookie(headers, guard.cookie), guard.token):
            return PlainTextResponse("Open the URL that `ichx ui` printed; it contains a token.", 401)
        if scope["method"] in ("GET", "HEAD"):
            return None
        if not _same(headers.get(CHANGE_HEADER), guard.change_token):
            return PlainTextResponse("The page is older than the server. Reload it.", 403)
        size = headers.get("content-length", "")
        if not size.isdecimal() or len(size) > 12 or int(size) > MAX_BODY:
            return PlainTextResponse("The request is too large.", 413)
        return None

    def _admit(self, scope: Scope, query: dict[str, str]) -> Response:
        """Return the redirect that moves the token from the URL to the cookie."""
        path = urlsplit(scope["path"]).path or "/"
        target = f"/{path.lstrip('/')}" + (f"?{urlencode(query)}" if query else "")
        response = Response(status_code=303, headers={"Location": target})
        response.set_cookie(self._guard.cookie, self._guard.token, httponly=True, samesite="strict", path="/")
        return response


def _same(given: str | None, expected: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), expected.encode())


def _cookie(headers: Headers, name: str) -> str | None:
    for line in headers.getlist("cookie"):
        try:
            cookie: SimpleCookie = SimpleCookie(line)
        except CookieError:
            continue
        if name in cookie:
            return cookie[name].value
    return None
