"""Who may use the web app."""

from pathlib import Path

import httpx
import pytest
from web_site import Serve


def test_the_token_becomes_a_cookie(trained_root: Path, serve: Serve) -> None:
    served = serve(trained_root)
    assert httpx.get(f"{served.url}/experiments").status_code == 401
    assert httpx.get(f"{served.url}/experiments", params={"token": "x"}).status_code == 401
    admitted = httpx.get(f"{served.url}/experiments", params={"token": served.token, "where": "size > 1"})
    assert admitted.status_code == 303
    assert admitted.headers["location"] == "/experiments?where=size+%3E+1"
    assert {"HttpOnly", "SameSite=strict"} <= set(admitted.headers["set-cookie"].split("; "))
    with served.client() as client:
        page = client.get("/experiments")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1", "127.0.0.1:1", ""])
def test_other_names_of_this_machine_are_refused(trained_root: Path, serve: Serve, name: str) -> None:
    served = serve(trained_root)
    with served.client() as client:
        assert client.get("/experiments", headers={"Host": name}).status_code == 421


def test_changes_need_the_token_of_the_page_and_the_own_origin(trained_root: Path, serve: Serve) -> None:
    served = serve(trained_root)
    with served.client() as client:
        assert client.post("/experiments", headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.post("/experiments", headers={"X-Ichx-Token": "x"}).status_code == 403
        assert client.post("/experiments", headers={"Origin": served.url}).status_code == 405  # it reached the route
