"""Sequence experiments: registered on members, trained on their outputs, and run like any other experiment."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Program

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.fold_import import import_folds
from ichx.errors import (
    ChangedDataError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    StorageError,
    UnsupportedError,
)
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.member_outputs import read_inputs
from ichx.evaluation.metric import score
from ichx.evaluation.oof import read_oof
from ichx.evaluation.predictions import read_predictions, write_predictions
from ichx.evaluation.scorecard import scorecard
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.member_features import TableRequest, find_table, plan_tables
from ichx.experiments.prepared_series import draw_parts, prepare_series
from ichx.experiments.register import ExperimentRequest, clone_experiment, draft, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.project import Project
from ichx.sequences.data import NO_PART
from ichx.store import Experiment
from ichx.training.weights import read_weights

pytestmark = pytest.mark.slow

TINY = ("stage.full.epochs=2", "sequence.width=4", "sequence.parts=2", "batch=4")


def sequence(
    project: Project, *members: int, inputs: tuple[str, ...] = ("logits",), settings: tuple[str, ...] = TINY
) -> Experiment:
    return new_sequence(project, ExperimentRequest(plugin="gru_stack", settings=settings), members, inputs)[0]


def logits(project: Project, number: int, role: str = "oof") -> dict[int, pd.DataFrame]:
    """Return the logits by fold and slice."""
    found = {}
    for p in project.store.predictions(number, role=role, view="identity"):
        read = read_predictions(project.workspace.root / p.path)
        found[p.fold] = pd.DataFrame(read.logits, index=pd.Index(read.slice_ids))
    return found


@pytest.mark.parametrize("inputs", [("logits",), ("features",), ("logits", "features")])
def test_a_sequence_experiment_predicts_each_fold_and_the_test_set(project: Project, inputs: tuple[str, ...]) -> None:
    made = sequence(project, 1, 2, inputs=inputs)
    assert (made.members, made.dataset, made.fold_set, made.size) == ((1, 2), "ph", "default", 0)
    report = run_experiment(project, made.number)
    assert (report.trained, report.folds_done) == ((0, 1), 2)
    version = project.store.version("ph")
    slices = load_version(project.workspace, version).slices
    folds = load_folds(project.workspace, version, version.folds[0], slices)
    for fold, predicted in logits(project, made.number).items():
        assert sorted(predicted.index) == sorted(slices["slice_id"][folds == fold])
    table = read_oof(project, project.store.experiment(made.number))
    assert report.score == pytest.approx(table.score, abs=1e-12)
    assert report.score_tta == report.score  # test-time augmentation is in its inputs
    members = [read_oof(project, project.store.experiment(number)).score for number in (1, 2)]
    assert table.score < 1.2 * max(members)
    tests = logits(project, made.number, "test")
    assert sorted(tests) == [0, 1]
    assert all(len(t) == project.store.version("ph-test").slices for t in tests.values())
    # The probability that is learnt for a study is the same on all of its slices.
    assert table.study_probabilities is not None
    learnt = pd.DataFrame(table.study_probabilities).groupby(table.studies)
    assert (learnt.nunique() == 1).all().all()
    card = scorecard(project, made.number, pooling="learnt")
    truth = pd.DataFrame(table.labels).groupby(table.studies).max()
    expected = score(truth.to_numpy(), learnt.first().to_numpy())
    assert card.studies.scores.log_loss == pytest.approx(expected, abs=1e-12)
    assert card.studies.scores.pooling == "learnt"
    with pytest.raises(UnsupportedError):
        scorecard(project, 1, pooling="learnt")
    # Nothing is left to do, and what it reads is recorded.
    assert run_experiment(project, made.number).trained == ()
    files = project.workspace.experiment_files(made.number)
    for fold in (0, 1):
        recorded = read_inputs(files.fold(fold).inputs)
        assert recorded is not None
        assert [m.number for m in recorded.members] == [1, 2]
        for member in recorded.members:
            assert (member.weights is not None) == ("features" in inputs)
            assert len(member.predictions) == (4 if "logits" in inputs else 0)
    for number in (1, 2):
        table = find_table(project, TableRequest(number, 0, version.id))  # type: ignore[assignment]
        assert (table is not None) == ("features" in inputs)


def test_predictions_without_the_logits_of_studies_get_them(project: Project) -> None:
    made = sequence(project, 1, 2)
    run_experiment(project, made.number)
    before = scorecard(project, made.number, pooling="learnt").studies
    paths = [project.workspace.root / p.path for p in project.store.predictions(made.number, role="oof")]
    for path in paths:
        write_predictions(path, replace(read_predictions(path), study_logits=None))
    with pytest.raises(UnsupportedError) as caught:
        scorecard(project, made.number, pooling="learnt")
    assert "delete" in caught.value.remedy
    assert "ichx run" in caught.value.remedy
    for path in paths:
        path.unlink()
    report = run_experiment(project, made.number)
    assert (report.trained, report.already_done) == ((), (0, 1))
    assert scorecard(project, made.number, pooling="learnt").studies == before


def test_no_head_learns_from_what_it_predicts(project: Project) -> None:
    made = sequence(project, 1, 2)
    prepared = prepare_series(project, made, RunCallbacks())
    feed = prepared.feed(0, 0)
    patients = prepared.data.slices["patient"].to_numpy(object)
    own = prepared.folds == 0
    part = feed.data.part
    assert part is not None
    assert set(part[own]) == {0, 1}
    assert set(part[~own]) == {NO_PART}
    assert pd.Series(part).groupby(patients).nunique().max() == 1
    # Inputs are the means of both views, predicted out of fold.
    views = {}
    for p in project.store.predictions(2, role="oof"):
        read = read_predictions(project.workspace.root / p.path)
        views[p.view, p.fold] = pd.DataFrame(read.logits, index=pd.Index(read.slice_ids))
    mean = pd.concat([(views["identity", k] + views["hflip", k]) / 2 for k in (0, 1)])
    assert feed.data.logits is not None
    expected = mean.loc[prepared.data.slices["slice_id"].tolist()].to_numpy(np.float32)
    np.testing.assert_allclose(feed.data.logits[:, 1].astype(np.float64), expected, atol=1e-6)
    with_features = prepare_series(project, sequence(project, 1, inputs=("features",)), RunCallbacks())
    assert set(with_features.folds[with_features.training_rows(1)]) == {0}
    assert with_features.feed(1, 0).data.part is None


def test_principal_components_are_those_of_the_training_slices(project: Project) -> None:
    settings = (*TINY[:1], "sequence.width=4", "batch=4", "sequence.projection=3", "sequence.projection_kind=pca")
    made = new_sequence(project, ExperimentRequest(plugin="gru", settings=settings), [1, 2], ("features",))[0]
    run_experiment(project, made.number)
    found = read_weights(project.workspace.experiment_files(made.number).fold(0).weights)
    [first] = [value for name, value in found.items() if name.endswith("projections.0.mean")]
    request = TableRequest(1, 0, made.version_id)
    table = find_table(project, request)
    assert table is not None
    version = project.store.version("ph")
    folds = load_folds(project.workspace, version, version.folds[0])
    rows = torch.from_numpy(table.open()[folds == 1].astype(np.float32))
    expected = torch.nn.functional.layer_norm(rows, rows.shape[-1:]).mean(dim=0)
    torch.testing.assert_close(first, expected, atol=1e-4, rtol=0)


def test_members_are_checked_before_anything_is_registered(project: Project) -> None:
    before = len(project.store.experiments(limit=None))
    with pytest.raises(NotFoundError, match="99"):
        sequence(project, 1, 99)
    with pytest.raises(InvalidInputError, match="1"):
        sequence(project, 1, 1)
    with pytest.raises(InvalidInputError, match="members"):
        sequence(project)
    with pytest.raises(InvalidInputError, match="inputs"):
        sequence(project, 1, inputs=("pixels",))
    with pytest.raises(InvalidInputError, match="tiny_resnet"):
        new_sequence(project, ExperimentRequest(plugin="tiny_resnet"), [1])
    with pytest.raises(InvalidInputError, match="gru_stack"):
        new_sequence(project, ExperimentRequest(plugin="gru_stack", size=64), [1])
    with pytest.raises(InvalidInputError, match="gru_stack"):
        new_experiment(project.store, project.registry, ExperimentRequest(plugin="gru_stack"))
    with pytest.raises(ConflictError, match="'other'"):
        new_sequence(project, ExperimentRequest(plugin="gru_stack", dataset="other"), [1])
    project.store.trash([2])
    with pytest.raises(NotReadyError, match="2"):
        sequence(project, 1, 2)
    assert len(project.store.experiments(limit=None)) == before - 1


def test_trials_quick_looks_and_other_tools_as_members(project: Project, ichx: Program, tmp_path: Path) -> None:
    version = project.store.version("ph")
    plain = draft(project.registry.get("tiny_resnet").recipe_for(size=32), version)
    changes: tuple[dict[str, Any], ...] = ({"kind": "trial"}, {"subset": 0.5}, {"external": True})
    trial, part, external = project.store.add_experiments([replace(plain, **change) for change in changes])
    with pytest.raises(InvalidInputError, match=f"{trial.number} is a tuning trial"):
        sequence(project, 1, trial.number)
    with pytest.raises(InvalidInputError, match=f"{part.number} is trained on 50 %"):
        sequence(project, 1, part.number)
    with pytest.raises(InvalidInputError, match=f"{external.number} is of another tool"):
        sequence(project, 1, external.number, inputs=("features",))
    made = sequence(project, 1, external.number)
    with pytest.raises(NotReadyError, match=f"Member {external.number} of experiment {made.number}"):
        run_experiment(project, made.number)

    folds = tmp_path / "folds.csv"
    root = project.workspace.root
    assert ichx("data", "folds", "ph", "--export", folds, cwd=root).code == 0
    table = pd.read_csv(folds)
    table["fold"] = 1 - table["fold"]
    table.to_csv(folds, index=False)
    assert ichx("data", "folds", "ph", "--import", folds, "--name", "swapped", cwd=root).code == 0
    request = ExperimentRequest(plugin="tiny_resnet", size=32, folds="swapped")
    other = new_experiment(project.store, project.registry, request)
    with pytest.raises(ConflictError, match=f"{other.number} and 1"):
        sequence(project, 1, other.number)


def test_too_little_disk_for_features_stops_a_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sequence(project, 1, inputs=("features",))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    sizes = [project.store.version(name).slices for name in ("ph", "ph-test")]
    shapes = ", ".join(sorted(rf"{slices:,} x \d+" for slices in sizes))
    with pytest.raises(StorageError, match=rf"4 feature tables of {shapes}: .* of 1.0 kB free"):
        run_experiment(project, made.number)
    assert project.store.runs(made.number) == []


def test_the_disk_space_that_is_checked_includes_the_tables_of_test_sets(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sequence(project, 1, inputs=("features",))
    requests = [
        TableRequest(1, fold, project.store.version(name).id) for name in ("ph", "ph-test") for fold in range(2)
    ]
    nbytes = plan_tables(project, requests).nbytes
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=nbytes - 1))
    with pytest.raises(StorageError):
        run_experiment(project, made.number)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=nbytes))
    run_experiment(project, made.number)
    assert plan_tables(project, requests).missing == {}


def test_a_sequence_experiment_of_sequence_experiments(project: Project) -> None:
    first = sequence(project, 1, 2)
    with pytest.raises(InvalidInputError, match=str(first.number)):
        sequence(project, 1, first.number, inputs=("features",))
    second = sequence(project, 3, first.number)
    with pytest.raises(NotReadyError, match=f"Member {first.number}"):
        run_experiment(project, second.number)
    run_experiment(project, first.number)
    assert run_experiment(project, second.number).folds_done == 2


def test_a_retrained_member_is_reported(project: Project) -> None:
    made = sequence(project, 1, 2, inputs=("features",))
    run_experiment(project, made.number)
    files = project.workspace.experiment_files(1)
    files.fold(0).weights.write_bytes(files.fold(1).weights.read_bytes())
    with pytest.raises(ChangedDataError, match=r"experiment 1 \(") as caught:
        run_experiment(project, made.number)
    assert "experiment 2 (" not in str(caught.value)
    assert run_experiment(project, made.number, folds=[1]).trained == ()
    project.workspace.experiment_files(made.number).fold(0).inputs.unlink()
    with pytest.raises(ChangedDataError, match="its members"):  # the weights contain the digest too
        run_experiment(project, made.number)


def test_a_member_that_is_retrained_during_a_run_is_reported(project: Project) -> None:
    prepared = prepare_series(project, sequence(project, 1, 2, inputs=("features",)), RunCallbacks())
    prepared.check([0])
    before = prepared.fits(0)
    files = project.workspace.experiment_files(2)
    files.fold(0).weights.write_bytes(files.fold(1).weights.read_bytes())
    with pytest.raises(ChangedDataError, match="fold 0"):
        prepared.feed(0, 0)
    assert prepared.fits(0) == before


def test_a_sequence_experiment_in_an_ensemble_with_its_members(project: Project) -> None:
    made = sequence(project, 1, 2)
    run_experiment(project, made.number)
    for tta in ("none", "hflip"):
        report = make_ensemble(project, EnsembleRequest(members=(1, 2, made.number), method="mean", tta=tta))
        assert sorted(m.experiment for m in report.ensemble.members) == [1, 2, made.number]


def test_folds_that_split_a_series_are_refused(project: Project, tmp_path: Path) -> None:
    slices = load_version(project.workspace, project.store.version("ph")).slices
    folds = pd.DataFrame({"image": slices["slice_id"], "fold": np.arange(len(slices)) % 2})
    folds.to_csv(tmp_path / "split.csv", index=False)
    import_folds(project, "ph", tmp_path / "split.csv", allow_leaks=True)
    member = new_experiment(project.store, project.registry, ExperimentRequest("tiny_resnet", folds="split"))
    assert member.leaked
    count = slices.groupby(["study", "series"]).ngroups
    with pytest.raises(ConflictError, match=f"folds split of ph split {count} series"):
        sequence(project, member.number)


def test_a_clone_cannot_read_features_of_a_sequence_experiment(project: Project) -> None:
    first = sequence(project, 1)
    second = sequence(project, first.number)
    settings = ['sequence.inputs=["features"]', "sequence.residual=false"]
    clone = clone_experiment(project.store, project.registry, second.number, settings=settings)
    with pytest.raises(InvalidInputError, match=f"{first.number} is a sequence experiment"):
        run_experiment(project, clone.number)


def test_parts_do_not_depend_on_the_names_of_patients() -> None:
    """They are hashes with the key of the workspace."""
    patients = pd.Series([f"p{n // 3}" for n in range(60)])
    slices = pd.DataFrame({"slice_id": [f"s{n:02}" for n in range(60)], "patient": patients})
    renamed = slices.assign(patient=patients.map({name: f"{hash(name):x}" for name in set(patients)}))
    parts = draw_parts(slices, 4, seed=1)
    np.testing.assert_array_equal(draw_parts(renamed, 4, seed=1), parts)
    assert pd.Series(parts).groupby(patients).nunique().max() == 1
    assert np.bincount(parts).tolist() == [15] * 4
    assert (draw_parts(slices, 4, seed=2) != parts).any()
