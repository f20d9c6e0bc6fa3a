"""`ichx ensemble`: scores, choices and submissions, as text within 80 columns and as JSON."""

import json
from pathlib import Path

import pytest
from conftest import Program


def test_scores_and_choices(ichx: Program, trained_copy: Path) -> None:
    done = ichx("ensemble", "--top", 3, "--smooth", cwd=trained_copy)
    assert done.code == 0
    for name in ("blend, in-sample", "blend, nested", "gap", "method:", "smoothing", "calibration", "95 %"):
        assert name in done.out
    lines = [line for line in done.out.splitlines() if line[0] not in "┏┃┡│└"]  # without tables
    assert max(map(len, lines)) <= 80
    report = json.loads(ichx("ensemble", "--top", 3, "--smooth", "--method", "stack", "--json", cwd=trained_copy).out)
    made, choice = report["ensemble"], report["choice"]
    assert (made["number"], made["method"], choice["certificate"]) == (2, "stack", None)
    assert report["gap"] == pytest.approx(made["nested_score"] - made["score"])
    assert [part["fold"] for part in report["fold_choices"]] == list(range(len(report["fold_choices"])))
    assert len(report["fold_choices"]) > 2, "parts of the patients, not folds"
    assert {trial["part"] for trial in choice["trials"]} == {"smoothing", "calibration", "consistency", "clipping"}
    assert report["interval"]["low"] < made["nested_score"] < report["interval"]["high"]
