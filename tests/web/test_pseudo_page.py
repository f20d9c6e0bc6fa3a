"""Pages and commands about a dataset whose slices have pseudo-labels only, and so no prevalences."""

import json
import time
from pathlib import Path

import pytest
from conftest import Program
from test_data_page import rows_of
from web_site import Serve

from ichx.datasets.dataset import load_catalog
from ichx.datasets.fold_labels import read_fold_labels
from ichx.labels import LABELS
from ichx.project import open_project


def test_pages_and_commands_show_pseudo_labels(trained_copy: Path, ichx: Program, serve: Serve) -> None:
    options = ("--of", "ph-test", "--by", 2, "--transductive", "--device", "cpu", "--json")
    made = ichx("data", "pseudo", "guessed", *options, cwd=trained_copy)
    assert made.code == 0, made.err
    report = json.loads(made.out)
    assert report["created"]
    assert [count["slices"] for count in report["folds"]] == [report["version"]["slices"]] * 2
    assert report["version"]["summary"]["pseudo"]["trained_on"]["labelled"] == "ph"
    for command in (("show", "guessed"), ("folds", "guessed"), ("list",)):
        shown = ichx("data", *command, cwd=trained_copy)
        assert shown.code == 0, shown.err
    assert "pseudo-labels" in shown.out
    ichx("data", "pseudo", "x", "--of", "ph-test", "--by", 2, "--json", cwd=trained_copy).check_error(
        "conflict", "ph-test", "2 patients"
    )
    ichx("data", "pseudo", "x", "--of", "none", "--by", 2, "--json", cwd=trained_copy).check_error("not_found", "none")
    ichx("data", "pseudo", "x", "--of", "ph", "--by", "b", "--json", cwd=trained_copy).check_error("invalid_input", "b")
    both = ("data", "pseudo", "x", "--of", "ph", "--by", 2, "--json", "--soft", "--hard")
    ichx(*both, cwd=trained_copy).check_error("usage", "--soft")
    with serve(trained_copy).client() as client:
        for page in ("/data", "/data/guessed"):
            while "reloads itself" in (answer := client.get(page, follow_redirects=True)).text:
                time.sleep(0.05)
            assert answer.status_code == 200, (page, answer.text[:500])
            assert "guessed" in answer.text
        assert "pseudo-labels" in client.get("/data").text
        page = client.get("/data/guessed@1").text
        assert 'href="/experiments/2"' in page
        assert "ichx exp new --plugin NAME --dataset ph+guessed" in page
        assert page.count('<span class="mark">transductive</span>') == 2
        with open_project(trained_copy) as project:
            labels = read_fold_labels(project.workspace, project.store.version("guessed"))
            catalog = load_catalog(project.workspace, project.store.version("guessed"))
        assert labels is not None
        counts = {row[0]: row[1:] for row in rows_of(page, "Pseudo-labels by fold")}
        for fold in labels.folds:
            own = labels.table[labels.table["fold"] == fold]
            assert counts[f"fold {fold}"] == [str(len(own)), *(str(int((own[name] >= 0.5).sum())) for name in LABELS)]
        study = client.get(f"/api/studies/guessed@1/{catalog['study'].iloc[0]}").json()
        shown_slices = [one for series in study["series"] for one in series["slices"]]
        for one in shown_slices:
            own = labels.table[labels.table["slice_id"] == one["id"]]
            assert one["labels"] is None
            for name in LABELS:
                assert one["pseudo"][name] == pytest.approx([own[name].min(), own[name].max()])
        assert any(low < high for low, high in (one["pseudo"]["any"] for one in shown_slices))
