"""Errors of handlers: expected ones are explained, unexpected ones are logged and show no traceback."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from web_site import Serve, Tab

from ichx.errors import NotReadyError
from ichx.web import app
from ichx.web.changes import change

SECRET = "a secret \x1b]0;value"


class _Pages:
    """A module of pages that fail."""

    @staticmethod
    def bug(request: Request) -> Response:
        raise RuntimeError(SECRET)

    @staticmethod
    def expected(request: Request) -> Response:
        raise NotReadyError("<b>No cache</b>.", "Run `ichx cache build`.")

    @staticmethod
    def file(request: Request) -> Response:
        raise PermissionError(13, "Permission denied", "/data/x.dcm")

    @staticmethod
    def broken_stream(request: Request) -> Response:
        def parts() -> object:
            yield b"first"
            raise RuntimeError(SECRET)

        return StreamingResponse(parts())  # type: ignore[arg-type]

    @staticmethod
    def echo(request: Request, body: dict[str, Any]) -> Response:
        return JSONResponse(body)

    ROUTES = ()


_Pages.ROUTES = (  # type: ignore[assignment]
    *(
        Route(prefix + name, getattr(_Pages, name))
        for prefix in ("/", "/api/")
        for name in ("bug", "expected", "file", "broken_stream")
    ),
    Route("/api/echo", change(_Pages.echo), methods=["POST"]),
)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the pages that fail."""
    monkeypatch.setattr(app, "PAGES", (*app.PAGES, _Pages))


pytestmark = pytest.mark.usefixtures("failing")


@pytest.mark.parametrize("prefix", ["/", "/api/"])
def test_a_bug_is_logged_but_not_shown(
    trained_root: Path, serve: Serve, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    served = serve(trained_root)
    with served.client() as client, caplog.at_level(logging.ERROR):
        answer = client.get(f"{prefix}bug?token=x")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"]
    assert "RuntimeError" in answer.text
    if prefix == "/api/":
        assert answer.json()["error"]["code"] == "internal"
    assert caplog.text.count("Traceback") == 1
    assert "a secret \\x1b]0;value" in caplog.text
    assert f"GET {prefix}bug" in caplog.text
    assert "token" not in caplog.text.split("Traceback")[0] + caplog.text.rpartition("GET")[2]


def test_a_broken_stream_ends_without_a_page(
    trained_root: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(trained_root).client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/broken_stream")
    assert caplog.text.count("Traceback") == 1


@pytest.mark.parametrize(
    ("name", "status", "code", "value"),
    [
        ("expected", 409, "not_ready", "No cache"),
        ("file", 503, "storage", "/data/x.dcm"),
        ("none", 404, "not_found", "page"),
    ],
)
def test_an_expected_error_is_a_page_or_json(
    trained_root: Path, serve: Serve, name: str, status: int, code: str, value: str
) -> None:
    with serve(trained_root).client() as client:
        page, data = client.get(f"/{name}"), client.get(f"/api/{name}")
    assert (page.status_code, data.status_code) == (status, status)
    assert data.json()["error"]["code"] == code
    assert value in data.json()["error"]["problem"]
    assert value in page.text
    assert "<b>" not in page.text


def test_an_error_page_has_a_heading(trained_root: Path, serve: Serve, tab: Callable[..., Tab]) -> None:
    page = tab(serve(trained_root), allow_errors=True).open("/bug")
    assert page.locator("h1").inner_text() == "Error"
    assert page.locator("nav a").count() > 3


def test_a_change_has_an_object_of_valid_texts(trained_root: Path, serve: Serve) -> None:
    with serve(trained_root).client() as client:
        body = {"note": "a\n\U0001f9e0", "n": [1, {"x": None}]}
        assert client.post("/api/echo", json=body).json() == body
        wrong: list[tuple[bytes, str]] = [
            (b"{}", "text/plain"),
            (b"", "application/json"),
            (b"[1]", "application/json"),
            (b"{", "application/json"),
            (b"\xff{}", "application/json"),
            (b'{"a": ' + b"[" * 100_000, "application/json"),
            (b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b', "b": "\\u0000"}', "application/json"),
            (b'{"a": ' + b"1" * 5000 + b"}", "application/json"),
            (json.dumps({"a": "\ud800"}).encode(), "application/json"),
            (json.dumps({"a": [{"b\0": 1}]}).encode(), "application/json"),
        ]
        for content, kind in wrong:
            answer = client.post("/api/echo", content=content, headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input"), content[:50]
