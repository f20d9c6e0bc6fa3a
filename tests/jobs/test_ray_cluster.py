"""Addresses of Ray clusters, and what may answer there."""

import contextlib
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from local_ray import free_port, why_ray_is_absent

from ichx.errors import IchxError, InvalidInputError, MissingDependencyError, ProcessError, UnsupportedError
from ichx.jobs import Job
from ichx.jobs.engine_settings import RaySettings
from ichx.jobs.ray_cluster import dashboard_url
from ichx.jobs.ray_engine import RayEngine

needs_ray = pytest.mark.skipif(why_ray_is_absent() is not None, reason=str(why_ray_is_absent()))


def submit(address: str | None, folder: Path) -> None:
    RayEngine(folder / "jobs", RaySettings(address=address)).submit([Job(("true",), folder / "log", "job")])


@contextlib.contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def version(text: str) -> bytes:
    return json.dumps({"ray_version": text}).encode()


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("head", "http://head:8265"),
        ("10.0.0.7:80", "http://10.0.0.7:80"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.org/team", "https://ray.example.org/team"),
        ("http://[::1]", "http://[::1]:8265"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert dashboard_url(address) == url


@pytest.mark.parametrize("address", ["ray://head:10001", "auto", "", "http://", "head:port", "http://me:word@head"])
def test_invalid_addresses(address: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        dashboard_url(address)
    assert "word" not in raised.value.problem


@pytest.mark.parametrize(
    ("body", "status", "error", "value"),
    [
        (b"<html>", 200, ProcessError, "another program"),
        (b"[]", 200, ProcessError, "another program"),
        (b"", 404, ProcessError, "404"),
        pytest.param(version("2.7.1"), 200, UnsupportedError, "2.7.1", marks=needs_ray),
        pytest.param(version("3.0.0"), 200, UnsupportedError, "3.0.0", marks=needs_ray),
        pytest.param(version("nightly"), 200, UnsupportedError, "nightly", marks=needs_ray),
    ],
)
def test_other_programs_and_versions(
    body: bytes, status: int, error: type[IchxError], value: str, tmp_path: Path
) -> None:
    with answering(body, status) as url:
        with pytest.raises(error) as raised:
            submit(url, tmp_path)
        assert value in raised.value.problem
        assert url in raised.value.problem
    assert not list(tmp_path.iterdir())


def test_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")  # the client of ray would prefer it
    with pytest.raises(ProcessError, match=url):
        submit(url, tmp_path)
    with pytest.raises(ProcessError, match="http://127.0.0.1:1"):
        submit(None, tmp_path)


def test_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidInputError) as raised:
        submit(None, tmp_path)
    assert "[engine.ray]" in raised.value.remedy
    assert "RAY_ADDRESS" in raised.value.remedy


def test_the_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.job_submission", raising=False)
    with answering(version("2.60.0")) as url, pytest.raises(MissingDependencyError) as raised:
        submit(url, tmp_path)
    assert "ichx[ray]" in raised.value.remedy
    assert not list(tmp_path.iterdir())
