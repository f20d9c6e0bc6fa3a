"""Names, notes, logs and ids of an attacker stay text on each page, and break no route."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from injections import INJECTIONS, check_page, poison
from starlette.routing import Route
from test_pages import PAGES
from web_site import Served, Tab, serving

from ichx.web import app

QUERY = (
    "where",
    "sort",
    "page",
    "of",
    "slice",
    "window",
    "label",
    "fold",
    "limit",
    "columns",
    "kind",
    "size",
    "a",
    "b",
)
"""Names of parameters of pages; others are ignored."""


@pytest.fixture(scope="module")
def poisoned(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a workspace with injections in all texts."""
    root = Path(shutil.copytree(trained_root, tmp_path_factory.mktemp("poisoned") / "workspace"))
    poison(root)
    with serving(root) as served:
        yield served


@pytest.mark.parametrize("path", PAGES)
def test_a_page_shows_injections_as_text(poisoned: Served, tab: Callable[..., Tab], path: str) -> None:
    page = tab(poisoned).open(path)
    page.wait_for_load_state("load")
    check_page(page)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_escapes_its_parameters(poisoned: Served, tab: Callable[..., Tab], path: str) -> None:
    own = [name for pair in path.partition("?")[2].split("&") if (name := pair.partition("=")[0])]
    page = tab(poisoned, allow_errors=True)
    for text in INJECTIONS[::7]:
        query = "&".join(f"{name}={quote(text)}" for name in dict.fromkeys([*own, *QUERY]))
        check_page(page.open(f"{path.partition('?')[0]}?{query}"))


def _routes() -> list[Route]:
    return [route for module in app.PAGES for route in module.ROUTES if isinstance(route, Route)]


@pytest.mark.parametrize("route", _routes(), ids=lambda route: route.path)
def test_no_route_fails_for_odd_ids_and_parameters(poisoned: Served, route: Route) -> None:
    odd = [
        *INJECTIONS,
        "",
        "0",
        "-1",
        "1",
        "9" * 9,
        "9" * 30,
        "9" * 5000,
        "a" * 300,
        "1e400",
        "..%2f..",
        "a\0b",
        "\u00b2",
        "\u0661",
        "nan",
        "ph@1",
        "ph@" + "9" * 30,
        "experiment:" + "9" * 30,
    ]
    methods = route.methods or {"GET"}
    with poisoned.client() as client:
        for text in odd:
            path = re.sub(r"\{[^}]*:number\}", text if text.isdecimal() else "1", route.path)
            path = re.sub(r"\{[^}]*\}", quote(text, safe=""), path)
            if "GET" in methods:
                # without reading streams of events to their end, which they do not have
                with client.stream("GET", path, params=dict.fromkeys(QUERY, text[:1000])) as answer:
                    assert answer.status_code < 500 or answer.status_code == 503, (path, text)
            for body in (
                {},
                dict.fromkeys(("tag", "text", "note", "number", "source", "slice", "finding"), text),
                [],
            ):
                if "POST" in methods:
                    assert client.post(path, json=body).status_code < 500, (path, text)
