"""`ichx ui` as a program: start, address, and end."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import Program, clean_environment
from running_programs import wait_until

from ichx.errors import InvalidInputError
from ichx.web.server import _names, _resolve, ssh_command

HANDLERS = """
import sys, time
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from ichx.web import app

async def events():
    import asyncio
    while True:
        yield b"data: 1\\n\\n"
        await asyncio.sleep(0.1)

class Pages:
    ROUTES = (
        Route("/events", lambda request: StreamingResponse(events())),
        Route("/work", lambda request: (print("works", file=sys.stderr, flush=True), time.sleep(600))),
    )

app.PAGES = (*app.PAGES, Pages)
from ichx.cli.app import main
sys.argv = ["ichx", *sys.argv[1:]]
main()
"""
"""Runs `ichx` with a stream of events that does not end, and a handler that works for long."""


@contextmanager
def running(root: Path, *arguments: str, **environment: str) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """Yield `ichx ui` and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANDLERS, "ui", "--port", "0", *arguments],
        cwd=root,
        env=clean_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda value: str(value)
)
def test_a_signal_ends_the_server_and_its_streams(dataset_root: Path, number: signal.Signals, code: int) -> None:
    with running(dataset_root, "--no-browser") as (process, url), httpx.Client(timeout=60) as client:
        assert client.get(url).status_code == 303
        with client.stream("GET", httpx.URL(url).join("/events")) as stream:
            assert next(stream.iter_raw()) == b"data: 1\n\n"
            process.send_signal(number)
            assert process.wait(60) == code
        assert process.stderr is not None
        assert process.stderr.read().strip().splitlines() == ["Ctrl-C ends the server."]


def test_a_handler_that_works_for_long_does_not_delay_the_end(dataset_root: Path) -> None:
    with running(dataset_root, "--no-browser") as (process, url), httpx.Client(timeout=60) as client:
        address = httpx.URL(url)
        cookie = client.get(url).headers["set-cookie"].partition(";")[0]
        with closing(socket.create_connection((address.host, address.port))) as connection:
            lines = ("GET /work HTTP/1.1", f"Host: {address.netloc.decode()}", f"Cookie: {cookie}", "", "")
            connection.sendall("\r\n".join(lines).encode())
            assert process.stderr is not None
            wait_until(lambda: "works" in process.stderr.readline(), process)  # type: ignore[union-attr]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


def test_the_first_pages_import_no_heavy_library(trained_root: Path) -> None:
    script = (
        "import json, sys, threading\n"
        "from pathlib import Path\n"
        "from ichx.cli import ui\n"
        "from ichx.web.app import create_app\n"
        "from ichx.web.security import Guard\n"
        "from ichx.web.site import Site\n"
        "from ichx.workspace import open_workspace\n"
        "from starlette.testclient import TestClient\n"
        "guard = Guard()\n"
        "client = TestClient(create_app(Site(open_workspace(Path.cwd())), guard), 'http://localhost')\n"
        "pages = [client.get(path, params={'token': guard.token}).status_code\n"
        "         for path in ('/', '/experiments', '/experiments/1', '/jobs', '/none')]\n"
        "heavy = {'torch', 'timm', 'pandas', 'alembic', 'scipy', 'pyarrow', 'ichx.training'} & set(sys.modules)\n"
        "print(json.dumps([pages[:2], sorted(heavy)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=trained_root, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[200, 200], []]


def test_the_viewer_needs_no_heavy_library_in_the_server(trained_root: Path) -> None:
    """A helper process has pandas, and torch when a prediction is requested."""
    with (
        running(trained_root, "--no-browser") as (process, url),
        httpx.Client(base_url=httpx.URL(url).join("/"), follow_redirects=True, timeout=60) as client,
    ):
        client.get(url).raise_for_status()
        wait_until(lambda: client.get("/studies?open=first").url.path.count("/") == 3, process)
        study = client.get(f"/api{client.get('/studies?open=first').url.path}").json()
        path, size = f"{study['source']}/{study['series'][0]['slices'][0]['id']}", study["pixels"]["sizes"][-1]
        assert len(client.get(f"/api/pixels/{path}", params={"size": size}).content) == 2 * size * size
        of = study["predictors"][0]["of"]
        curves = client.get(f"/api/predictions/{study['source']}/{study['study']}", params={"of": of}).json()["curves"]
        assert curves[0]["probabilities"]
        assert client.get("/worklist").status_code == 200
        libraries = Path(f"/proc/{process.pid}/maps").read_text()
    for name in ("numpy", "pyarrow"):
        assert f"/{name}/" in libraries
    assert [name for name in ("torch", "pandas", "scipy", "cv2", "blosc2") if f"/{name}/" in libraries] == []


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_the_extra_is_named_if_it_is_not_installed(dataset_root: Path, package: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None\nfrom ichx.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "ui"], cwd=dataset_root, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert package in done.stderr
    assert "pip install 'ichx[ui]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_in_use(dataset_root: Path, ichx: Program) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = ichx("ui", "--no-browser", "--port", port, cwd=dataset_root)
    assert done.code == 1
    assert str(port) in done.err
    assert "--port 0" in done.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_a_network_needs_a_flag(dataset_root: Path, ichx: Program, host: str) -> None:
    done = ichx("ui", "--no-browser", "--host", host, cwd=dataset_root)
    assert done.code == 1
    assert host in done.err
    assert "--allow-network" in done.err


@pytest.mark.parametrize("host", ["no such host", "", "a" * 300, "192.0.2.7", "127.0.0.1:80", "http://localhost"])
def test_an_invalid_host(dataset_root: Path, ichx: Program, host: str) -> None:
    done = ichx("ui", "--no-browser", "--allow-network", "--host", host, "--port", 0, cwd=dataset_root)
    assert done.code == 1
    assert host[:50] in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("more", [(), ("--read-only",)])
def test_a_network_is_exposed_with_a_warning_and_the_token(dataset_root: Path, more: tuple[str, ...]) -> None:
    with running(dataset_root, "--no-browser", "--host", "0.0.0.0", "--allow-network", *more) as (process, url):
        address = httpx.URL(url)
        assert address.host == socket.gethostname().lower()
        there = f"http://127.0.0.1:{address.port}/experiments"
        assert process.stderr is not None
        warning = process.stderr.readline()
        assert str(address.port) in warning
        assert "not encrypted" in warning
        assert ("change names" in warning) is (not more)
        for host, status in (("192.168.7.7", 401), (socket.gethostname(), 401), ("evil.example", 421)):
            assert httpx.get(there, headers={"Host": f"{host}:{address.port}"}).status_code == status
        admitted = httpx.get(there, params=address.params, headers={"Host": f"192.168.7.7:{address.port}"})
        assert admitted.status_code == 303


def test_the_url_admits_a_browser_and_other_tokens_do_not(dataset_root: Path) -> None:
    with running(dataset_root, "--no-browser") as (_process, url):
        address = httpx.URL(url)
        assert (address.host, address.path) == ("127.0.0.1", "/")
        for token in ("", "x", address.params["token"][:-1], address.params["token"] + "x"):
            assert httpx.get(address.copy_with(params={"token": token})).status_code == 401
        assert httpx.get(address.copy_with(query=None)).status_code == 401
        with httpx.Client(follow_redirects=True, timeout=60) as client:
            page = client.get(url)
            assert (page.status_code, page.url.path, page.url.query) == (200, "/experiments", b"")
            assert client.get(address.join("/jobs")).status_code == 200


def _has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6")
def test_the_loopback_address_of_ipv6(dataset_root: Path) -> None:
    with running(dataset_root, "--no-browser", "--host", "::1") as (process, url):
        address = httpx.URL(url)
        assert url.startswith("http://[::1]:")
        with httpx.Client(follow_redirects=True, timeout=60) as client:
            assert client.get(url).status_code == 200
            for host, status in (("[::1]", 200), ("localhost", 200), ("[::2]", 421), ("evil.example", 421)):
                headers = {"Host": f"{host}:{address.port}"}
                assert client.get(address.join("/jobs"), headers=headers).status_code == status, host
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def test_names_of_hosts() -> None:
    assert _resolve("127.0.0.5") == "127.0.0.5"
    assert _names("127.0.0.5", "127.0.0.5") == {"127.0.0.1", "localhost", "[::1]", "127.0.0.5"}
    assert socket.gethostname().lower() in _names("::", "::")
    with pytest.raises(InvalidInputError, match="nowhere"):
        _resolve("nowhere.invalid")


def test_the_command_of_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert ssh_command("127.0.0.1", 8417) is None
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.9 22")
    monkeypatch.setenv("USER", "ann")
    assert ssh_command("127.0.0.1", 8417) == "ssh -N -L 8417:127.0.0.1:8417 ann@192.0.2.9"
    assert ssh_command("::1", 8417) == "ssh -N -L '8417:[::1]:8417' ann@192.0.2.9"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    expected = f"ssh -N -L 8417:127.0.0.1:8417 -J ann@192.0.2.9 ann@{socket.gethostname()}"
    assert ssh_command("127.0.0.1", 8417) == expected


def test_a_browser_opens_only_on_a_screen_and_with_another_token(dataset_root: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > "{seen}.part" && mv "{seen}.part" "{seen}"\n')
    browser.chmod(0o755)
    environment = {"BROWSER": f"{browser} %s", "DISPLAY": ":9"}
    with running(dataset_root, **environment) as (process, url):
        wait_until(seen.exists, process)
        opened = seen.read_text()
        assert opened.partition("token=")[0] == url.partition("token=")[0]
        assert opened != url
        assert httpx.get(opened).status_code == 303
        assert httpx.get(opened).status_code == 401
        assert httpx.get(url).status_code == 303
    seen.unlink()
    for change in ({"SSH_CONNECTION": "1 2 3 4"}, {"DISPLAY": "", "WAYLAND_DISPLAY": ""}):
        with running(dataset_root, **(environment | change)) as (_process, url):
            assert httpx.get(url).status_code == 303
        assert not seen.exists()


def test_logs_have_no_token(dataset_root: Path) -> None:
    with running(dataset_root, "--no-browser") as (process, url):
        address = httpx.URL(url)
        for path in ("/", "/none", "/experiments?where=(", "/static/none"):
            httpx.get(address.join(path), params=address.params, follow_redirects=True)
        with closing(socket.create_connection((address.host, address.port))) as connection:
            connection.sendall(f"BAD {url}\r\n\r\n".encode())
            connection.recv(1000)
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert process.stderr is not None
        assert address.params["token"] not in process.stderr.read()


def test_the_server_leaves_the_processor_to_a_training(dataset_root: Path) -> None:
    with running(dataset_root, "--no-browser") as (process, _url):
        assert os.getpriority(os.PRIO_PROCESS, process.pid) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + 15)
