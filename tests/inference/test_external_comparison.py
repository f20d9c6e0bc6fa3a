"""Another dataset from the command line: recalibration, two models, several readers, decision curves."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SCRATCH, Program

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.datasets.reader_labels import READERS_FILE
from ichx.phantom.dicom_files import write_phantom
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

DATASETS = {"ours": 31, "later": 32}
"""Seeds."""
LABEL = "subdural"
"""In the phantom, some studies have it and some do not."""


@pytest.fixture(scope="session")
def prepared(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained workspace with two datasets of other patients, both with predictions of experiments 1 and 2."""
    root = Path(shutil.copytree(trained_root, tmp_path_factory.mktemp("external") / "workspace", ignore=SCRATCH))
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        project = Project(workspace, store)
        for name, seed in DATASETS.items():
            files = write_phantom(
                tmp_path_factory.mktemp(name) / "files",
                patients=24,
                seed=seed,
                size=32,
                prevalence={"any": 0.3, LABEL: 0.1},
            )
            add_dataset(project, AddRequest(name, files.train, labels=files.train_labels))
        found = load_dataset(project, "ours")
        by_study = found.slices.groupby("study", sort=False)[LABEL].max()  # ids depend on the key of the workspace
        rows = []
        for i, (study, value) in enumerate(by_study.items()):
            for reader in range(3):
                wrong = i % 7 == reader
                rows.append((study, f"R{reader + 1}", LABEL, float(value) if not wrong else 1 - float(value)))
        readers = pd.DataFrame(rows, columns=["study", "reader", "label", "value"])
        readers.to_parquet(workspace.root / found.version.path / READERS_FILE, index=False)
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "copy", ignore=SCRATCH))


def as_json(ichx: Program, root: Path, *words: object) -> Any:
    found = ichx(*words, "--json", cwd=root)
    assert found.code == 0, found.err
    return json.loads(found.out)


def test_a_recalibration_is_applied_without_refitting(ichx: Program, root: Path, tmp_path: Path) -> None:
    first = as_json(ichx, root, "recalibrate", 2, "--dataset", "ours", "--label", "any")
    made = first["fitted"]
    (line,) = [one for one in made["fitted"]["maps"] if one["label"] == "any"]
    assert line["method"] == "intercept"  # of 24 patients
    assert (made["name"], first["replaced"]) == ("ours", None)
    (listed,) = as_json(ichx, root, "recalibrate", 2)
    assert (listed["digest"], listed["current"]) == (made["digest"], True)
    shown = ichx("recalibrate", 2, cwd=root)
    assert "any" in shown.out
    assert ichx("threshold", 2, "--per", "slice", "--sensitivity", 0.9, cwd=root).code == 0

    before = as_json(ichx, root, "evaluate", 2, "--dataset", "later")
    after = as_json(ichx, root, "evaluate", 2, "--dataset", "later", "--recalibrated", "ours")
    assert (before["recalibrated"], after["recalibrated"]) == (None, "ours")
    of_any = [one["slices"]["scores"]["labels"][5] for one in (before, after)]
    assert of_any[0]["auc"] == pytest.approx(of_any[1]["auc"], abs=1e-9)
    assert of_any[0]["log_loss"] != of_any[1]["log_loss"]
    difference = after["calibration"]["any"]["intercept"]["value"] - before["calibration"]["any"]["intercept"]["value"]
    slope = before["calibration"]["any"]["slope"]["value"]
    assert difference == pytest.approx(-slope * line["intercept"], abs=1e-6)
    assert before["operating_points"] == after["operating_points"]
    assert "used by 1 evaluation" in ichx("data", "show", "ours", cwd=root).out
    assert len(before["operating_points"]) == 1

    files = load_files(root)
    plain, mapped = (as_json(ichx, root, "predict", 2, files, *words) for words in ((), ("--recalibrated", "ours")))
    p, q = (np.array([row["any"] for row in found["slices"]]) for found in (plain, mapped))
    assert np.log(q / (1 - q)) == pytest.approx(np.log(p / (1 - p)) + line["intercept"], abs=1e-9)
    calls = [[row["called_any"] for row in found["slices"]] for found in (plain, mapped)]
    assert calls[0] == calls[1]
    assert plain["thresholds"][0]["threshold"] != mapped["thresholds"][0]["threshold"]
    assert [plain["recalibrated"], mapped["recalibrated"]] == [None, "ours"]

    words = ("evaluate", 2, "--dataset", "ours", "--recalibrated", "ours", "--json")
    ichx(*words, cwd=root).check_error("conflict", "ours")
    ichx("evaluate", 2, "--dataset", "later", "--recalibrated", "our", "--json", cwd=root).check_error(
        "not_found", "our"
    )
    tta = ("evaluate", 2, "--dataset", "later", "--recalibrated", "ours", "--tta", "hflip", "--json")
    ichx(*tta, cwd=root).check_error("conflict", "tta none, not hflip")
    archive = tmp_path / "two.zip"
    assert ichx("exp", "export", 2, archive, cwd=root).code == 0
    removed = as_json(ichx, root, "recalibrate", 2, "--name", "ours", "--remove")
    assert removed["digest"] == made["digest"]
    assert as_json(ichx, root, "recalibrate", 2) == []


def load_files(root: Path) -> Path:
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        return load_dataset(Project(workspace, store), "later").source


def test_models_are_compared_on_the_same_slices(ichx: Program, root: Path) -> None:
    for number in (1, 2):
        assert ichx("threshold", number, "--label", LABEL, "--sensitivity", 0.9, cwd=root).code == 0
    found = as_json(ichx, root, "evaluate", 1, "--dataset", "ours", "--against", 2, "--decision-curve")
    other = as_json(ichx, root, "evaluate", 2, "--dataset", "ours")
    paired = found["against"]
    one, two = (of["slices"]["scores"]["log_loss"] for of in (found, other))
    assert paired["slices"]["value"] == pytest.approx(one - two, abs=1e-9)
    assert paired["slices"]["low"] <= paired["slices"]["value"] <= paired["slices"]["high"]
    assert paired["marks"] == other["marks"]
    areas = [of["studies"]["scores"]["labels"][5]["auc"] for of in (found, other)]
    assert paired["study_auc"]["any"]["first"] == pytest.approx(areas[0], abs=1e-9)
    assert paired["study_auc"]["any"]["second"] == pytest.approx(areas[1], abs=1e-9)
    assert paired["studies"]["auc"]["any"]["value"] == pytest.approx(areas[0] - areas[1], abs=1e-9)
    (calls,) = paired["calls"]
    own_calls = found["operating_points"][0]["calls"]
    assert calls["sensitivity"]["first"]["value"] == pytest.approx(own_calls["sensitivity"]["value"])
    theirs = other["operating_points"][0]["calls"]["specificity"]["value"]
    assert calls["specificity"]["second"]["value"] == pytest.approx(theirs)
    bins = as_json(ichx, root, "evaluate", 1, "--dataset", "ours", "--reliability")["reliability"]["slice"]["any"][
        "bins"
    ]
    assert sum(one["rows"] for one in bins) == found["slices"]["scores"]["count"]
    own = as_json(ichx, root, "scores", 1, "--reliability")["study"]["any"]
    assert "reliability of any, per study" in ichx("scores", 1, "--reliability", cwd=root).out
    assert own["rows"] == sum(one["rows"] for one in own["bins"])
    curve = found["decision_curves"]["slice"]["any"]
    assert curve["rows"] == found["slices"]["scores"]["count"]
    assert len(curve["points"]) == 99
    text = ichx("evaluate", 1, "--dataset", "ours", "--against", 2, "--decision-curve", cwd=root).out
    for words in ("difference exp 1 - exp 2", "test of DeLong", "decision curve of any", "agreement of readers"):
        assert words in text
    ichx("evaluate", 1, "--dataset", "ours", "--against", 1, "--json", cwd=root).check_error("usage")
    ichx("evaluate", 1, "--dataset", "ours", "--against", 77, "--json", cwd=root).check_error("not_found", "77")


def test_readers_agree_and_judge_the_model(ichx: Program, root: Path) -> None:
    without = as_json(ichx, root, "evaluate", 1, "--dataset", "ours")["readers"]
    assert [(one["label"], one["readers"], one["models"]) for one in without] == [(LABEL, ["R1", "R2", "R3"], [])]
    assert len(without[0]["pairs"]) == 3
    assert 0 < without[0]["fleiss"]["value"] < 1
    assert ichx("threshold", 1, "--label", LABEL, "--sensitivity", 0.9, cwd=root).code == 0
    (found,) = as_json(ichx, root, "evaluate", 1, "--dataset", "ours")["readers"]
    assert [one["reader"] for one in found["models"]] == ["R1", "R2", "R3"]
    for one in found["models"]:
        assert one["compared"] + one["divided"] == one["studies"] == found["studies"]
        assert set(one["against_others"]) == {"sensitivity", "specificity"}
    assert as_json(ichx, root, "evaluate", 1, "--dataset", "later")["readers"] == []


def test_thresholds_of_ensembles_are_applied(ichx: Program, root: Path, tmp_path: Path, dataset_root: Path) -> None:
    created = ichx("ensemble", "--members", "1,2", "--method", "mean", "--json", cwd=root)
    assert created.code == 0, created.err
    chosen = as_json(ichx, root, "threshold", "--ensemble", 1, "--label", LABEL, "--sensitivity", 0.9)["chosen"]
    found = as_json(ichx, root, "evaluate", "--ensemble", 1, "--dataset", "later", "--prevalence", 0.1)
    (applied,) = found["operating_points"]
    assert applied["chosen"]["threshold"] == chosen["threshold"]
    assert applied["calls"]["prevalence"] == 0.1
    predicted = as_json(ichx, root, "predict", "--ensemble", 1, load_files(root))
    for row in predicted["studies"]:
        assert (row[LABEL] >= chosen["threshold"]) == row[f"called_{LABEL}"]
    made = as_json(ichx, root, "recalibrate", "--ensemble", 1, "--dataset", "ours", "--label", "any")["fitted"]
    again = as_json(ichx, root, "evaluate", "--ensemble", 1, "--dataset", "later", "--recalibrated", "ours")
    assert again["recalibrated"] == "ours"
    at = as_json(ichx, root, "threshold", "--ensemble", 1, "--prevalence", 0.2)
    assert at[0]["calls"]["prevalence"] == 0.2
    curve = as_json(ichx, root, "threshold", "--ensemble", 1, "--label", LABEL, "--decision-curve")
    assert curve["study"][LABEL]["positives"] > 0

    archive = tmp_path / "ensemble.zip"
    assert ichx("ensemble", "export", 1, archive, cwd=root).code == 0
    other = Path(shutil.copytree(dataset_root, tmp_path / "elsewhere"))
    imported = ichx("ensemble", "import", archive, cwd=other)
    assert imported.code == 0, imported.err
    (listed,) = as_json(ichx, other, "threshold", "--ensemble", 1)
    assert (listed["threshold"], listed["current"]) == (chosen["threshold"], True)
    (kept,) = as_json(ichx, other, "recalibrate", "--ensemble", 1)
    assert (kept["digest"], kept["current"]) == (made["digest"], True)
