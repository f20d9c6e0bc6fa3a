"""All pages and routes on a store in PostgreSQL, which is stricter with texts and numbers than SQLite."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from injections import NOT_IN_A_DATABASE, all_routes, check_route
from postgres_server import PostgresServer, postgres  # noqa: F401  # fixtures
from starlette.routing import Route
from test_pages import PAGES
from web_site import Served, first_study, serving

from ichx.evaluation.worklist import KINDS
from ichx.store import Store, open_store
from ichx.store.transfer import move_store
from ichx.workspace import open_workspace


@pytest.fixture(scope="module")
def served(
    postgres: PostgresServer,  # noqa: F811
    trained_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """Serve a workspace whose store is in PostgreSQL."""
    root = Path(shutil.copytree(trained_root, tmp_path_factory.mktemp("postgres") / "workspace"))
    url = postgres()
    workspace = open_workspace(root)
    with open_store(workspace) as old, Store(url) as new:
        move_store(old, new, workspace)
    (root / "ichx.toml").write_text(f'store = "{url}"\n')
    with serving(root) as served:
        yield served


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_shown(served: Served, path: str) -> None:
    with served.client() as client:
        answer = client.get(path, follow_redirects=True)
    assert answer.status_code == 200
    assert "<h1>" in answer.text


@pytest.mark.parametrize("route", all_routes(), ids=lambda route: route.path)
def test_no_route_fails_for_odd_ids_and_parameters(served: Served, route: Route) -> None:
    with served.client() as client:
        check_route(client, route, NOT_IN_A_DATABASE)


def test_the_requests_of_the_pages_are_answered(served: Served) -> None:
    """The viewer, the worklist and the changes of experiments with ids that exist."""
    with served.client() as client:

        def get(path: str) -> httpx.Response:
            answer = client.get(path, follow_redirects=True)
            assert answer.status_code == 200, (path, answer.text)
            return answer

        def post(path: str, body: dict[str, Any]) -> Any:
            answer = client.post(path, json=body)
            assert answer.status_code == 200, (path, answer.text)
            return answer.json()

        path = first_study(client)
        study = get(f"/api{path}").json()
        slice_id = study["series"][0]["slices"][0]["id"]
        of = [one["of"] for one in study["predictors"]]
        assert of
        for one in of:
            assert get(f"/api/predictions/{path.removeprefix('/studies/')}?of={one}").json()["curves"]
        source, name = study["source"], quote(slice_id, safe="")
        for page in (
            f"/api/pixels/{source}/{name}?size=32",
            f"/slices/{source}/{name}",
            f"/api/thumbnails/{source}/{name}",
        ):
            get(page)
        review = {"source": source, "slice": slice_id, "finding": "artefact", "note": "\U0001f9e0"}
        number = post("/api/reviews", review)["review"]["id"]
        assert [one["id"] for one in get(f"/api/reviews/{source}/{name}").json()["reviews"]] == [number]
        assert "\U0001f9e0" in get(f"/data/{source}/reviews.csv").text
        for kind in KINDS:
            assert get(f"/worklist?kind={kind}&source={source}").text.count("<h1>") == 1
        get(f"/worklist.csv?source={source}")
        assert get(f"/api/worklist?source={source}&slice={name}&at=1").json()["total"]
        post(f"/api/reviews/{number}/withdraw", {})
        assert get(f"/api/reviews/{source}/{name}").json()["reviews"] == []
        post("/api/experiments/1/name", {"name": "renamed"})
        post("/api/experiments/1/notes", {"text": "a note"})
        post("/api/experiments/tags", {"experiments": [1], "add": ["a tag"]})
        for change in ({"archived": True}, {"archived": False}):
            post("/api/experiments/archive", {"experiments": [1], **change})
        post("/api/experiments/trash", {"experiments": [1]})
        post("/api/experiments/restore", {"experiments": [1]})
        page = get(
            "/experiments?where=score+%3C+1+and+%22a+tag%22+in+tags&sort=score&columns=name,tags,input.size"
        ).text
        assert "renamed" in page
        assert "a note" in get("/experiments/1").text
        for path in (
            "/api/experiments/1/scores",
            "/api/experiments/live?exp=1&columns=state,score",
            "/experiments.csv",
        ):
            get(path)
        assert post("/api/jobs/refresh", {}) == {"problems": []}
