"""The list of experiments over HTTP: filters and their errors, sorting, columns, pages, CSV, live cells, changes."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from web_site import Serve, Served

from ichx.experiments.annotations import MAX_NOTE
from ichx.preferences import read_preference
from ichx.store import ScoreDraft, open_store
from ichx.store.testing import experiment_draft, run_draft, version_draft
from ichx.web.list_query import PAGE
from ichx.workspace import init_workspace

NASTY = "<img src=x onerror=alert(1)>\"'&"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a workspace with 250 experiments: the 3rd is running, every second has a score, the last a nasty name."""
    workspace = init_workspace(tmp_path / "ws")
    with open_store(workspace) as store:
        version = store.add_version(version_draft())
        store.add_experiments([experiment_draft(version, f"name-{i}") for i in range(1, 251)])
        for number in range(2, 251, 2):
            store.set_scores(number, ScoreDraft(score=1 / number, spread=0.01), ScoreDraft())
        store.start_run(run_draft(3))
        store.change_tags([1, 2], add=["best"])
        store.change_tags(2, add=["paper"])
        store.archive([5])
        store.rename(250, NASTY)
        store.trash([6])
    return workspace.root


@pytest.fixture
def served(many: Path, serve: Serve) -> Served:
    """Return its server."""
    return serve(many)


@pytest.fixture
def client(served: Served) -> httpx.Client:
    """Return a client of that server."""
    return served.client()


def numbers(client: httpx.Client, **query: Any) -> list[int]:
    page = client.get("/experiments", params=query)
    assert page.status_code == 200, page.text
    return [int(number) for number in re.findall(r'<tr data-experiment="(\d+)"', page.text)]


def test_lists_are_filtered_and_sorted_like_those_of_the_terminal(client: httpx.Client) -> None:
    assert numbers(client)[:3] == [250, 249, 248]
    assert len(numbers(client)) == PAGE
    assert numbers(client, where="number < 5 and score > 0") == [4, 2]
    assert numbers(client, tag="best") == [2, 1]
    assert numbers(client, tag=["best", "paper"]) == [2]
    assert numbers(client, state="running") == [3]
    assert numbers(client, sort="score")[:2] == [250, 248]
    assert numbers(client, sort="-score")[:2] == [2, 4]
    assert numbers(client, where="number < 8") == [7, 4, 3, 2, 1]
    assert numbers(client, where="number < 8", show="all") == [7, 5, 4, 3, 2, 1]
    assert numbers(client, where="number < 8", show="archived") == [5]
    assert numbers(client, show="trash") == [6]
    assert numbers(client, dataset="train", where="number == 1") == [1]


def test_pages(client: httpx.Client) -> None:
    assert numbers(client, page=2)[0] == numbers(client)[-1] - 1
    last = numbers(client, page=3)
    assert (last[-1], len(last)) == (1, 248 - 2 * PAGE)
    for page in ("4", "9" * 7, "-1", "x", "9" * 400):
        assert numbers(client, page=page) in (last, numbers(client))
    assert numbers(client, page=3, sort="score", where="number > 0")[-1] == 1
    text = client.get("/experiments", params={"page": 2, "sort": "name", "where": "number > 0"}).text
    assert "page=3" in text
    assert "101 to 200 of 248" in text


@pytest.mark.parametrize(
    ("query", "place", "value"),
    [
        ({"where": "size >"}, "where", "size &gt;"),
        ({"where": "siz > 3"}, "where", "siz"),
        ({"where": "batch < 3 or seed < 3 and name < 3"}, "where", "name &lt; 3"),
        ({"where": '"><script>alert(1)</script>'}, "where", "&lt;script&gt;"),
        ({"where": "x" * 3000}, "where", "3000"),
        ({"where": "__import__('os')"}, "where", "__import__"),
        ({"where": "\x00"}, "where", "Invalid"),
        ({"dataset": "trian"}, "dataset", "&#39;train&#39;"),
        ({"state": "runing"}, "state", "runing"),
        ({"show": "<b>"}, "show", "&lt;b&gt;"),
        ({"parent": "999"}, "parent", "999"),
        ({"parent": "x"}, "parent", "x"),
        ({"sort": "scor"}, "sort", "scor"),
        ({"columns": "number,nonsense"}, "columns", "nonsense"),
    ],
)
def test_errors_are_next_to_their_control_and_the_text_stays(
    client: httpx.Client, query: dict[str, str], place: str, value: str
) -> None:
    page = client.get("/experiments", params=query)
    assert page.status_code == 400
    found = re.search(rf'id="{place}-problem" role="alert">(.*?)</p>', page.text, flags=re.DOTALL)
    assert found is not None
    assert value in found[1]
    assert re.search(r'<span class="remedy">\S', found[1])
    assert "<script>alert" not in page.text
    if place == "where" and query["where"].strip("\x00"):
        kept = re.search(r'<input id="where" name="where" value="(.*?)"', page.text)
        assert kept is not None
        assert (
            kept[1].startswith(value[:2] if value[0] != "3" else "xx")
            or "&" in kept[1]
            or "batch" in kept[1]
            or kept[1]
        )
    assert client.get("/experiments.csv", params=query).status_code in (400, 404)


def test_a_condition_on_values_of_different_types_is_an_error_at_the_box(many: Path, served: Served) -> None:
    from dataclasses import replace

    with open_store(init_workspace(many)) as store:
        draft = experiment_draft(store.version("train"))
        store.add_experiments([replace(draft, recipe='batch = "many"\n'), replace(draft, recipe="batch = 3\n")])
    page = served.client().get("/experiments", params={"where": "batch < 5"})
    assert page.status_code == 400
    assert "many" in page.text[page.text.index('id="where-problem"') :]


def test_sorted_columns_say_so(client: httpx.Client) -> None:
    def headers(**query: str) -> dict[str, str]:
        text = client.get("/experiments", params=query).text
        return {name: sort for sort, name in re.findall(r'aria-sort="(\w+)"><a href="[^"]*" title="(\w+)"', text)}

    assert headers()["number"] == "descending"
    assert headers()["score"] == "none"
    assert headers(sort="score")["score"] == "ascending"
    assert headers(sort="-score")["score"] == "descending"
    assert headers(sort="-score")["number"] == "none"
    text = client.get("/experiments", params={"sort": "score", "tag": "best", "page": 1}).text
    assert 'href="/experiments?tag=best&amp;sort=-score"' in text


def test_columns_come_from_the_address_or_the_choice_that_the_terminal_shares(client: httpx.Client) -> None:
    def heads(**query: str) -> list[str]:
        text = client.get("/experiments", params=query).text
        return re.findall(r'title="([\w.]+)"', text[text.index("<thead>") : text.index("</thead>")])

    assert heads() == ["number", "name", "dataset", "folds_done", "state", "score"]
    assert heads(columns="score,stage.full.lr,name") == ["number", "score", "stage.full.lr", "name"]
    assert read_preference("exp list columns") is None
    saved = client.post("/api/experiments/columns", json={"columns": ["name", "batch", "note", "name"]})
    assert saved.json() == {"columns": ["name", "batch", "note"], "problem": None}
    assert read_preference("exp list columns") == ["name", "batch", "note"]
    assert heads() == ["number", "name", "batch"]  # lists are not sorted by notes
    for columns in (["nonsense"], [], "name", [3], None):
        refused = client.post("/api/experiments/columns", json={"columns": columns})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_input")
    assert read_preference("exp list columns") == ["name", "batch", "note"]


def test_only_differing_columns(many: Path, served: Served) -> None:
    from dataclasses import replace

    from ichx.plugins import load_registry
    from ichx.recipe_text import apply_settings, to_toml

    recipe = load_registry().get("tiny_resnet").recipe
    with open_store(init_workspace(many)) as store:
        draft = replace(experiment_draft(store.version("train")), recipe=to_toml(recipe))
        other = to_toml(apply_settings(recipe, ["stage.full.lr=1e-7", "seed=5"]))
        added = store.add_experiments([draft, replace(draft, recipe=other)])
    where = f"number >= {added[0].number}"
    with served.client() as client:
        text = client.get("/experiments", params={"where": where, "differing": "1"}).text
    heads = re.findall(r'title="([\w.]+)"', text[text.index("<thead>") : text.index("</thead>")])
    assert heads == ["number", "name", "stage.full.lr", "seed"]
    assert "1e-07" in text


def test_csv_has_all_pages_and_no_formulas(client: httpx.Client) -> None:
    client.post("/api/experiments/249/name", json={"name": "=1+1"})
    answer = client.get("/experiments.csv", params={"where": "number > 40", "sort": "number", "page": 2})
    assert answer.headers["content-type"].startswith("text/csv")
    assert 'filename="experiments.csv"' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["number"]) for row in rows] == list(range(41, 251))
    assert [row["name"] for row in rows[-2:]] == ["'=1+1", NASTY]
    assert rows[1]["marks"] == "partial (0 of 3 folds)"


def test_scores_have_their_marks(many: Path, client: httpx.Client) -> None:
    def score(**query: str) -> str:
        text = client.get("/experiments", params={"where": "number == 2", **query}).text
        found = re.search(r'data-column="score"[^>]*>(.*?)</td>', text)
        assert found is not None
        return found[1]

    assert score() == "0.50000 ± 0.01000"  # the column of folds shows the rest
    assert score(columns="score") == '0.50000 ± 0.01000 <span class="mark">partial (0 of 3 folds)</span>'


def test_live_cells(many: Path, client: httpx.Client) -> None:
    query = {"exp": ["2", "3", "999", "x", "9" * 30], "columns": "state,score,folds_done,name"}
    found = client.get("/api/experiments/live", params=query).json()
    assert found["states"] == {"2": "new", "3": "running"}
    assert (found["running"], found["newest"]) == ([3], 250)
    assert found["cells"]["3"]["state"] == {"text": "running", "marks": []}
    assert set(found["cells"]["3"]) == {"state", "score", "folds_done"}
    with open_store(init_workspace(many)) as store:
        store.finish_run(store.runs(3)[0].id, "done")
    assert client.get("/api/experiments/live", params=query).json()["cells"]["3"]["folds_done"]["text"] == "1/3"
    assert client.get("/api/experiments/live").json()["cells"] == {}
    many_numbers = {"exp": [str(number) for number in range(300)]}
    assert client.get("/api/experiments/live", params=many_numbers).status_code == 400


def test_names_tags_and_notes_change(many: Path, client: httpx.Client) -> None:
    assert client.post("/api/experiments/1/name", json={"name": f" {NASTY} "}).json() == {"name": NASTY}
    changed = client.post("/api/experiments/tags", json={"experiments": [1, 7], "add": [NASTY], "remove": ["best"]})
    assert changed.json() == {"tags": {"1": [NASTY], "7": [NASTY]}}
    assert client.post("/api/experiments/1/notes", json={"text": NASTY}).json()["note"]["text"] == NASTY
    found = client.get("/api/experiments/1/annotations").json()
    assert (found["name"], found["tags"], found["notes"][0]["text"]) == (NASTY, [NASTY], NASTY)
    assert sorted(found["known_tags"]) == sorted([NASTY, "best", "paper"])
    page = client.get("/experiments", params={"columns": "name,tags,note", "where": "number < 8"}).text
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 5
    with open_store(init_workspace(many)) as store:
        assert (store.experiment(1).name, store.experiment(7).tags) == (NASTY, (NASTY,))


@pytest.mark.parametrize(
    ("path", "body", "status", "value"),
    [
        ("1/name", {"name": ""}, 400, "''"),
        ("1/name", {"name": "a\nb"}, 400, "a"),
        ("1/name", {"name": "x" * 201}, 400, "xxx"),
        ("1/name", {"name": 3}, 400, "3"),
        ("999/name", {"name": "x"}, 404, "999"),
        ("tags", {"experiments": [1], "add": ["a,b"]}, 400, "a,b"),
        ("tags", {"experiments": [1], "add": [" "]}, 400, "' '"),
        ("tags", {"experiments": [1], "add": "best"}, 400, "best"),
        ("tags", {"experiments": [1, 999], "add": ["x"]}, 404, "999"),
        ("tags", {"experiments": [], "add": ["x"]}, 400, "[]"),
        ("tags", {"experiments": [True], "add": ["x"]}, 400, "True"),
        ("tags", {"experiments": [2**70], "add": ["x"]}, 400, "118"),
        ("1/notes", {"text": " "}, 400, ""),
        ("1/notes", {"text": "x" * (MAX_NOTE + 1)}, 400, "20,001"),
        ("archive", {"experiments": [1]}, 400, "None"),
        ("trash", {"experiments": [3]}, 409, "3"),
        ("restore", {"experiments": [999]}, 404, "999"),
    ],
)
def test_invalid_changes_change_nothing(
    many: Path, client: httpx.Client, path: str, body: dict[str, Any], status: int, value: str
) -> None:
    answer = client.post(f"/api/experiments/{path}", json=body)
    assert answer.status_code == status
    assert value in answer.json()["error"]["problem"]
    with open_store(init_workspace(many)) as store:
        first = store.experiment(1)
        assert (first.name, first.tags, store.notes(1)) == ("name-1", ("best",), [])


def test_experiments_are_archived_and_trashed(client: httpx.Client) -> None:
    for path, body, listed in (
        ("archive", {"archived": True}, []),
        ("archive", {"archived": False}, [2, 1]),
        ("trash", {}, []),
        ("restore", {}, [2, 1]),
    ):
        answer = client.post(f"/api/experiments/{path}", json={"experiments": [1, 2], **body})
        assert "2 experiments" in answer.json()["message"]
        assert numbers(client, where="number < 3") == listed


def test_a_server_that_only_reads_refuses_changes_and_shows_no_controls(many: Path, serve: Serve) -> None:
    with serve(many, read_only=True).client() as client:
        page = client.get("/experiments").text
        assert "Rename" not in page
        assert 'data-change="archive"' not in page
        for path, body in (
            ("1/name", {"name": "x"}),
            ("tags", {"experiments": [1], "add": ["x"]}),
            ("1/notes", {"text": "x"}),
            ("archive", {"experiments": [1], "archived": True}),
            ("trash", {"experiments": [1]}),
            ("columns", {"columns": ["name"]}),
        ):
            assert client.post(f"/api/experiments/{path}", json=body).json()["error"]["code"] == "unsupported"
    assert read_preference("exp list columns") is None


def test_a_workspace_without_experiments_says_what_to_do(tmp_path: Path, serve: Serve) -> None:
    with serve(init_workspace(tmp_path / "empty").root).client() as client:
        page = client.get("/experiments")
        assert page.status_code == 200
        assert "ichx exp new" in page.text
        assert client.get("/experiments.csv").text.startswith("number,name,")
