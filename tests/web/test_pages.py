"""Every page in a real browser: no error in the console, no request to another host."""

from collections.abc import Callable
from pathlib import Path

import pytest
from web_site import Serve, Tab

PAGES = ("/experiments", "/studies")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_logs_no_error_and_stays_on_the_server(
    trained_root: Path, serve: Serve, tab: Callable[..., Tab], path: str
) -> None:
    page = tab(serve(trained_root)).open(path)
    assert page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
