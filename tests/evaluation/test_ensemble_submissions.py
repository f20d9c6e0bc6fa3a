"""Submissions of a stored ensemble for test sets that were added later, and folds that make its scores optimistic."""

import dataclasses
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHORT

from ichx.datasets.add import AddRequest, add_dataset
from ichx.errors import ChangedDataError, ConflictError, NotFoundError, NotReadyError
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_submissions import submit_ensemble
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import score
from ichx.evaluation.nested_score import patient_parts
from ichx.evaluation.oof import read_oof
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.evaluation.selecting_folds import selected_member
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project

TUNED_ON_FOLD = '{"study": "s", "trial": 1, "fold": %d, "values": {}, "subset": 1.0, "length": 1.0, "score": 0.5}'


def execute(project: Project, statement: str, *values: object) -> None:
    with sqlite3.connect(project.workspace.root / "db" / "ichx.db") as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def add_test_set(project: Project, files: Path, name: str) -> None:
    add_dataset(Project(project.workspace, project.store, load_registry()), AddRequest(name, files, test_of="ph"))


def test_a_test_set_without_a_sample_that_is_added_later(
    project: Project, phantom: PhantomFiles, tmp_path: Path
) -> None:
    report = make_ensemble(project, EnsembleRequest(members=(1, 2), method="stack", smooth=True))
    assert phantom.test is not None
    files = Path(shutil.copytree(phantom.test, tmp_path / "files"))
    add_test_set(project, files, "later")
    with pytest.raises(NotReadyError, match=r"Experiment [12] has no predictions of later from fold 0, 1"):
        submit_ensemble(project, 1, "later")
    for number in (1, 2):
        run_experiment(Project(project.workspace, project.store, load_registry()), number)
    made = submit_ensemble(project, 1, "later")
    assert (made.test_set, made.path, made.images, made.filled) == (
        "later",
        "ensembles/1/later.csv",
        phantom.test_slices,
        0,
    )
    table = pd.read_csv(project.workspace.root / made.path).set_index("slice_id")
    assert list(table.columns) == list(LABELS)
    first = pd.read_csv(project.workspace.root / report.submissions[0].path).set_index("ID")["Label"]
    for name, row in table.iterrows():
        assert row.tolist() == pytest.approx([first[f"{name}_{label}"] for label in LABELS], abs=1e-6)
    stored = read_predictions(project.workspace.ensemble_dir(1) / "test-later-v1.parquet")
    probabilities = 1 / (1 + np.exp(-stored.logits.astype(float)))
    np.testing.assert_allclose(probabilities, table.loc[list(stored.slice_ids)], rtol=0, atol=1e-6)
    assert project.store.ensemble(1).submissions == ("ensembles/1/ph-test.csv", "ensembles/1/later.csv")
    submit_ensemble(project, 1, "later")
    assert len(project.store.ensemble(1).submissions) == 2


def test_a_submission_is_written_again_to_the_bit(project: Project, tmp_path: Path) -> None:
    report = make_ensemble(project, EnsembleRequest(top=3, method="convex"))
    first = project.workspace.root / report.submissions[0].path
    made = submit_ensemble(project, 1, "ph-test", tmp_path / "again.csv")
    assert made.path == str(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == first.read_bytes()
    assert project.store.ensemble(1).submissions == ("ensembles/1/ph-test.csv", str(tmp_path / "again.csv"))


def test_test_sets_and_members_that_cannot_be_used(project: Project) -> None:
    make_ensemble(project, EnsembleRequest(members=(1, 2), method="mean"))
    with pytest.raises(NotFoundError, match="'ph'") as caught:
        submit_ensemble(project, 1, "ph")
    assert "--test-of ph" in caught.value.remedy
    with pytest.raises(NotFoundError, match=r"\b2\b"):
        submit_ensemble(project, 2, "ph-test")
    execute(project, "UPDATE experiment SET recipe_digest = 'other' WHERE number = 2")
    with pytest.raises(ChangedDataError, match="experiment 2 .* another one") as changed:
        submit_ensemble(project, 1, "ph-test")
    assert "ichx ensemble --members 1,2 --tta hflip" in changed.value.remedy


def test_members_are_free_after_the_ensemble_is_deleted(project: Project) -> None:
    make_ensemble(project, EnsembleRequest(members=(1, 2), method="mean"))
    project.store.trash([1])
    with pytest.raises(ConflictError, match="ensemble 1") as caught:
        project.store.purge(1)
    assert "ichx ensemble rm 1" in caught.value.remedy
    project.store.delete_ensemble(1)
    project.store.purge(1)
    with pytest.raises(NotFoundError, match=r"\b1\b"):
        project.store.experiment(1)


def test_folds_that_chose_values_of_a_member(project: Project) -> None:
    """Experiment 2 is promoted from a trial on fold 1: only fold 0 chose nothing."""
    execute(
        project,
        "UPDATE experiment SET selected = 1, tuned = ? WHERE number = 2",
        TUNED_ON_FOLD % 1,
    )
    report = make_ensemble(project, EnsembleRequest(members=(1, 2), method="mean", smooth=False, calibrate=False))
    assert report.ensemble.selected
    (member,) = report.selected
    assert (member.experiment, member.folds) == (2, (1,))
    assert "fold 1" in member.why
    assert report.clean_folds == (0,)
    tables = [read_oof(project, project.store.experiment(n), "hflip") for n in (1, 2)]
    inside = tables[0].folds == 0
    mean = (tables[0].probabilities + tables[1].probabilities) / 2
    assert report.clean_score == pytest.approx(score(tables[0].labels[inside], mean[inside]), rel=1e-9)


def test_patience_chooses_on_every_fold(project: Project) -> None:
    request = ExperimentRequest(plugin="tiny_resnet", size=32, settings=[*SHORT, "stage.full.patience=1"])
    made = new_experiment(project.store, project.registry, request)
    run_experiment(project, made.number)
    report = make_ensemble(project, EnsembleRequest(members=(1, made.number), method="mean"))
    (member,) = report.selected
    assert (member.experiment, member.folds) == (made.number, (0, 1))
    assert (report.clean_folds, report.clean_score) == ((), None)


def test_members_without_choices(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(members=(1, 2), method="mean"))
    assert (report.selected, report.clean_folds, report.clean_score) == ((), (), None)
    assert dataclasses.asdict(report)["selected"] == ()


def test_a_fold_that_chose_a_member_of_a_sequence_experiment_chose_that_too(project: Project) -> None:
    execute(project, "UPDATE experiment SET selected = 1, tuned = ? WHERE number = 2", TUNED_ON_FOLD % 1)
    made, _ = new_sequence(project, ExperimentRequest(plugin="gru_stack"), [1, 2])
    assert made.selected
    found = selected_member(project.store, made, (0, 1))
    assert found is not None
    assert found.folds == (1,)
    assert "experiment 2" in found.why
    execute(project, "UPDATE experiment SET tuned = ? WHERE number = ?", TUNED_ON_FOLD % 0, made.number)
    both = selected_member(project.store, project.store.experiment(made.number), (0, 1))
    assert both is not None
    assert both.folds == (0, 1)


def test_a_selected_member_of_the_nested_fits_counts_without_weight_in_the_final_one(project: Project) -> None:
    """Experiment 2 is better than 1 except on one part, where it is wrong: it has a weight only without that part."""
    table = read_oof(project, project.store.experiment(1))
    bad = patient_parts(pd.factorize(table.patients)[0], table.folds) == 0
    towards = np.where(bad[:, None], 1 - table.labels, table.labels)
    share = np.where(bad, 0.9, 0.01)[:, None]
    better = pd.DataFrame((1 - share) * table.probabilities + share * towards, index=table.slice_ids)
    for stored in project.store.predictions(2, role="oof"):
        path = project.workspace.root / stored.path
        ids = read_predictions(path).slice_ids
        write_predictions(path, Predictions(ids, logits(better.loc[ids].to_numpy()).astype(np.float32)))
    execute(project, "UPDATE experiment SET selected = 1, tuned = ? WHERE number = 2", TUNED_ON_FOLD % 1)
    request = EnsembleRequest(members=(1, 2), method="convex", tta="none", smooth=False, calibrate=False)
    report = make_ensemble(project, request)
    assert [m.experiment for m in report.ensemble.members] == [1]
    assert any(2 in choice.weights for choice in report.fold_choices)
    assert [m.experiment for m in report.selected] == [2]
    assert report.clean_folds == (0,)
