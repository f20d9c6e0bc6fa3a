"""Comparisons and scores with intervals are computed in the helper process, with the values of the library."""

import json
from pathlib import Path
from typing import Any

import pytest
from web_site import Serve

from ichx.evaluation.compare import compare_scores
from ichx.project import open_project
from ichx.web.compared import DISAGREEMENTS, compare
from ichx.web.described import score_experiment


def _report(*_: Any) -> None:
    pass


def test_a_comparison_has_the_values_of_the_library_as_json(trained_root: Path, intervals_of_few: None) -> None:
    with open_project(trained_root) as project:
        found = json.loads(json.dumps(compare(project, _report, "experiment:1", "experiment:2", "none", "any")))
        pair = project.store.experiment(1), project.store.experiment(2)
        wanted = compare_scores(project, *pair, shown=DISAGREEMENTS, label="any")
    assert (found["slices"], found["patients"]) == (wanted.slices, wanted.difference.patients)
    assert found["notes"] == list(wanted.notes)
    weighted, *rows = found["rows"]
    assert (weighted["first"], weighted["second"]) == (wanted.first, wanted.second)
    for row, interval in [
        (weighted, wanted.difference),
        *((row, wanted.difference.labels[row["name"]]) for row in rows),
    ]:
        assert row["loss"] == {"value": interval.value, "low": interval.low, "high": interval.high}
        assert len(row["places"]) == 3
    low, value, high = weighted["places"]
    assert 2 <= low <= value <= high <= 98
    assert [one["slice_id"] for one in found["disagreements"]] == [one.slice_id for one in wanted.disagreements]
    assert [one["label"] for one in found["disagreements"]] == [one.label for one in wanted.disagreements]


def test_scores_of_an_experiment_have_intervals(trained_root: Path, intervals_of_few: None) -> None:
    with open_project(trained_root) as project:
        found = json.loads(json.dumps(score_experiment(project, _report, 1, "none")))
        score = project.store.experiment(1).score
    assert found["rows"][0]["cells"][0]["value"] == f"{score:.5f}"
    assert " to " in found["rows"][0]["cells"][0]["bounds"]


def test_they_are_computed_in_another_process(
    trained_copy: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("computed in the server")

    monkeypatch.setattr("ichx.evaluation.compare.compare_scores", fail)
    monkeypatch.setattr("ichx.evaluation.scorecard.fold_scorecard", fail)
    served = serve(trained_copy)
    with served.client() as client:
        scores = client.get("/api/experiments/1/scores")
        compared = client.get("/compare/scores?first=experiment:1&second=experiment:2")
        missing = client.get("/compare/scores?first=experiment:1&second=experiment:1&tta=other")
    assert (scores.status_code, compared.status_code, missing.status_code) == (200, 200, 400)
    assert f"{served.site.project.store.experiment(1).score:.5f}" in scores.text
    assert "Largest disagreements" in compared.text
