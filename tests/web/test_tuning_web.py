"""The pages of Optuna studies: the list, results that grow while trials arrive, and the command of the dashboard."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import clean_environment
from optuna.trial import TrialState
from optuna_studies import fill, frozen, new_study, storage
from simulated_run import open_copy
from web_site import Serve, Tab

from ichx.tuning.results import list_studies
from ichx.workspace import open_workspace

EVIL = "<img src=x onerror=document.title=1>"


@pytest.fixture
def studied(trained_copy: Path) -> Path:
    """A workspace with two studies of experiment 1."""
    with open_copy(trained_copy) as store, storage(open_workspace(trained_copy)) as opened:
        parent = store.experiment(1)
        fill(store, parent, new_study(opened, parent), 16)
        fill(store, parent, new_study(opened, parent, EVIL), 3, seed=2)
        opened.create_new_study([], "another program's")
    return trained_copy


def test_studies_are_listed_with_their_trials_and_best_scores(studied: Path) -> None:
    found = list_studies(open_workspace(studied))
    assert [(one.experiment, one.name) for one in found] == [(1, ""), (1, EVIL)]
    assert found[0].counts == {"done": 11, "failed": 1, "pruned": 4}
    assert found[0].best is not None


def test_pages_of_studies(studied: Path, serve: Serve) -> None:
    with serve(studied).client() as client:
        page = client.get("/tuning").text
        assert "<img" not in page[page.index("<main") :]
        assert '<th scope="row"><a href="/experiments/1">1</a>' in page
        study = client.get("/tuning/1")
        assert study.status_code == 200
        for part in ("stage.balanced.lr", 'id="tuning-0-history"', "exit code 1: no memory", "Importance"):
            assert part in study.text
        evil = client.get("/tuning/1", params={"study": EVIL})
        assert evil.status_code == 200
        assert "<img" not in evil.text[evil.text.index("<main") :]
        for path, status in (("/tuning/2", 404), ("/tuning/99", 404), ("/tuning/1?study=x", 404)):
            assert client.get(path).status_code == status
        assert client.get("/api/tuning/99/events").status_code == 404


def test_calibrated_scores_have_raw_ones_next_to_them(studied: Path, serve: Serve) -> None:
    with open_copy(studied) as store, storage(open_workspace(studied)) as opened:
        study = new_study(opened, store.experiment(2), objective="calibrated_score")
        values = {"stage.balanced.lr": 1e-2}
        study.add_trial(frozen(values, TrialState.COMPLETE, 0.25, raw_score=0.375, baseline=True))
        study.add_trial(frozen(values, TrialState.COMPLETE, 0.3, raw_score=0.5, warm_start="trial 4 of <b>"))
    with serve(studied).client() as client:
        page = client.get("/tuning/2").text
        for part in ("calibrated score</th>", "raw score</th>", "0.37500", ", warm start", "trial 4 of &lt;b&gt;"):
            assert part in page
        assert "No trial is better than the recipe: the unchanged recipe has the best score on fold 0." in page
        assert "0.25000 calibrated" in client.get("/tuning").text
        assert "raw score</th>" not in client.get("/tuning/1").text


def test_the_dashboard_is_a_command_for_the_same_storage(studied: Path, serve: Serve) -> None:
    spaced = studied.rename(studied.with_name("my workspace"))
    with serve(spaced).client() as client:
        page = client.get("/tuning").text
    command = f"optuna-dashboard --host 127.0.0.1 &#39;sqlite:///{spaced}/db/tuning.db&#39;"
    assert command in page
    assert ("pip install optuna-dashboard" in page) == ("optuna_dashboard" not in sys.modules)


def test_a_workspace_without_studies_says_how_to_create_one(trained_root: Path, serve: Serve) -> None:
    with serve(trained_root).client() as client:
        assert "ichx tune NUMBER" in client.get("/tuning").text
        missing = client.get("/tuning/1")
    assert missing.status_code == 404
    assert "ichx tune 1" in missing.text
    assert not (trained_root / "db" / "tuning.db").exists()


def test_trials_appear_while_they_end(studied: Path, serve: Serve, tab: Callable[..., Tab]) -> None:
    import optuna

    page = tab(serve(studied)).open("/tuning/1")
    page.locator("#live").filter(has_text="live").wait_for()
    page.locator("#tuning-0-history").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text().startswith("best of trials 1 to 1: ")
    assert page.locator("#trial-table tbody tr").count() == 16
    with storage(open_workspace(studied)) as opened:
        study = optuna.load_study(study_name="experiment-1", storage=opened)
        values = {"stage.balanced.lr": 1e-2, "model.dropout": 0.1, "batch": "16"}
        study.add_trial(frozen(values, TrialState.COMPLETE, 0.05, experiment=None, epochs=[6, 6], seconds=9.0))
    row = page.locator("#trial-table tbody tr").filter(has_text="0.05000").first
    row.wait_for()
    assert page.locator("#trial-table tbody tr").count() == 17
    page.locator("#tuning-0-history").focus()
    page.keyboard.press("ArrowRight")  # the new figure has tooltips, too
    page.keyboard.press("End")
    assert page.locator("#tip").inner_text().startswith("best of trials")
    assert page.locator("main img").count() == 0


def test_the_pages_import_no_torch(studied: Path) -> None:
    code = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from ichx.web.app import create_app
from ichx.web.security import Guard
from ichx.web.site import Site
from ichx.workspace import open_workspace
site = Site(open_workspace(Path(sys.argv[1])))
guard = Guard()
client = TestClient(create_app(site, guard), base_url="http://127.0.0.1", raise_server_exceptions=True)
client.get("/experiments", params={"token": guard.token})
for path in ("/tuning", "/tuning/1", "/experiments/1", "/jobs", "/api/experiments/1/scores"):
    assert client.get(path).status_code == 200, path
print(sorted({"torch", "timm"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, str(studied)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
