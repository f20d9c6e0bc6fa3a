"""Slices with the fold -1 train in every fold, and are validated, predicted out of fold and scored in none."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHORT, Program

from ichx.datasets.dataset import load_dataset, load_folds
from ichx.datasets.fold_import import LeakyFoldsError, describe_folds, export_folds, import_folds
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.folds import find_leaks, fold_digest
from ichx.datasets.patient_subset import EXCLUDED, subset_folds
from ichx.errors import InvalidInputError
from ichx.evaluation.audit import audit
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.oof import fold_problems, read_oof
from ichx.evaluation.predictions import read_predictions
from ichx.evaluation.scorecard import scorecard
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.dry_run import dry_run
from ichx.experiments.external import ExternalRequest, register_external
from ichx.experiments.prepare import prepare_experiment
from ichx.experiments.quick_look import quick_look
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.labels import LABELS
from ichx.project import Project
from ichx.report import write_report
from ichx.store import Experiment, open_store
from ichx.workspace import open_workspace

IDS = np.array(["b", "a", "c", "d"], object)


@pytest.fixture
def project(dataset_copy: Path) -> Iterator[Project]:
    """Return the phantom with the folds `part`: the default ones, with two patients that train only."""
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        project = Project(workspace, store)
        data = load_dataset(project, "ph")
        folds = load_folds(workspace, data.version, data.version.fold_set())
        chosen = [data.slices["patient"][folds == fold].iloc[0] for fold in (0, 1)]
        folds = np.where(data.slices["patient"].isin(chosen), TRAIN_ONLY, folds)
        table = pd.DataFrame({"slice_id": data.slices["slice_id"], "fold": folds})
        table.to_csv(dataset_copy / "part.csv", index=False)
        report = import_folds(project, "ph", dataset_copy / "part.csv")
        assert (report.fold_set.k, report.leaks) == (2, ())
        assert f"{(folds == TRAIN_ONLY).sum()} slices train in every fold" in " ".join(report.messages)
        yield project


def train_only(project: Project) -> set[str]:
    data = load_dataset(project, "ph")
    folds = load_folds(project.workspace, data.version, data.version.fold_set("part"))
    return set(data.slices["slice_id"][folds == TRAIN_ONLY])


def trained(project: Project, plugin: str = "tiny_resnet") -> Experiment:
    request = ExperimentRequest(plugin=plugin, size=32, settings=SHORT, folds="part")
    made = new_experiment(project.store, project.registry, request)
    run_experiment(project, made.number)
    return project.store.experiment(made.number)


def test_digests_of_folds_do_not_change() -> None:
    assert fold_digest(IDS, np.array([0, 1, 1, 0], np.int16)) == "0d4d3dadf6073a2c"
    assert fold_digest(IDS, np.array([0, 1, -1, 0], np.int16)) != fold_digest(IDS, np.array([0, 1, 1, 0], np.int16))


def test_a_patient_that_trains_only_and_is_scored_leaks() -> None:
    patients = np.array(["p", "p", "q", "r"], object)
    (leak,) = find_leaks(IDS, patients, np.array([-1, 1, 0, 1], np.int16))
    assert (leak.patient, leak.folds, leak.examples) == ("p", {-1: 1, 1: 1}, {-1: "b", 1: "a"})
    assert find_leaks(IDS, patients, np.array([-1, -1, 0, 1], np.int16)) == []
    with pytest.raises(ValueError, match="no fold"):
        find_leaks(IDS, patients, np.array([-2, -1, 0, 1], np.int16))


@pytest.mark.parametrize("first", [0, 1])
def test_import_and_export(project: Project, tmp_path: Path, first: int) -> None:
    table = pd.read_csv(project.workspace.root / "part.csv")
    table["fold"] = table["fold"].where(table["fold"] == -1, table["fold"] + first)
    table.to_csv(tmp_path / "again.csv", index=False)
    report = import_folds(project, "ph", tmp_path / "again.csv")
    assert report.fold_set.digest == report.version.fold_set("part").digest
    export_folds(project, "ph", tmp_path / "out.csv", name="part")
    exported = pd.read_csv(tmp_path / "out.csv")
    assert set(exported["slice_id"][exported["fold"] == -1]) == train_only(project)
    (described,) = describe_folds(project, "ph", name="part")["fold_sets"]
    assert [one["fold"] for one in described["folds"]] == [0, 1, -1]
    assert sum(one["slices"] for one in described["folds"]) == len(exported)


def test_invalid_numbers_and_leaks(project: Project, tmp_path: Path) -> None:
    table = pd.read_csv(project.workspace.root / "part.csv")
    table.assign(fold=-1).to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(InvalidInputError, match="-1 for slices that train in every fold"):
        import_folds(project, "ph", tmp_path / "all.csv")
    table.assign(fold=table["fold"] - 1).to_csv(tmp_path / "shifted.csv", index=False)
    with pytest.raises(InvalidInputError, match="invalid fold numbers -2, -1, 0"):
        import_folds(project, "ph", tmp_path / "shifted.csv")
    scored = table.index[table["fold"] == 0][0]
    table.loc[scored, "fold"] = -1
    table.to_csv(tmp_path / "leaky.csv", index=False)
    with pytest.raises(LeakyFoldsError, match="in fold -1"):
        import_folds(project, "ph", tmp_path / "leaky.csv")


def test_a_subset_has_a_share_of_the_patients_that_train_only(project: Project) -> None:
    data = load_dataset(project, "ph")
    folds = load_folds(project.workspace, data.version, data.version.fold_set("part"))
    part = subset_folds(data.slices, folds, 0.5)
    assert set(np.unique(part)) == {EXCLUDED, TRAIN_ONLY, 0, 1}
    assert data.slices["patient"][part == TRAIN_ONLY].nunique() == 1
    few = subset_folds(data.slices, np.where(folds == 1, 0, folds), 0.2)  # 1 of 6 patients, and none of the 2 others
    assert set(np.unique(few)) == {EXCLUDED, 0}


def test_trained_in_every_fold_and_scored_in_none(project: Project, tmp_path: Path) -> None:
    experiment, only = trained(project), train_only(project)
    prepared = prepare_experiment(project, experiment, RunCallbacks())
    ids = prepared.data.slices["slice_id"].to_numpy(object)
    for fold in (0, 1):
        assert only < set(ids[prepared.training_rows(fold)])
        assert not only & set(ids[prepared.validation_rows(fold)])
    for prediction in project.store.predictions(experiment.number, role="oof"):
        assert not only & set(read_predictions(project.workspace.root / prediction.path).slice_ids)
    table = read_oof(project, experiment)
    assert set(table.slice_ids) == set(ids) - only
    assert set(np.unique(table.folds)) == {0, 1}
    assert scorecard(project, experiment.number).left_out == 0
    audited = audit(project, experiment.number)
    assert audited.passed
    details = {check.subject: check.detail for check in audited.checks}
    assert (
        details["patients"] == "each of 6 patients is in one fold; 2 others train in every fold and are scored in none"
    )
    assert details["complete"].startswith(f"each of {len(ids) - len(only)} slices")
    other = trained(project, "tiny_byobnet")
    blended = make_ensemble(project, EnsembleRequest(members=(experiment.number, other.number)))
    assert blended.ensemble.nested_score is not None
    assert dry_run(project, other.number).folds == ()
    write_report(project, experiment.number, tmp_path / "report.html")
    assert (tmp_path / "report.html").is_file()


def test_a_prediction_of_a_slice_that_trains_only_is_a_problem() -> None:
    folds = np.array([0, 1, -1, 0], np.int16)
    assert fold_problems(IDS[[0, 3]], pd.Index(IDS), folds, 0, 2) == []
    (problem,) = fold_problems(IDS[[0, 2, 3]], pd.Index(IDS), folds, 0, 3)
    assert problem.startswith("1 slice of other folds, which this fold trained on")


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["logits", "features"])
def test_sequences(project: Project, inputs: str) -> None:
    member, only = trained(project), train_only(project)
    settings = ("stage.full.epochs=1", "sequence.width=4", "sequence.parts=2", "batch=4")
    request = ExperimentRequest(plugin="gru_stack", settings=settings)
    made, _ = new_sequence(project, request, [member.number], [inputs])
    assert dry_run(project, made.number).folds == (0, 1)
    assert run_experiment(project, made.number).folds_done == 2
    table = read_oof(project, project.store.experiment(made.number))
    assert set(table.slice_ids) == set(load_dataset(project, "ph").slices["slice_id"]) - only
    assert audit(project, made.number).passed


def test_predictions_of_another_tool(project: Project, tmp_path: Path) -> None:
    slices = load_dataset(project, "ph").slices
    table = pd.DataFrame({"slice_id": slices["slice_id"]} | dict.fromkeys(LABELS, 0.2))
    table.to_csv(tmp_path / "oof.csv", index=False)
    registered = register_external(project, ExternalRequest("other", tmp_path / "oof.csv", folds="part"))
    only = train_only(project)
    assert registered.notes == (f"oof.csv: ignored {len(only)} slices with the fold -1, which train in every fold.",)
    assert len(read_oof(project, registered.experiment).slice_ids) == len(slices) - len(only)


@pytest.mark.slow
def test_a_quick_look_trains_on_a_share_of_them(project: Project) -> None:
    request = ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT, folds="part")
    number = new_experiment(project.store, project.registry, request).number
    looked = quick_look(project, number, 0.5)
    run_experiment(project, looked.number)
    table = read_oof(project, project.store.experiment(looked.number))
    assert not train_only(project) & set(table.slice_ids)
    assert audit(project, looked.number).passed


def test_commands_show_them(project: Project, ichx: Program) -> None:
    root = project.workspace.root
    shown = ichx("data", "folds", "ph", "--name", "part", cwd=root)
    assert (shown.code, "train only" in shown.out) == (0, True)
    facts = json.loads(ichx("data", "folds", "ph", "--name", "part", "--json", cwd=root).out)
    assert facts["fold_sets"][0]["folds"][-1]["fold"] == -1
