"""Who may use the web app."""

import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from injections import all_routes
from web_site import Serve, Served, serving

from ichx.web import changes
from ichx.web.security import Guard, cookie_name

EVIL = {"Origin": "http://evil.example"}


@pytest.fixture(scope="module")
def served(trained_root: Path) -> Iterator[Served]:
    """Return a server."""
    with serving(trained_root) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """Return a client that is signed in."""
    with served.client() as client:
        yield client


def exchange(served: Served, request: bytes) -> bytes:
    """Return what the server answers to raw bytes."""
    address = urlsplit(served.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def raw(served: Served, line: str, *headers: str) -> bytes:
    """Return what the server answers to a signed-in request with these lines."""
    host = served.url.removeprefix("http://")
    fixed = (f"Host: {host}", f"Cookie: {cookie_name(host)}={served.token}", "Connection: close")
    return exchange(served, "\r\n".join([line, *fixed, *headers, "", ""]).encode("latin-1"))


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_the_token_becomes_a_cookie(served: Served) -> None:
    assert httpx.get(f"{served.url}/experiments").status_code == 401
    assert httpx.get(f"{served.url}/experiments", params={"token": "x"}).status_code == 401
    query = [("token", served.token), ("where", "size > 1"), ("of", "a"), ("of", "b"), ("empty", "")]
    admitted = httpx.get(f"{served.url}/experiments", params=query)
    assert admitted.status_code == 303
    assert admitted.headers["location"] == "/experiments?where=size+%3E+1&of=a&of=b&empty="
    cookie = admitted.headers["set-cookie"].split("; ")
    assert cookie[0] == f"ichx-{urlsplit(served.url).port}={served.token}"
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie)
    assert served.token not in admitted.headers["location"] + admitted.text
    with served.client() as client:
        page = client.get("/experiments")
    assert page.status_code == 200
    assert served.token not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe-inline" not in page.headers["content-security-policy"].replace("style-src-attr 'unsafe-inline'", "")
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/studies/ph@1/a%2Fb%3Fc", "/studies/ph@1/a%2Fb%3Fc"),
        ("//evil.example/x", "/"),
        ("/\\evil.example", "/"),
        ("/%0d%0aSet-Cookie:owned=1", "/%0d%0aSet-Cookie:owned=1"),
        ("/%09/evil.example", "/%09/evil.example"),
        ("/%5cevil.example", "/%5cevil.example"),
        ("/..//evil.example", "/..//evil.example"),
        ("http://evil.example/", "/"),
    ],
)
def test_the_redirect_stays_on_the_server(served: Served, path: str, target: str) -> None:
    answer = raw(served, f"GET {path}?token={served.token} HTTP/1.1")
    head = answer.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    assert f"location: {target.lower()}" in head
    assert [line for line in head if line.startswith("set-cookie")] == [
        f"set-cookie: {cookie_name(served.url)}={served.token}; httponly; path=/; samesite=strict".lower()
    ]


def test_the_url_of_the_browser_admits_once(served: Served) -> None:
    guard = served.guard
    once = guard.issue_single_use()
    assert once != guard.token
    assert httpx.head(served.url, params={"token": once}).status_code == 401
    first = httpx.get(served.url, params={"token": once})
    assert (first.status_code, first.cookies[cookie_name(served.url)]) == (303, guard.token)
    assert httpx.get(served.url, params={"token": once}).status_code == 401


@pytest.mark.parametrize(
    "name",
    [
        *("evil.example", "127.0.0.1.evil.example", "127.0.0.2", "localhost.", "", "a" * 5000, "127.0.0.1:x", "[::2]"),
        *("127.1", "2130706433", "0x7f000001", "0.0.0.0", "localhost.evil.example", "evil.example#localhost", "::1"),
        *("localhost@evil.example", "localhost:80:80", "127.0.0.1/", "[::1].evil.example", "[::ffff:127.0.0.1]"),
    ],
)
def test_other_names_of_this_machine_are_refused(client: httpx.Client, name: str) -> None:
    assert client.get("/experiments", headers={"Host": name}).status_code == 421


def test_another_port_of_a_tunnel_has_its_own_cookie(served: Served) -> None:
    there = {"Host": "localhost:9000"}
    admitted = httpx.get(f"{served.url}/experiments", params={"token": served.token}, headers=there)
    assert admitted.headers["set-cookie"].startswith("ichx-9000=")
    cookie = {"Cookie": f"ichx-9000={served.token}"}
    assert httpx.get(f"{served.url}/experiments", headers=there | cookie).status_code == 200
    assert httpx.get(f"{served.url}/experiments", headers=cookie).status_code == 401


def test_a_request_has_one_host(served: Served) -> None:
    assert status(raw(served, "GET /experiments HTTP/1.1")) == 200
    assert status(raw(served, "GET /experiments HTTP/1.1", "Host: evil.example")) in (400, 421)
    assert status(exchange(served, b"GET /experiments HTTP/1.0\r\n\r\n")) == 421


def test_an_address_needs_no_name_on_a_network() -> None:
    guard = Guard(frozenset({"gpu7"}), any_address=True)
    accepted = ["gpu7:8417", "gpu7", "192.168.1.5:8417", "[fe80::1]:8417"]
    refused = ["192.168.1.5.evil.example:8417", "[fe80::1].evil:1", "evil", "192.168.1.500", "gpu7@evil", "gpu7:1:2"]
    assert [guard.accepts_host(host) for host in accepted + refused] == [True] * 4 + [False] * 6
    assert not Guard().accepts_host("192.168.1.5:8417")


@pytest.mark.parametrize(
    "cookies",
    [
        "{name}=wrong; {name}={token}",
        "{name}={token}; {name}=wrong",
        'json={{"a":[1,2]}}; bad name==;;; {name}={token}',
        "a;{name} = {token} ;",
    ],
)
def test_cookies_of_other_servers_on_this_machine_do_no_harm(served: Served, cookies: str) -> None:
    header = cookies.format(name=cookie_name(served.url), token=served.token)
    assert httpx.get(f"{served.url}/experiments", headers={"Cookie": header}).status_code == 200


@pytest.mark.parametrize("value", ["", "x", "{token}x", "é", "{half}"])
def test_a_wrong_cookie_is_refused(served: Served, value: str) -> None:
    wrong = value.format(token=served.token, half=served.token[:16]).encode("latin-1")
    header = cookie_name(served.url).encode() + b"=" + wrong
    assert httpx.get(f"{served.url}/experiments", headers={b"Cookie": header}).status_code == 401


def test_several_servers_have_their_own_tokens(trained_root: Path, dataset_root: Path, serve: Serve) -> None:
    first, second = serve(trained_root), serve(dataset_root)
    both = {cookie_name(one.url): one.token for one in (first, second)}
    assert len(both) == 2
    with httpx.Client(cookies=both) as client:
        assert [client.get(f"{one.url}/experiments").status_code for one in (first, second)] == [200, 200]
    swapped = {cookie_name(first.url): second.token}
    assert httpx.get(f"{first.url}/experiments", cookies=swapped).status_code == 401


def test_changes_need_the_token_of_the_page_and_the_own_origin(served: Served, client: httpx.Client) -> None:
    assert client.post("/experiments", headers=EVIL).status_code == 403
    assert client.post("/experiments", headers={"Origin": "null"}).status_code == 403
    assert client.post("/experiments", headers={"Origin": served.url.replace("http:", "https:")}).status_code == 403
    assert client.post("/experiments", headers={"X-Ichx-Token": "x"}).status_code == 403
    assert client.post("/experiments", headers={"Sec-Fetch-Site": "same-site"}).status_code == 403
    reached = client.post("/experiments", headers={"Origin": served.url, "Sec-Fetch-Site": "same-origin"})
    assert (reached.status_code, set(reached.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


def test_other_sites_can_only_link_to_a_page(served: Served, client: httpx.Client) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/experiments", headers=link).status_code == 200
    for change in ({"Sec-Fetch-Dest": "iframe"}, {"Sec-Fetch-Dest": "image"}, {"Sec-Fetch-Dest": "empty"}):
        assert client.get("/experiments", headers=link | change).status_code == 403
    assert client.get("/experiments", headers=EVIL).status_code == 403
    without_cookie = httpx.get(f"{served.url}/experiments", headers=link)  # a browser keeps a strict cookie back
    assert (without_cookie.status_code, 'http-equiv="refresh"' in without_cookie.text) == (401, True)
    again = httpx.get(f"{served.url}/experiments", headers=link | {"Sec-Fetch-Site": "same-origin"})
    assert (again.status_code, 'http-equiv="refresh"' in again.text) == (401, False)


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "CONNECT", "POST", "ODD"])
def test_each_other_method_is_a_change(served: Served, method: str) -> None:
    assert status(raw(served, f"{method} /experiments HTTP/1.1", "Content-Length: 0")) in (400, 403)


def test_head_is_a_get_without_a_body(client: httpx.Client) -> None:
    answer = client.head("/experiments")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (("Transfer-Encoding: chunked",), 411),
        (("Content-Length: 1000001",), 413),
        (("Content-Length: 99999999999999999999",), (400, 413)),
        (("Content-Length: -1",), (400, 411)),
        (("Content-Length: 1", "Content-Length: 2"), (400, 411)),
        (("Transfer-Encoding: chunked", "Content-Length: 1"), (400, 411)),
        (("Content-Length: 0", "X-Ichx-Token: x"), 403),
    ],
)
def test_a_change_has_a_length_within_the_limit(
    served: Served, headers: tuple[str, ...], expected: int | tuple[int, ...]
) -> None:
    answer = raw(served, "POST /experiments HTTP/1.1", f"X-Ichx-Token: {served.change_token}", *headers)
    assert status(answer) in (expected if isinstance(expected, tuple) else (expected,))


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/base.js%00.css",
        "/static/%00",
        "/static/",
        "/static/.",
        "/static/base.js/",
        "/static/uplot",
        "/static/" + "a" * 5000,
        "/static/" + "a/" * 2000,
        "/%ff%fe",
        "/%",
        "/%zz",
        "/experiments/../../etc/passwd",
        "/" + "x" * 20000,
    ],
)
def test_no_path_leads_out_of_the_static_files(served: Served, path: str) -> None:
    answer = raw(served, f"GET {path} HTTP/1.1")
    assert status(answer) == 404
    assert b"content-security-policy" in answer


def test_static_files_have_a_fixed_type(client: httpx.Client) -> None:
    assert client.get("/static/base.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert client.get("/static/page.css").headers["content-type"] == "text/css; charset=utf-8"
    assert client.get("/static/base.js").headers["cache-control"] == "no-cache"
    assert "immutable" in client.get("/static/base.js?v=1").headers["cache-control"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a browser that tries https
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\x00b\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"\r\n\r\n\r\n",
    ],
)
def test_broken_requests_are_refused(served: Served, request_bytes: bytes) -> None:
    try:
        answer = exchange(served, request_bytes + b"\r\n\r\n")
    except ConnectionError:  # closed before it has read everything
        answer = b""
    assert answer == b"" or status(answer) in (400, 404, 414, 431)
    assert httpx.get(f"{served.url}/").status_code == 401  # the next one is served


def test_a_refused_change_closes_the_connection_instead_of_reading_its_body(served: Served) -> None:
    host = served.url.removeprefix("http://")
    answer = exchange(served, f"POST /x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 999999999\r\n\r\n".encode())
    assert status(answer) == 401  # `exchange` ends when the server closes the connection


def test_bodies_that_do_not_arrive_occupy_no_thread_and_time_out(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "BODY_SECONDS", 1.0)
    host = served.url.removeprefix("http://")
    head = (
        f"POST /api/experiments/1/name HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie_name(host)}={served.token}\r\n"
        f"X-Ichx-Token: {served.change_token}\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{{"
    )
    address = urlsplit(served.url)
    slow = [socket.create_connection((address.hostname, address.port), timeout=60) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(head.encode())
        with served.client() as client:
            assert client.get("/experiments").status_code == 200
        assert {status(connection.recv(65536)) for connection in slow} == {408}
    finally:
        for connection in slow:
            connection.close()


def test_slow_clients_do_not_block_others(served: Served) -> None:
    address = urlsplit(served.url)
    slow = [socket.create_connection((address.hostname, address.port)) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(b"GET /experiments HTTP/1.1\r\nHost: ")
        with served.client() as client:
            assert client.get("/experiments").status_code == 200
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize("host", ["LOCALHOST:{port}", "[::1]:{port}", "127.0.0.1:{port}"])
def test_each_name_of_this_machine_has_its_own_origin(served: Served, host: str) -> None:
    name = host.format(port=urlsplit(served.url).port)
    headers = {"Host": name, "Cookie": f"{cookie_name(name)}={served.token}", "X-Ichx-Token": served.change_token}
    for origin, expected in ((f"http://{name}", 405), (f"http://{name.lower()}", 405), ("http://127.0.0.1", 403)):
        assert httpx.post(f"{served.url}/jobs", headers=headers | {"Origin": origin}).status_code == expected
    other = {"Origin": f"http://{name}".replace(str(urlsplit(served.url).port), "1")}
    assert httpx.post(f"{served.url}/jobs", headers=headers | other).status_code == 403


CHANGES: dict[str, dict[str, object]] = {
    "/api/experiments/{number:number}/name": {"name": "changed"},
    "/api/experiments/{number:number}/notes": {"text": "changed"},
    "/api/experiments/tags": {"experiments": [1], "add": ["changed"]},
    "/api/experiments/archive": {"experiments": [1], "archived": True},
    "/api/experiments/trash": {"experiments": [1]},
    "/api/experiments/restore": {"experiments": [1]},
    "/api/experiments/columns": {"columns": ["name"]},
    "/api/jobs/refresh": {},
    "/api/jobs/cancel": {"jobs": [["x", 0]]},
    "/api/reviews": {"source": "ph@1", "slice": "x", "finding": "artefact"},
    "/api/reviews/{id:number}/withdraw": {},
}
"""Each route that changes something, with a valid body."""
COMPUTE = {"/api/predictions/{source}", "/api/predictions/{source}/cancel"}
"""Routes that only write to the server's temporary folder."""


def test_a_server_that_only_reads_refuses_each_change(trained_copy: Path, serve: Serve) -> None:
    assert {route.path for route in all_routes() if "POST" in (route.methods or ())} == CHANGES.keys() | COMPUTE
    served = serve(trained_copy, read_only=True)
    database = trained_copy / "db" / "ichx.db"
    before = dump(database)
    with served.client() as client:
        for path, body in CHANGES.items():
            answer = client.post(re.sub("{[^}]*}", "1", path), json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "unsupported"), path
    assert dump(database) == before


def dump(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as store:
        return list(store.iterdump())
