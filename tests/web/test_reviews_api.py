"""Reviews of slices over HTTP: recorded, withdrawn, exported; invalid ones are refused."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Program
from web_site import Serve

from ichx.datasets.dataset import load_dataset
from ichx.project import open_project

HOSTILE = '=HYPERLINK("http://evil")<script>alert(1)</script>\x1b[31m\u202e\'"'


def first_slice(root: Path) -> str:
    with open_project(root) as project:
        return str(load_dataset(project, "ph").slices["slice_id"][0])


def post(client: httpx.Client, url: str, body: Any) -> httpx.Response:
    return client.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"})


def test_a_review_is_recorded_listed_withdrawn_and_exported(dataset_copy: Path, serve: Serve, ichx: Program) -> None:
    slice_id = first_slice(dataset_copy)
    body = {"source": "ph@1", "slice": slice_id, "finding": "label wrong", "label": "epidural", "note": HOSTILE}
    with serve(dataset_copy).client() as client:
        answer = post(client, "/api/reviews", body | {"reader": "A. Müller"})
        assert answer.status_code == 200, answer.text
        added = answer.json()["review"]
        expected = '=HYPERLINK("http://evil")<script>alert(1)</script>\\x1b[31m\\u202e\'"'
        assert (added["note"], added["reader"], added["label"]) == (expected, "A. Müller", "epidural")
        assert (added["dataset"], added["version"], added["slice"]) == ("ph", 1, slice_id)
        other = post(client, "/api/reviews", {"source": "ph@1", "slice": slice_id, "finding": "artefact"}).json()
        listed = client.get(f"/api/reviews/ph@1/{slice_id}").json()["reviews"]
        assert listed == [added, other["review"]]
        withdrawn = post(client, f"/api/reviews/{added['id']}/withdraw", {}).json()["review"]
        assert withdrawn["withdrawn"] is not None
        assert client.get(f"/api/reviews/ph@1/{slice_id}").json()["reviews"] == [other["review"]]
        history = client.get(f"/api/reviews/ph@1/{slice_id}?all=1").json()["reviews"]
        assert history == [withdrawn, other["review"]]
        assert client.get("/api/reviews/ph@1/none").json() == {"reviews": []}
        exported = client.get("/data/ph@1/reviews.csv?all=1")
    assert exported.headers["content-disposition"] == 'attachment; filename="ph-reviews.csv"'
    rows = list(csv.DictReader(io.StringIO(exported.text)))
    assert [row["note"] for row in rows] == [f"'{expected}", ""]
    printed = ichx("data", "reviews", "ph", "--all", "--csv", cwd=dataset_copy).out
    assert list(csv.DictReader(io.StringIO(printed))) == rows
    as_json = json.loads(ichx("data", "reviews", "ph", "--json", cwd=dataset_copy).out)
    assert [(one["id"], one["finding"]) for one in as_json] == [(other["review"]["id"], "artefact")]


@pytest.mark.parametrize(
    ("change", "status", "value"),
    [
        ({"slice": "9.9.9"}, 404, "9.9.9"),
        ({"source": "ph@2"}, 404, "2"),
        ({"source": "hp@1"}, 404, "hp"),
        ({"source": "../ph@1"}, 404, "../ph"),
        ({"source": "folder"}, 404, "folder"),
        ({"source": "ph@-1"}, 404, "ph@-1"),
        ({"finding": "wrong"}, 400, "wrong"),
        ({"finding": None}, 400, "finding"),
        ({"label": "fracture"}, 400, "fracture"),
        ({"label": 1}, 400, "label"),
        ({"note": ["x"]}, 400, "note"),
        ({"note": "\0"}, 400, "\\x00"),
        ({"note": "\ud800"}, 400, "\\ud800"),
        ({"note": "x" * 4001}, 400, "4,001"),
        ({"reader": "x" * 201}, 400, "201"),
    ],
)
def test_invalid_reviews_are_refused(
    dataset_root: Path, serve: Serve, change: dict[str, Any], status: int, value: str
) -> None:
    body = {"source": "ph@1", "slice": first_slice(dataset_root), "finding": "other"}
    with serve(dataset_root).client() as client:
        answer = post(client, "/api/reviews", body | change)
        assert answer.status_code == status
        assert value in answer.json()["error"]["problem"]
        assert client.get("/api/reviews/ph@1/" + body["slice"]).json() == {"reviews": []}


@pytest.mark.parametrize("content", ["", "[1]", "nonsense", "[" * 100_000])
def test_a_body_that_is_no_object_is_refused(dataset_root: Path, serve: Serve, content: str) -> None:
    with serve(dataset_root).client() as client:
        answer = client.post("/api/reviews", content=content, headers={"Content-Type": "application/json"})
        assert answer.json()["error"]["code"] == "invalid_input"


def test_a_read_only_site_records_nothing(dataset_root: Path, serve: Serve) -> None:
    slice_id = first_slice(dataset_root)
    with serve(dataset_root, read_only=True).client() as client:
        answer = post(client, "/api/reviews", {"source": "ph@1", "slice": slice_id, "finding": "other"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "unsupported")
        assert client.get(f"/api/reviews/ph@1/{slice_id}").json() == {"reviews": []}
        assert client.get("/data/ph@1/reviews.csv").text == (
            "id,dataset,version,slice,finding,label,note,reader,created,withdrawn\n"
        )


def test_an_unknown_review_cannot_be_withdrawn(dataset_copy: Path, serve: Serve) -> None:
    with serve(dataset_copy).client() as client:
        answer = post(client, "/api/reviews/7/withdraw", {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert "7" in answer.json()["error"]["problem"]
