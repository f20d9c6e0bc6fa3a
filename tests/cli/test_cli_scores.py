"""`ichx scores`, `ichx exp diff`, `ichx audit`: scores with intervals and marks, and exit codes."""

import json
import re
import sqlite3
from pathlib import Path

import pytest
from conftest import SHORT, Program

from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.oof import read_oof
from ichx.evaluation.scores import slice_scores, study_scores
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace


def set_mark(root: Path, mark: str, number: int = 1) -> None:
    with sqlite3.connect(root / "db" / "ichx.db") as connection:
        connection.execute(f"UPDATE experiment SET {mark} = 1 WHERE number = ?", (number,))
    connection.close()


@pytest.mark.usefixtures("intervals_of_few")
@pytest.mark.parametrize(("tta", "pooling"), [("none", "max"), ("hflip", "noisy_or")])
def test_scores_per_slice_and_per_study(ichx: Program, trained_copy: Path, tta: str, pooling: str) -> None:
    done = ichx("scores", 1, "--tta", tta, "--pooling", pooling, "--json", cwd=trained_copy)
    assert (done.code, done.err) == (0, "")
    card = json.loads(done.out)
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        table = read_oof(Project(workspace, store), store.experiment(1), tta)
    for name, expected in (
        ("slices", slice_scores(table.labels, table.probabilities)),
        ("studies", study_scores(table.labels, table.probabilities, table.studies, pooling)),
    ):
        found = card[name]
        assert found["scores"]["log_loss"] == expected.log_loss
        assert (found["patients"], found["draws"], found["level"]) == (8, 1000, 0.95)
        assert found["log_loss"]["low"] < expected.log_loss < found["log_loss"]["high"]
        for of_label in expected.labels:
            assert found["labels"][of_label.label]["auc"]["value"] == of_label.auc
            assert found["labels"][of_label.label]["brier"]["value"] == of_label.brier


@pytest.mark.usefixtures("intervals_of_few")
def test_scores_of_an_ensemble_are_those_of_its_nested_predictions(ichx: Program, trained_copy: Path) -> None:
    assert ichx("ensemble", "--members", "1,2", "--method", "convex", "--tta", "none", cwd=trained_copy).code == 0
    done = ichx("scores", "--ensemble", 1, "--json", cwd=trained_copy)
    assert (done.code, done.err) == (0, "")
    card = json.loads(done.out)
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        ensemble = store.ensemble(1)
        blend = read_ensemble_oof(Project(workspace, store), ensemble).oof
    assert (card["experiment"], card["ensemble"], card["tta"], card["nested"]) == (None, 1, "none", True)
    assert card["slices"]["scores"]["log_loss"] == pytest.approx(ensemble.nested_score, abs=1e-5)
    expected = study_scores(blend.labels, blend.probabilities, blend.studies, "noisy_or")
    pooled = json.loads(ichx("scores", "--ensemble", 1, "--pooling", "noisy_or", "--json", cwd=trained_copy).out)
    assert pooled["studies"]["scores"]["log_loss"] == expected.log_loss
    groups = json.loads(ichx("scores", "--ensemble", 1, "--by", "step", "--json", cwd=trained_copy).out)
    (of_slices,) = [one for one in groups if one["unit"] == "slice"]
    assert sum(group["rows"] for group in of_slices["groups"]) == len(blend.labels)
    loss = sum(group["rows"] * group["log_loss"]["value"] for group in of_slices["groups"]) / len(blend.labels)
    assert loss == pytest.approx(card["slices"]["scores"]["log_loss"])
    curves = json.loads(ichx("scores", "--ensemble", 1, "--reliability", "--json", cwd=trained_copy).out)
    assert curves["slice"]["any"]["rows"] == len(blend.labels)
    assert "ensemble 1, tta none, nested, per slice" in ichx("scores", "--ensemble", 1, cwd=trained_copy).out
    rows = ichx("scores", "--ensemble", 1, "--by", "step", "--csv", cwd=trained_copy).out.splitlines()
    assert rows[0].startswith("field,unit,group")


def test_bad_ensembles_of_scores(ichx: Program, trained_copy: Path) -> None:
    ichx("scores", "--ensemble", 9, "--json", cwd=trained_copy).check_error("not_found", "9")
    ichx("scores", "--json", cwd=trained_copy).check_error("usage", "--ensemble")
    ichx("scores", 1, "--ensemble", 1, "--json", cwd=trained_copy).check_error("usage", "--ensemble")
    ichx("scores", "--ensemble", 1, "--tta", "hflip", "--json", cwd=trained_copy).check_error("usage", "--tta")
    assert ichx("ensemble", "--members", "1,2", "--method", "mean", cwd=trained_copy).code == 0
    learnt = ichx("scores", "--ensemble", 1, "--pooling", "learnt", "--json", cwd=trained_copy)
    learnt.check_error("unsupported", "study probability")


def test_tables_of_scores(ichx: Program, trained_copy: Path) -> None:
    done = ichx("scores", 1, cwd=trained_copy)
    assert done.code == 0
    with open_store(open_workspace(trained_copy)) as store:
        e = store.experiment(1)
    assert (e.score_low, e.score_high) == (None, None)
    assert re.search(rf"per slice: .* {e.score:.5f} \(no interval from 8 patients\)\n", done.out)
    for text in (*LABELS, "average precision", "calibration error", "sens. at spec. 0.95", "8 patients", "per study"):
        assert text in done.out


def test_marks_follow_the_scores(ichx: Program, trained_copy: Path) -> None:
    set_mark(trained_copy, "selected")
    set_mark(trained_copy, "leaked")
    for command in (("scores", 1), ("exp", "show", 1), ("exp", "diff", 1, 2), ("audit", 1)):
        assert "[selected, leaky folds]" in ichx(*command, cwd=trained_copy).out, command
    assert json.loads(ichx("scores", 1, "--json", cwd=trained_copy).out)["marks"] == ["selected", "leaky folds"]
    said = json.loads(ichx("exp", "diff", 1, 2, "--json", cwd=trained_copy).out)["marks"]
    assert said == {"1": ["selected", "leaky folds"], "2": []}


def test_exp_show_has_the_interval(ichx: Program, trained_copy: Path) -> None:
    with sqlite3.connect(trained_copy / "db" / "ichx.db") as connection:
        ends = "score_low = 0.9 * score, score_high = 1.1 * score"
        both = f"{ends}, {ends.replace('score', 'score_tta')}"
        connection.execute(f"UPDATE experiment SET {both} WHERE number = 1")
    connection.close()
    shown = json.loads(ichx("exp", "show", 1, "--json", cwd=trained_copy).out)["experiment"]
    assert shown["score_low"] < shown["score"] < shown["score_high"]
    assert shown["score_tta_low"] < shown["score_tta"] < shown["score_tta_high"]
    interval = f"{shown['score_low']:.5f} to {shown['score_high']:.5f}"
    assert interval in ichx("exp", "show", 1, cwd=trained_copy).out


def test_scores_that_cannot_be_computed(ichx: Program, trained_copy: Path) -> None:
    assert ichx("exp", "new", "--plugin", "tiny_resnet", cwd=trained_copy).code == 0
    ichx("scores", 4, "--json", cwd=trained_copy).check_error("not_ready", "4")
    ichx("scores", 1, "--pooling", "mean", "--json", cwd=trained_copy).check_error("usage", "mean", "noisy_or")


@pytest.mark.usefixtures("intervals_of_few")
def test_diff_of_recipes_and_scores(ichx: Program, trained_copy: Path) -> None:
    done = ichx("exp", "diff", 1, 2, "--json", cwd=trained_copy)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["values"]["plugin"] == {"1": "tiny_resnet", "2": "tiny_efficientnet"}
    assert found["values"]["stage.balanced.milestones"] == {"1": [1, 2], "2": []}
    assert not {"seed", "dataset", "fold_digest"} & found["values"].keys()
    scores = found["scores"]
    assert scores["difference"]["value"] == pytest.approx(scores["first"] - scores["second"])
    assert scores["difference"]["low"] < scores["difference"]["value"] < scores["difference"]["high"]
    shown = ichx("exp", "diff", 1, 2, cwd=trained_copy).out
    assert "[1, 2]" in shown
    assert f"{scores['difference']['value']:+.5f}" in shown
    assert scores["disagreements"][0]["slice_id"] in shown
    assert f"{scores['difference']['low']:+.5f} to {scores['difference']['high']:+.5f}" in shown
    assert scores["difference"]["high"] < 0
    assert re.search(r"Experiment 1 .*better", shown)
    assert re.search(r"Experiment 1 .*better", ichx("exp", "diff", 2, 1, cwd=trained_copy).out)


def test_diff_without_scores(ichx: Program, trained_copy: Path) -> None:
    new = ("exp", "new", "--plugin", "tiny_resnet", "--size", 32, "--set", "seed=5")
    assert ichx(*new, *(f"--set={s}" for s in SHORT), cwd=trained_copy).code == 0
    done = ichx("exp", "diff", 1, 4, cwd=trained_copy)
    assert done.code == 0
    assert "seed" in done.out
    assert "4" in done.err
    ichx("exp", "clone", 1, cwd=trained_copy)
    same = json.loads(ichx("exp", "diff", 1, 5, "--json", cwd=trained_copy).out)
    assert (same["values"], same["scores"]) == ({}, None)
    ichx("exp", "diff", 1, 1, "--json", cwd=trained_copy).check_error("usage")
    ichx("exp", "diff", 1, 9, "--json", cwd=trained_copy).check_error("not_found", "9")


def test_audit_exits_with_1_if_a_check_fails(ichx: Program, trained_copy: Path) -> None:
    done = ichx("audit", 1, cwd=trained_copy)
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ["ok"] * 12
    assert "12" in done.err
    (trained_copy / "experiments" / "1" / "fold-0" / "weights.safetensors").unlink()
    done = ichx("audit", 1, cwd=trained_copy)
    assert done.code == 1
    assert re.search("  wrong +fold 0 weights .*experiments/1/fold-0/weights.safetensors", done.out)
    assert "1 of 12 " in done.err
    done = ichx("audit", 1, "--json", cwd=trained_copy)
    assert (done.code, json.loads(done.out)["passed"]) == (1, False)


def test_scores_without_intervals_mention_draws_and_reasons_once(
    ichx: Program, trained_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ichx.evaluation.patient_sums.MIN_PATIENTS", 9)
    shown = ichx("scores", 1, "--label", "any", cwd=trained_root).out
    assert "1,000" not in shown
    assert shown.count("8 patients") == 4  # in the titles and below the tables
    assert "with the label" not in shown
