"""Names, notes, logs and ids of an attacker stay text on each page, and break no route."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from injections import INJECTIONS, QUERY, all_routes, check_page, check_route, poison
from starlette.routing import Route
from test_pages import PAGES
from web_site import Served, Tab, serving


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


@pytest.mark.parametrize("route", all_routes(), ids=lambda route: route.path)
def test_no_route_fails_for_odd_ids_and_parameters(poisoned: Served, route: Route) -> None:
    with poisoned.client() as client:
        check_route(client, route)
