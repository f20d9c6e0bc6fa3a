"""Who may use the web app: a token becomes a cookie; requests of other sites, and under other names, are refused.

A page of another site can make a browser send requests to this server, and can point its own name to 127.0.0.1 (DNS
rebinding). The checks of `Host`, `Origin` and `Sec-Fetch-Site` refuse both; the token refuses other users of this
machine.
"""

import ipaddress
import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
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
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?")
_SAFE_PATH = re.compile(rb"/(?![/\\])[!-\[\]-~]*")
"""A path that a browser resolves on this server: `//name` and `/\\name` are other servers."""
_OTHER_SITE = "Requests of other sites are refused."
_RELOAD = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0">
<title>ichx</title><p>Open the URL that <code>ichx ui</code> printed; it contains a token.</p></html>
"""
"""Browsers send no strict cookie after a click on a link of another site, but they do after a reload."""


@dataclass(frozen=True)
class Guard:
    """What a request must have to be answered."""

    names: frozenset[str] = LOOPBACK_NAMES
    """Accepted names in `Host`, in lower case. The port may differ from that of the server, e.g. by `ssh -L`."""
    any_address: bool = False
    """Accept each IP address in `Host`: DNS rebinding needs a name."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """In the first URL and in the cookie."""
    change_token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """In the pages; needed by requests that change something."""
    single_use: set[str] = field(default_factory=set, repr=False)
    """Tokens of URLs that admit one browser."""

    def issue_single_use(self) -> str:
        """Return a token for a URL that other users may see, e.g. in the list of processes."""
        token = secrets.token_urlsafe(24)
        self.single_use.add(token)
        return token

    def accepts_host(self, host: str) -> bool:
        """Return whether `host`, a header in lower case, is a name of this server."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        return found["name"] in self.names or (self.any_address and _is_address(found["name"]))

    def admits(self, token: str) -> bool:
        """Return whether a URL with `token` admits a browser."""
        for known in self.single_use:
            if _same(token, known):
                self.single_use.discard(known)
                return True
        return _same(token, self.token)


def cookie_name(host: str) -> str:
    """Return the name of the cookie for the header `Host`: browsers do not separate the cookies of several ports."""
    return f"ichx-{host.rpartition(':')[2] if re.search(r':[0-9]+$', host) else 80}"


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

        refusal = self._answer(scope)
        if refusal is not None and scope["method"] not in ("GET", "HEAD"):
            refusal.headers["Connection"] = "close"  # the body is not read
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """Return the response to a request that the app must not see; None if it may."""
        headers, method = Headers(scope=scope), scope["method"]
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if not self._guard.accepts_host(host):
            return PlainTextResponse("This server has another name. Use the URL that `ichx ui` printed.", 421)
        if any(origin.lower() != f"http://{host}" for origin in headers.getlist("origin")):
            return PlainTextResponse(_OTHER_SITE, 403)
        elsewhere = any(site not in ("same-origin", "none") for site in headers.getlist("sec-fetch-site"))
        opens_page = method == "GET" and headers.get("sec-fetch-dest") == "document"
        if elsewhere and not opens_page:
            return PlainTextResponse(_OTHER_SITE, 403)
        if method == "GET" and (admitted := self._admit(scope, cookie_name(host))) is not None:
            return admitted
        if not any(_same(value, self._guard.token) for value in _cookies(headers, cookie_name(host))):
            if elsewhere:
                return HTMLResponse(_RELOAD, 401)
            return PlainTextResponse("Open the URL that `ichx ui` printed; it contains a token.", 401)
        return None if method in ("GET", "HEAD") else self._refuse_change(headers)

    def _admit(self, scope: Scope, cookie: str) -> Response | None:
        """Return the redirect that moves a valid token from the URL to the cookie; None without such a token."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not any(name == "token" and self._guard.admits(value) for name, value in query):
            return None
        remaining = [(name, value) for name, value in query if name != "token"]
        path = scope.get("raw_path") or b"/"
        target = path.decode("ascii") if _SAFE_PATH.fullmatch(path) else "/"
        location = target + (f"?{urlencode(remaining)}" if remaining else "")
        response = Response(status_code=303, headers={"Location": location})
        response.set_cookie(cookie, self._guard.token, httponly=True, samesite="strict", path="/")
        return response

    def _refuse_change(self, headers: Headers) -> Response | None:
        """Return the response to a request of another method that must not change anything; None if it may."""
        tokens = headers.getlist(CHANGE_HEADER)
        if len(tokens) != 1 or not _same(tokens[0], self._guard.change_token):
            return PlainTextResponse("The page is older than the server. Reload it.", 403)
        sizes = headers.getlist("content-length")
        if len(sizes) != 1 or "transfer-encoding" in headers or not re.fullmatch("[0-9]+", sizes[0]):
            return PlainTextResponse("The request has no Content-Length.", 411)
        if len(sizes[0]) > 12 or int(sizes[0]) > MAX_BODY:
            return PlainTextResponse("The request is too large.", 413)
        return None


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _cookies(headers: Headers, name: str) -> list[str]:
    """Return all values of a cookie. Other servers on this machine may set any cookies, also one with this name."""
    pairs = [part.partition("=") for line in headers.getlist("cookie") for part in line.split(";")]
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
