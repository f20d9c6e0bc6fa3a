"""The pages of ensembles: what they show equals what `ichx ensemble show` shows."""

import json
import re
import shutil
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path

import httpx
import pytest
from test_data_page import rows_of, shown
from test_pages import ACCESSIBILITY, LOOKS, OVERFLOW
from web_site import Serve, Tab, serving

from ichx.evaluation.ensemble import EnsembleReport, EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_file import read_model
from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.ensemble_summary import chosen_steps, score_advice
from ichx.formatting import format_value
from ichx.labels import LABELS
from ichx.project import open_project


@pytest.fixture(scope="module")
def blended(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two ensembles: the first has one weight per member, the second one per label."""
    root = Path(shutil.copytree(trained_root, tmp_path_factory.mktemp("blended") / "workspace"))
    with open_project(root) as project:
        make_ensemble(project, EnsembleRequest(members=(1, 2), method="convex"))
        make_ensemble(project, EnsembleRequest(members=(1, 2), method="per-label", calibrate=False))
        project.store.rename_ensemble(1, "first <b>blend</b>")
    return root


def stored_report(root: Path, number: int) -> EnsembleReport:
    with open_project(root) as project:
        ensemble = project.store.ensemble(number)
        return EnsembleReport(ensemble=ensemble, **vars(read_model(project.workspace, ensemble).record))


def test_ensembles_are_listed(blended: Path, trained_root: Path, serve: Serve) -> None:
    with serve(blended).client() as client:
        page = client.get("/ensembles").text
    rows = rows_of(page, "Ensembles")
    assert [row[0] for row in rows] == ["2", "1: first <b>blend</b>"]
    report = stored_report(blended, 2)
    assert rows[0][1].split()[0] == format_value(report.ensemble.nested_score)
    assert rows[0][4] == format_value(report.ensemble.score)
    with serve(trained_root).client() as client:
        assert "ichx ensemble --top 4" in client.get("/ensembles").text


@pytest.mark.parametrize("number", [1, 2])
def test_an_ensemble_shows_its_members_and_choices(blended: Path, serve: Serve, number: int) -> None:
    report = stored_report(blended, number)
    with serve(blended).client() as client:
        page = shown(client, f"/ensembles/{number}")
    members = {int(row[0].split()[0]): row for row in rows_of(page, "Members and weights")}
    assert members.keys() == {m.experiment for m in report.ensemble.members}
    for member in report.ensemble.members:
        weights = [choice.weights.get(member.experiment, 0.0) for choice in report.fold_choices]
        row = members[member.experiment]
        assert row[1] == f"{member.weight:.4f}"
        assert row[3] == f"{min(weights):.4f} to {max(weights):.4f}"
        assert row[4] == format_value(member.score)
        assert f'href="/experiments/{member.experiment}"' in page
    steps = chosen_steps(report)
    found = rows_of(page, "Choices") if steps else []
    assert [row[:2] for row in found] == [[step.part, step.chosen] for step in steps]
    assert [row[4] for row in found] == [f"{step.same} of {step.parts}" for step in steps]
    assert len(rows_of(page, "Fits of the nested score")) == len(report.fold_choices)
    if report.choice.trials:
        assert len(rows_of(page, "Alternatives")) == len(report.choice.trials)
    assert score_advice(report) in unescape(page)
    losses = {row[0]: row[1] for row in rows_of(page, "Log loss by label")}
    assert losses == {one.label: format_value(one.blend) for one in report.labels}
    assert report.interval is not None
    assert format_value(report.interval.low) in page
    if report.labels[0].weights is None:
        assert "Weights by label" not in page
    else:
        weights_of = {int(row[0]): row[1:] for row in rows_of(page, "Weights by label")}
        for experiment, found_weights in weights_of.items():
            by_label = [one.weights[experiment] for one in report.labels if one.weights is not None]
            assert found_weights == [f"{weight:.4f}" for weight in by_label]


def test_scores_with_intervals_are_computed_on_request(blended: Path, serve: Serve) -> None:
    with open_project(blended) as project:
        oof = read_ensemble_oof(project, project.store.ensemble(1)).oof
    with serve(blended).client() as client:
        groups = client.get("/api/ensembles/1/subgroups")
        assert groups.status_code == 200
        assert "<caption>By " in groups.text
        answer = client.get("/api/ensembles/1/scores")
        assert answer.status_code == 200
    rows = rows_of(answer.text, "Log loss by fold and label")
    assert rows[0][2].startswith(format_value(oof.score))
    assert [row[0] for row in rows[1:]] == [f"fold {fold}" for fold in oof.fold_scores]
    for row, value in zip(rows[1:], oof.fold_scores.values(), strict=True):
        assert row[2].startswith(format_value(value))
    assert [row[0] for row in rows_of(answer.text, "Scores by label")] == list(LABELS)


def test_links_lead_to_the_viewer_the_worklist_and_a_comparison(blended: Path, serve: Serve) -> None:
    with serve(blended).client() as client:
        page = shown(client, "/ensembles/1")
        links = [unescape(link) for link in re.findall(r'href="(/(?:studies|worklist|compare)\?[^"]+)"', page)]
        assert len(links) == 3
        for link in links:
            assert client.get(link).status_code == 200
        studies = next(link for link in links if link.startswith("/studies"))
        opened = client.get(f"{studies}&open=first")
        while opened.status_code == 200:  # the list of studies is being prepared
            time.sleep(0.05)
            opened = client.get(f"{studies}&open=first")
        assert "of=ensemble%3A1" in opened.headers["location"]
        listed = shown(client, studies)
        assert "of=ensemble%3A1" in listed
        assert client.get("/compare?ensemble=1&ensemble=2").status_code == 200


def test_predictors_have_no_name_twice(blended: Path, serve: Serve) -> None:
    with serve(blended).client() as client:
        page = shown(client, "/worklist?of=ensemble:2")
    names = re.findall(r"<option[^>]*>(ensemble [^<]*)</option>", page)
    assert names == ["ensemble 2", "ensemble 1: first &lt;b&gt;blend&lt;/b&gt;"]


def test_files_of_an_ensemble(blended: Path, serve: Serve, tmp_path: Path) -> None:
    root = Path(shutil.copytree(blended, tmp_path / "workspace"))
    folder = root / "ensembles" / "1"
    with serve(root).client() as client:
        assert client.get("/ensembles/1/report").status_code == 404
        page = shown(client, "/ensembles/1")
        assert "ichx report --ensemble 1" in page
        (folder / "report.html").write_text("<h1>report</h1><script>1</script>", encoding="utf-8")
        assert 'href="/ensembles/1/report"' in shown(client, "/ensembles/1")
        report = client.get("/ensembles/1/report")
        assert report.headers["content-security-policy"].startswith("sandbox")
        for link in re.findall(r'href="(/ensembles/1/submissions/[^"]+)"', page):
            answer = client.get(link)
            assert answer.headers["content-disposition"].startswith("attachment")
            assert answer.content == (folder / f"{link.rpartition('/')[2]}.csv").read_bytes()
        assert client.get("/ensembles/1/submissions/ph-test").status_code == 200
        for name in ("model", "..%2F2%2Fph-test", "blend.json"):
            assert client.get(f"/ensembles/1/submissions/{name}").status_code == 404
        unknown = ("/ensembles/9", "/ensembles/9/report", "/api/ensembles/9/scores", "/api/ensembles/9/subgroups")
        for path in (*unknown, "/ensembles/" + "9" * 30):
            assert client.get(path).status_code == 404


def test_a_changed_or_missing_model_is_reported_with_what_the_store_knows(
    blended: Path, serve: Serve, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(blended, tmp_path / "workspace"))
    model = root / "ensembles" / "1" / "model.json"
    model.write_text(json.dumps(json.loads(model.read_text())), encoding="utf-8")
    (root / "ensembles" / "2" / "model.json").unlink()
    with serve(root).client() as client:
        for number in (1, 2):
            page = shown(client, f"/ensembles/{number}")
            assert "ichx ensemble --members 1,2" in page
            assert len(rows_of(page, "Members and weights")) == 2
            assert str(root) not in page[page.index("<main") :]
            assert client.get(f"/api/ensembles/{number}/scores").status_code == 500


@pytest.mark.parametrize("look", LOOKS)
def test_an_ensemble_in_a_browser(blended: Path, serve: Serve, tab: Callable[..., Tab], look: str) -> None:
    page = tab(serve(blended), **LOOKS[look]).open("/ensembles/1")
    page.locator("#choices").wait_for()
    for summary in page.locator("main details > summary").all():
        summary.click()
    page.locator("#score-tables table").first.wait_for()
    assert page.evaluate("new URLSearchParams(location.search).get('scores')") == "1"
    page.locator("#subgroup-tables table").first.wait_for()
    assert page.evaluate("new URLSearchParams(location.search).get('subgroups')") == "1"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), page.evaluate(OVERFLOW)
    assert page.evaluate(ACCESSIBILITY) == []
    assert page.locator("main b").count() == 0, "names are escaped"
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?ensemble=1&ensemble=2")


def test_a_busy_helper_leaves_a_page_that_reloads(blended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ichx.web.ensembles_page.PAGE_SECONDS", 0.0)
    with serving(blended) as served, served.client() as client:  # a server that has computed nothing yet
        first: httpx.Response = client.get("/ensembles/1")
        assert 'http-equiv="refresh"' in first.text
        assert rows_of(first.text, "Members and weights")
        assert 'http-equiv="refresh"' not in shown(client, "/ensembles/1")
