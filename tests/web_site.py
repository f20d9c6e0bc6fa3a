"""Fixtures for the web app: a server in this process, HTTP requests to it, and a page in a real browser."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running_programs import wait_until

if TYPE_CHECKING:
    import httpx
    from playwright.sync_api import Browser, Page

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader")


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    """Without a slash at the end."""
    token: str
    change_token: str
    site: Any
    guard: Any

    def client(self) -> "httpx.Client":
        """Return a client with the cookie; its requests may change something."""
        import httpx

        cookies = httpx.get(self.url, params={"token": self.token}, timeout=60).cookies
        return httpx.Client(base_url=self.url, headers={"X-Ichx-Token": self.change_token}, cookies=cookies, timeout=60)


@contextmanager
def serving(root: Path, **options: Any) -> Iterator[Served]:
    """Serve the workspace `root` on a free port."""
    uvicorn = pytest.importorskip("uvicorn")
    from ichx.web.app import create_app
    from ichx.web.security import Guard
    from ichx.web.site import Site
    from ichx.workspace import open_workspace

    bound = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio disables delays (Nagle) only with it
    bound.bind(("127.0.0.1", 0))
    bound.listen(128)  # requests wait until the server has started
    port = bound.getsockname()[1]
    guard = Guard()
    site = Site(open_workspace(root), **options)
    config = uvicorn.Config(
        create_app(site, guard), log_level="warning", lifespan="off", ws="none", http="h11", timeout_graceful_shutdown=0
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{port}", guard.token, guard.change_token, site, guard)
    finally:
        server.should_exit = True
        thread.join(30)
        site.close()
        bound.close()


def first_study(client: "httpx.Client") -> str:
    """Return the path of the first study of the first source; wait until it is indexed."""
    wait_until(lambda: client.get("/studies?open=first").status_code == 303)
    return client.get("/studies?open=first").headers["location"]


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def shared_servers() -> Iterator[tuple[ExitStack, dict[object, Served]]]:
    """Return the servers of workspaces that all tests share, and what ends them with the module."""
    with ExitStack() as stack:
        yield stack, {}


@pytest.fixture
def serve(shared_servers: tuple[ExitStack, dict[object, Served]], tmp_path: Path) -> Iterator[Serve]:
    """Return `serve(root)`: it starts a server, which ends with the test.

    The tests of a module share the server of a workspace that is outside their temporary folders, e.g. `trained_root`.
    """
    from ichx.web import app

    shared_stack, shared = shared_servers
    with ExitStack() as stack:

        def start(root: Path, **options: Any) -> Served:
            if root.is_relative_to(tmp_path):
                return stack.enter_context(serving(root, **options))
            key = (root, app.PAGES, tuple(sorted(options.items())))
            if key not in shared:
                shared[key] = shared_stack.enter_context(serving(root, **options))
            return shared[key]

        yield start


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    """Return a headless browser."""
    if PROGRAM is None:
        pytest.skip("no chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page of a browser that records what it must not do: errors in the console, requests to other hosts."""

    page: "Page"
    served: Served
    problems: list[str] = field(default_factory=list)

    def open(self, path: str) -> "Page":
        """Open a page of the server."""
        self.page.goto(self.served.url + path)
        return self.page


@pytest.fixture
def tab(chromium: "Browser") -> "Iterator[Callable[..., Tab]]":
    """Return `tab(served)`: a signed-in page; the test fails if it logs an error or leaves the server.

    Options of the page, e.g. `viewport`, `color_scheme`, `is_mobile`, `has_touch`, are passed on. `allow_errors=True`
    accepts errors in the console: a browser logs each response with an error status there.
    """
    contexts: list[Any] = []
    tabs: list[Tab] = []

    def open_tab(served: Served, *, allow_errors: bool = False, **options: Any) -> Tab:
        context = chromium.new_context(**options)
        contexts.append(context)
        opened = Tab(context.new_page(), served)
        opened.page.on("request", lambda request: _check_request(opened, request.url))
        if not allow_errors:
            opened.page.on("console", lambda m: m.type == "error" and opened.problems.append(m.text))
        opened.page.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.page.goto(f"{served.url}/experiments?token={served.token}")
        tabs.append(opened)
        return opened

    yield open_tab
    for context in contexts:
        context.close()
    assert [problem for one in tabs for problem in one.problems] == []


def _check_request(tab: Tab, url: str) -> None:
    if not url.startswith((f"{tab.served.url}/", "data:", "blob:")):
        tab.problems.append(f"request to {url}")
