"""`ichx ui` as a process, and a headless browser for it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAM = [sys.executable, "-c", "from ichx.cli.app import main; main()"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class UiServer:
    """A running server."""

    process: "subprocess.Popen[str]"
    url: str
    """The first page, with the token."""
    started: float
    """Monotonic time of its start."""

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return self.url.partition("/?")[0]

    @cached_property
    def client(self) -> httpx.Client:
        """A client with the cookie, which keeps its connection."""
        client = httpx.Client(base_url=self.origin, timeout=120, follow_redirects=True)
        client.get(self.url).raise_for_status()
        return client

    @property
    def cookie(self) -> str:
        """The header `Cookie` of its client."""
        return "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())

    def processor_seconds(self) -> float:
        """Return the processor time of the server so far, without that of its helpers."""
        values = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / TICKS

    def memory_mb(self) -> float:
        """Return the resident memory of the server."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def has_mapped(self, library: str) -> bool:
        """Return whether a file with `library` in its path is in the memory of the server."""
        return library in Path(f"/proc/{self.process.pid}/maps").read_text()

    def sign_in(self, page: "Page") -> "Page":
        """Give the browser of `page` the cookie, without loading a page of the server."""
        name, _, value = self.cookie.partition("=")
        page.context.add_cookies([{"name": name, "value": value, "url": self.origin}])
        return page


@contextmanager
def ui_server(root: Path, *arguments: str) -> Iterator[UiServer]:
    """Yield `ichx ui` for the workspace `root`, once it has printed its URL."""
    environment = os.environ | {"ICHX_WORKSPACE": str(root)}
    environment.pop("ICHX_STORE", None)
    command = [*PROGRAM, "ui", "--no-browser", "--port", "0", *arguments]
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        yield UiServer(process, process.stdout.readline().strip(), started)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser() -> "Iterator[Browser | None]":
    """Yield a headless chromium; None, with a printed reason, without one."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        print("Browser: skipped. Run `pip install playwright`.", flush=True)
        yield None
        return
    if program is None:
        print("Browser: skipped. Install chromium.", flush=True)
        yield None
        return
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield started
        finally:
            started.close()


@contextmanager
def tab(opened: "Browser", server: UiServer, script: str = "") -> "Iterator[Page]":
    """Yield a page with an empty browser cache that is signed in; `script` runs before those of each page."""
    context = opened.new_context(viewport={"width": 1280, "height": 900})
    try:
        page: Any = context.new_page()
        if script:
            page.add_init_script(script)
        yield server.sign_in(page)
    finally:
        context.close()
