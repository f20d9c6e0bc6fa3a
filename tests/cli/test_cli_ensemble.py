"""`ichx ensemble`: scores, choices and submissions, as text within 80 columns and as JSON."""

import json
import sqlite3
from pathlib import Path

import pytest
from conftest import Program


@pytest.mark.usefixtures("intervals_of_few")
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


def test_stored_ensembles(ichx: Program, trained_copy: Path) -> None:
    def run(*arguments: object) -> str:
        done = ichx("ensemble", *arguments, cwd=trained_copy)
        assert done.code == 0, done.err
        return done.out

    assert json.loads(run("list", "--json")) == []
    made = json.loads(run("--members", "1,2", "--method", "mean", "--json"))
    run("name", 1, "pair")
    (listed,) = json.loads(run("list", "--json"))
    assert (listed["number"], listed["name"], listed["average"]) == (1, "pair", "logit")
    assert "pair" in run("list")
    shown = json.loads(run("show", 1, "--json"))
    assert shown == made | {"notes": [], "ensemble": made["ensemble"] | {"name": "pair"}}
    text = run("show", 1)
    assert f"{made['ensemble']['nested_score']:.5f}" in text
    assert made["ensemble"]["digest"] in text.replace("\n", "")

    submitted = json.loads(run("submit", 1, "ph-test", "--out", "again.csv", "--json"))
    assert submitted["path"] == "again.csv"
    assert (trained_copy / "again.csv").read_bytes() == (trained_copy / "ensembles/1/ph-test.csv").read_bytes()
    assert "again.csv" in run("show", 1)

    done = ichx("ensemble", "rm", 1, cwd=trained_copy)
    assert "--yes" in done.err
    assert (trained_copy / "ensembles" / "1").is_dir()
    run("rm", 1, "--yes")
    assert not (trained_copy / "ensembles" / "1").exists()
    assert ichx("ensemble", "rm", 1, "--yes", cwd=trained_copy).code == 1
    for command in (("show", 1), ("submit", 1, "ph-test"), ("export", 1, "e.zip")):
        ichx("ensemble", *command, "--json", cwd=trained_copy).check_error("not_found", "ensemble 1")
    assert json.loads(run("--members", "1,2", "--json"))["ensemble"]["number"] == 2


def test_scores_of_selected_members_are_not_to_be_reported(ichx: Program, trained_copy: Path) -> None:
    plain = ichx("ensemble", "--members", "1,2", cwd=trained_copy)
    assert "Report this score" in plain.out
    tuned = '{"study": "s", "trial": 1, "fold": 1, "values": {}, "subset": 1.0, "length": 1.0, "score": 0.5}'
    with sqlite3.connect(trained_copy / "db" / "ichx.db") as connection:
        connection.execute("UPDATE experiment SET selected = 1, tuned = ? WHERE number = 2", (tuned,))
    connection.close()
    report = json.loads(ichx("ensemble", "--members", "1,2", "--json", cwd=trained_copy).out)
    done = ichx("ensemble", "show", report["ensemble"]["number"], cwd=trained_copy)
    assert "experiment 2 " in done.err
    assert "fold 1" in done.err
    (line,) = (line for line in done.out.splitlines() if "Report this score" in line)
    assert f"fold 0, which chose nothing: {report['clean_score']:.5f}" in line
    with sqlite3.connect(trained_copy / "db" / "ichx.db") as connection:
        connection.execute("UPDATE experiment SET selected = 1, tuned = NULL WHERE number = 2")
    connection.close()
    done = ichx("ensemble", "--members", "1,2", cwd=trained_copy)
    assert "Report this score" not in done.out
    assert "ichx evaluate --ensemble 3" in done.err


def test_an_audit_of_an_ensemble(ichx: Program, trained_copy: Path) -> None:
    ichx("ensemble", "--members", "1,2", cwd=trained_copy)
    done = ichx("audit", "--ensemble", 1, cwd=trained_copy)
    assert done.code == 0, done.out
    assert "submission ensembles/1/ph-test.csv" in done.out
    (trained_copy / "ensembles/1/ph-test.csv").unlink()
    done = ichx("audit", "--ensemble", 1, "--json", cwd=trained_copy)
    found = json.loads(done.out)
    assert (done.code, found["passed"], found["audit"]["ensemble"]) == (1, False, 1)
    (failed,) = (check for check in found["audit"]["checks"] if check["state"] == "wrong")
    assert failed["subject"] == "submission ensembles/1/ph-test.csv"
    ichx("audit", "--json", cwd=trained_copy).check_error("usage", "--ensemble")
    ichx("audit", 1, "--ensemble", 1, "--json", cwd=trained_copy).check_error("usage", "--ensemble")
    ichx("audit", "--ensemble", 2, "--json", cwd=trained_copy).check_error("not_found", "2")
