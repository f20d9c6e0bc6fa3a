"""`ichx ensemble`: what it prints of a blend, for people within 80 columns and for programs whole."""

import json
from pathlib import Path

import pytest
from conftest import Program

from ichx.evaluation.choices import METHODS


def test_what_was_chosen_is_told(ichx: Program, trained_copy: Path) -> None:
    done = ichx("ensemble", "--top", 3, "--smooth", cwd=trained_copy)
    assert done.code == 0
    for told in ("blend, in-sample", "blend, nested", "gap", "method:", "smoothing", "calibration", "2 of 2"):
        assert told in done.out
    assert "95 % interval over patients" in done.out
    prose = [line for line in done.out.splitlines() if line[0] not in "┏┃┡│└"]  # tables fit what room there is
    assert max(map(len, prose)) <= 80
    told = json.loads(ichx("ensemble", "--top", 3, "--smooth", "--method", "stack", "--json", cwd=trained_copy).out)
    made, choice = told["ensemble"], told["choice"]
    assert (made["number"], made["method"], choice["why"], choice["certificate"]) == (2, "stack", "as requested", None)
    assert told["gap"] == pytest.approx(made["nested_score"] - made["score"])
    assert [fold["fold"] for fold in told["fold_choices"]] == [0, 1]
    assert {trial["part"] for trial in choice["trials"]} == {"smoothing", "calibration", "consistency", "clipping"}
    assert told["interval"]["low"] < made["nested_score"] < told["interval"]["high"]


def test_an_unknown_method_names_the_known(ichx: Program, trained_copy: Path) -> None:
    done = ichx("ensemble", "--method", "median", cwd=trained_copy)
    assert (done.code, done.out) == (2, "")
    for method in METHODS:
        assert f"'{method}'" in done.err
