"""Ensembles: selected members, weights, scores and submissions, recomputed from the stored predictions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHORT
from dicom_files import write_study

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.fold_import import import_folds
from ichx.errors import ConflictError, InvalidInputError, NotFoundError, NotReadyError
from ichx.evaluation import blend
from ichx.evaluation.averaging import averaging_gain
from ichx.evaluation.bootstrap import mean_error
from ichx.evaluation.choices import METHODS, Average, Method
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_submissions import predict_test, stored_test_folds
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import label_losses, probabilities, row_losses, score
from ichx.evaluation.nested_score import DRAWS, patient_parts
from ichx.evaluation.oof import read_oof
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import Experiment, marks, open_store
from ichx.workspace import open_workspace


def register(project: Project, plugin: str = "tiny_resnet", **options: str | None) -> Experiment:
    """Register an experiment that trains in a second."""
    request = ExperimentRequest(plugin=plugin, size=32, settings=SHORT, **options)
    return new_experiment(project.store, project.registry, request)


def read_submission(path: Path) -> pd.Series:
    return pd.read_csv(path).set_index("ID")["Label"]


def test_members_weights_and_scores(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(top=3, method="convex", smooth=False, calibrate=False))
    tables = {n: read_oof(project, project.store.experiment(n), "hflip") for n in (1, 2, 3)}
    members = report.ensemble.members
    ranked = [n for n in sorted(tables, key=lambda n: tables[n].score) if n not in report.choice.dropped]
    assert [m.experiment for m in members] == ranked
    assert [m.score for m in members] == [tables[m.experiment].score for m in members]
    labels = tables[1].labels
    predicted = [tables[m.experiment].probabilities for m in members]
    weights = np.array([m.weight for m in members])
    solved = blend.solve(labels, [tables[n].probabilities for n in (1, 2, 3)])
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    for number, weight in zip((1, 2, 3), solved.weights, strict=True):
        assert report.choice.weights.get(number, 0.0) == pytest.approx(weight, abs=1e-9)
        assert (number in report.choice.dropped) == (weight == 0)
    assert report.ensemble.score == pytest.approx(score(labels, blend.mix(predicted, weights)), rel=1e-9)
    assert report.best_single == members[0].score
    assert report.ensemble.score <= report.best_single + 1e-12  # one sum is taken by label, the other by slice
    mean = np.mean([t.probabilities for t in tables.values()], axis=0)
    assert report.mean_score == pytest.approx(score(labels, mean), rel=1e-9)
    assert report.ensemble.nested_score is not None
    assert report.ensemble.nested_score >= report.ensemble.score
    assert report.gap == pytest.approx(report.ensemble.nested_score - report.ensemble.score, abs=1e-15)
    assert report.choice.certificate is not None
    assert report.choice.certificate <= 1e-9
    assert report.notes == ()
    assert project.store.ensemble(1) == report.ensemble


def test_nested_score_by_hand(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(top=3, tta="none", method="convex", smooth=False, calibrate=False))
    tables = [read_oof(project, project.store.experiment(n), "none") for n in (1, 2, 3)]
    labels, parts = tables[0].labels, patient_parts(pd.factorize(tables[0].patients)[0], tables[0].folds)
    mixed = np.empty_like(labels)
    for part in np.unique(parts):
        inside = parts == part
        weights = blend.solve(labels[~inside], [t.probabilities[~inside] for t in tables]).weights
        mixed[inside] = sum(w * t.probabilities[inside] for w, t in zip(weights, tables, strict=True))
    assert report.ensemble.nested_score == pytest.approx(score(labels, mixed), rel=1e-9)
    stored = read_predictions(project.workspace.ensemble_dir(1) / "oof.parquet")
    assert stored.slice_ids.tolist() == tables[0].slice_ids.tolist()
    np.testing.assert_allclose(1 / (1 + np.exp(-stored.logits.astype(float))), mixed, rtol=1e-5)


@pytest.mark.parametrize("average", ["logit", "probability"])
def test_submission_by_hand(project: Project, phantom: PhantomFiles, average: Average) -> None:
    """Mean over views, then the blend of each fold, then the mean over folds; every value found by its id."""
    report = make_ensemble(
        project, EnsembleRequest(top=3, method="convex", smooth=False, calibrate=False, average=average)
    )
    by_fold: dict[int, np.ndarray] = {}
    for fold in (0, 1):
        for member in report.ensemble.members:
            files = project.workspace.experiment_files(member.experiment).fold(fold)
            views = [read_predictions(files.predictions("test", view, "ph-test", 1)) for view in ("identity", "hflip")]
            z = [view.logits.astype(np.float64) for view in views]
            if average == "logit":
                p = 1 / (1 + np.exp(-(z[0] + z[1]) / 2))
            else:
                p = (1 / (1 + np.exp(-z[0])) + 1 / (1 + np.exp(-z[1]))) / 2
            by_fold[fold] = by_fold.get(fold, 0.0) + member.weight * p
    if average == "logit":
        odds = [np.log(p / (1 - p)) for p in by_fold.values()]
        mean = 1 / (1 + np.exp(-(odds[0] + odds[1]) / 2))
    else:
        mean = (by_fold[0] + by_fold[1]) / 2
    expected = dict(zip(views[0].slice_ids, mean, strict=True))
    assert report.ensemble.average == average
    (submission,) = report.submissions
    assert (submission.images, submission.filled) == (phantom.test_slices, 0)
    written = read_submission(project.workspace.root / submission.path)
    assert phantom.sample_submission is not None
    assert written.index.tolist() == pd.read_csv(phantom.sample_submission)["ID"].tolist()
    for name, value in written.items():
        image, _, label = str(name).rpartition("_")
        assert value == pytest.approx(expected[image][LABELS.index(label)], rel=1e-9)


def test_top_selects_the_best(project: Project) -> None:
    best = min((1, 2, 3), key=lambda n: read_oof(project, project.store.experiment(n), "hflip").score)
    report = make_ensemble(project, EnsembleRequest(top=1, smooth=False, calibrate=False))
    assert [(m.experiment, m.weight) for m in report.ensemble.members] == [(best, 1.0)]
    assert report.ensemble.score == pytest.approx(report.best_single, rel=1e-9)
    two = make_ensemble(project, EnsembleRequest(top=2))
    assert two.ensemble.number == 2
    assert two.submissions[0].path != report.submissions[0].path


def test_too_few_complete_experiments_are_noted(project: Project) -> None:
    new_experiment(project.store, project.registry, ExperimentRequest(plugin="tiny_resnet", name="waiting"))
    half = register(project, name="half")
    run_experiment(project, half.number, folds=[1])
    report = make_ensemble(project, EnsembleRequest(top=5))
    assert {m.experiment for m in report.ensemble.members} <= {1, 2, 3}
    few, incomplete = report.notes
    assert "3 complete experiments" in few
    assert few.endswith(" 5.")
    assert incomplete.startswith("2 experiments ")
    assert incomplete.endswith("4 (waiting): 0 of 2 folds, new; 5 (half): 1 of 2 folds, partial.")


def test_requested_members(project: Project) -> None:
    best = make_ensemble(project, EnsembleRequest(top=3))
    requested = make_ensemble(project, EnsembleRequest(members=(3, 1, 2)))
    assert requested.ensemble.members == best.ensemble.members
    assert requested.ensemble.score == best.ensemble.score
    assert requested.ensemble.nested_score == best.ensemble.nested_score
    assert (requested.ensemble.partial, requested.notes) == (None, ())
    alone = make_ensemble(project, EnsembleRequest(members=(2,), tta="none", smooth=False, calibrate=False))
    assert [(m.experiment, m.weight) for m in alone.ensemble.members] == [(2, 1.0)]
    assert alone.ensemble.score == pytest.approx(read_oof(project, project.store.experiment(2)).score, rel=1e-9)


def test_unfinished_members_are_blended_on_their_common_folds(project: Project) -> None:
    half = register(project, name="half")
    with pytest.raises(NotReadyError, match=r"\b4\b"):
        make_ensemble(project, EnsembleRequest(members=(1, half.number)))
    run_experiment(project, half.number, folds=[1])
    report = make_ensemble(
        project, EnsembleRequest(members=(1, half.number), method="mean", smooth=False, calibrate=False)
    )
    assert report.ensemble.partial == "1 of 2 folds"
    assert marks(report.ensemble) == ("partial (1 of 2 folds)",)
    assert report.ensemble.nested_score is None
    (note,) = report.notes
    assert "1 of 2 folds" in note
    table = read_oof(project, project.store.experiment(1), "hflip")
    inside = table.folds == 1
    first = next(m for m in report.ensemble.members if m.experiment == 1)
    assert first.score == pytest.approx(score(table.labels[inside], table.probabilities[inside]), rel=1e-12)
    (submission,) = report.submissions
    written = read_submission(project.workspace.root / submission.path)
    test = project.store.test_sets("ph")[0]
    parts = [predict_test(project, project.store.experiment(n), test, "hflip", [1]) for n in (1, half.number)]
    weight = {m.experiment: m.weight for m in report.ensemble.members}
    mixed = sum(weight[n] * p for n, (_, p) in zip((1, half.number), parts, strict=True))
    for name, row in zip(parts[0][0], mixed, strict=True):
        assert [written[f"{name}_{label}"] for label in LABELS] == pytest.approx(row.tolist(), rel=1e-6)

    other = register(project, name="other half")
    run_experiment(project, other.number, folds=[0])
    with pytest.raises(NotReadyError, match="in common"):
        make_ensemble(project, EnsembleRequest(members=(half.number, other.number)))


@pytest.mark.parametrize(
    ("members", "dataset", "error", "value"),
    [
        ((1, 9), None, NotFoundError, r"\b9\b"),
        ((1, 2, 1), None, InvalidInputError, r": 1\.$"),
        ((1, 2), "ph-test", InvalidInputError, "1 is on ph, not on ph-test.\n.* 2 is on ph"),
    ],
)
def test_members_that_cannot_be_blended(
    project: Project, members: tuple[int, ...], dataset: str | None, error: type[Exception], value: str
) -> None:
    with pytest.raises(error, match=value):
        make_ensemble(project, EnsembleRequest(members=members, dataset=dataset))
    assert project.store.ensembles() == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_a_submission(project: Project, phantom: PhantomFiles, method: Method) -> None:
    report = make_ensemble(project, EnsembleRequest(top=3, method=method, smooth=True))
    ensemble = report.ensemble
    tried = ["mean", *(trial.name for trial in report.choice.trials if trial.part == "method" and trial.taken)]
    assert ensemble.method == (tried[-1] if method == "auto" else method)
    assert ensemble.nested_score is not None
    assert 0 < ensemble.nested_score < 1
    assert {m.experiment for m in ensemble.members} | set(report.choice.dropped) == {1, 2, 3}
    assert [choice.fold for choice in report.fold_choices] == list(range(8)), "one part per patient"
    assert report.interval is not None
    assert report.interval.value == pytest.approx(ensemble.nested_score, rel=1e-9)
    stored = json.loads((project.workspace.ensemble_dir(1) / "blend.json").read_text())
    assert stored["choice"]["method"] == ensemble.method
    (submission,) = report.submissions
    assert submission.images == phantom.test_slices


def test_auto_compares_convex_with_the_mean_by_hand(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(top=3, smooth=False, calibrate=False))
    tables = [read_oof(project, project.store.experiment(n), "hflip") for n in (1, 2, 3)]
    labels, parts = tables[0].labels, patient_parts(pd.factorize(tables[0].patients)[0], tables[0].folds)
    gains = np.empty(len(labels))
    for part in np.unique(parts):
        inside = parts == part
        weights = blend.solve(labels[~inside], [t.probabilities[~inside] for t in tables]).weights
        members = [t.probabilities[inside] for t in tables]
        convex, mean = blend.mix(members, weights), np.mean(members, axis=0)
        losses = [row_losses(labels[inside], p) @ LABEL_WEIGHTS / sum(LABEL_WEIGHTS) for p in (mean, convex)]
        gains[inside] = losses[0] - losses[1]
    gain, error = mean_error(gains, tables[0].patients, draws=DRAWS)
    trial = report.choice.trials[0]
    assert [t.name for t in report.choice.trials] == ["convex", "logit", "per-label-logit"]
    assert (trial.part, trial.name, trial.against) == ("method", "convex", "mean")
    assert trial.gain == pytest.approx(gain, rel=1e-6)
    assert trial.error == pytest.approx(error, rel=1e-6)
    assert trial.taken == (trial.gain > trial.error)
    assert report.ensemble.method == [t.name for t in report.choice.trials if t.taken][-1]


def test_experiments_before_and_after_an_import_of_folds_are_blended(project: Project, tmp_path: Path) -> None:
    """The next version has the same files, labels and default folds."""
    table = pd.read_parquet(project.workspace.root / project.store.version("ph").path / "catalog.parquet")
    theirs = table[["slice_id", "patient"]].assign(fold=pd.factorize(table["patient"])[0] % 2)
    theirs[["slice_id", "fold"]].to_csv(tmp_path / "folds.csv", index=False)
    import_folds(project, "ph", tmp_path / "folds.csv", name="theirs")
    later = register(project, "tiny_byobnet", name="later")
    run_experiment(project, later.number)
    assert project.store.experiment(later.number).dataset_version == 2
    report = make_ensemble(project, EnsembleRequest(members=(1, later.number), method="mean"))
    assert {m.experiment for m in report.ensemble.members} == {1, later.number}
    other = register(project, "tiny_byobnet", folds="theirs")
    with pytest.raises(ConflictError, match=r"\d+ slices with .*\(theirs, default\)"):
        make_ensemble(project, EnsembleRequest(members=(1, other.number)))


def test_no_complete_experiment(dataset_copy: Path) -> None:
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        project = Project(workspace, store)
        with pytest.raises(NotReadyError):
            make_ensemble(project, EnsembleRequest())
        for number in range(20):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", name=f"waiting-{number}"))
        with pytest.raises(NotReadyError, match=r"1 \(waiting-0\): 0 of 2 folds, new; 2 \(waiting-1\)") as caught:
            make_ensemble(project, EnsembleRequest())
        assert caught.value.problem.splitlines()[1].startswith("20 experiments ")
        assert "waiting-19" not in caught.value.problem
        assert "`ichx run NUMBER`" in caught.value.remedy
        assert store.ensembles() == []
    assert not workspace.ensembles_dir.exists()


@pytest.mark.parametrize(
    ("field", "value"), [("top", 0), ("top", -3), ("tta", "vflip"), ("method", "median"), ("method", "")]
)
def test_invalid_requests(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"`{field}`: {value!r}"):
        EnsembleRequest(**{field: value})  # type: ignore[arg-type]


def test_dataset_without_complete_experiments(project: Project) -> None:
    for dataset, error in (("phh", NotFoundError), ("ph-test", NotReadyError)):
        with pytest.raises(error, match=dataset):
            make_ensemble(project, EnsembleRequest(dataset=dataset))
    assert project.store.ensembles() == []


def test_out_names_the_submission_file(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "mine" / "final.csv"
    report = make_ensemble(project, EnsembleRequest(top=2, tta="none", out=out))
    assert report.submissions[0].path == str(out.resolve())
    assert out.is_file()


def test_two_test_sets_get_a_submission_each(project: Project, phantom: PhantomFiles, tmp_path: Path) -> None:
    """A test set that was added later is predicted by the stored weights when the experiments are rerun."""
    assert phantom.test is not None
    assert phantom.sample_submission is not None
    rows = phantom.sample_submission.read_text().splitlines()
    half = tmp_path / "half.csv"
    half.write_text("\n".join(rows[:1] + rows[-60:]) + "\nID_absent_any,0.5\n")
    half.write_text(half.read_text() + "".join(f"ID_absent_{label},0.5\n" for label in LABELS[:-1]))
    add_dataset(project, AddRequest("late", phantom.test, test_of="ph", sample=half))
    with pytest.raises(NotReadyError, match=r"late .* 0, 1") as caught:
        make_ensemble(project, EnsembleRequest(top=3))
    assert "`ichx run 1`" in caught.value.remedy
    for number in (1, 2, 3):
        run_experiment(project, number)
    report = make_ensemble(project, EnsembleRequest(top=3))
    by_set = {s.test_set: s for s in report.submissions}
    assert set(by_set) == {"ph-test", "late"}
    assert (by_set["late"].images, by_set["late"].filled) == (11, 1)
    late, plain = (read_submission(project.workspace.root / by_set[name].path) for name in ("late", "ph-test"))
    known = [name for name in late.index if not name.startswith("ID_absent")]
    assert len(known) == 60
    np.testing.assert_allclose(late[known], plain[known], rtol=1e-6)
    prevalence = read_oof(project, project.store.experiment(1)).labels.mean(axis=0)
    np.testing.assert_allclose([late[f"ID_absent_{label}"] for label in LABELS], prevalence, rtol=1e-9)
    with pytest.raises(InvalidInputError, match="late, ph-test"):
        make_ensemble(project, EnsembleRequest(top=3, out=tmp_path / "x.csv"))


def test_experiments_on_older_folds_are_left_out(project: Project, phantom: PhantomFiles) -> None:
    """Only experiments like the newest complete one are blended."""
    add_dataset(project, AddRequest("ph", phantom.train, labels=phantom.train_labels, folds=3))
    later = register(project, "tiny_efficientnet", name="moved")
    run_experiment(project, later.number)
    report = make_ensemble(project, EnsembleRequest())
    assert [m.experiment for m in report.ensemble.members] == [4]
    assert report.notes[1].startswith("3 experiments ")
    assert "than 4, the newest: 1 (" in report.notes[1]
    with pytest.raises(ConflictError, match=r"4 and 1 .*: \d+ slices with .*\(default, default\)"):
        make_ensemble(project, EnsembleRequest(members=(1, 4)))


def test_experiments_on_two_datasets_need_a_dataset(project: Project, tmp_path: Path) -> None:
    ids = [i for p in range(4) for i in write_study(tmp_path / "other", str(p), 3)]
    rows = [f"{i}_{label},{n % 2}" for n, i in enumerate(ids) for label in LABELS]
    (tmp_path / "other.csv").write_text("ID,Label\n" + "\n".join(rows) + "\n")
    add_dataset(project, AddRequest("other", tmp_path / "other", labels=tmp_path / "other.csv", folds=2))
    new_experiment(project.store, project.registry, ExperimentRequest(plugin="tiny_resnet", dataset="other"))
    with pytest.raises(InvalidInputError, match="2 datasets: other, ph"):
        make_ensemble(project, EnsembleRequest())
    report = make_ensemble(project, EnsembleRequest(top=3, dataset="ph"))
    assert len(report.ensemble.members) == 3
    assert report.notes == ()


def test_test_set_predictions_are_means_over_all_folds(project: Project) -> None:
    ids, mean = predict_test(project, project.store.experiment(2), project.store.version("ph-test"), "none")
    files = project.workspace.experiment_files(2)
    parts = [read_predictions(files.fold(k).predictions("test", "identity", "ph-test", 1)) for k in (0, 1)]
    assert ids.tolist() == parts[0].slice_ids.tolist()
    expected = 1 / (1 + np.exp(-np.mean([part.logits.astype(np.float64) for part in parts], axis=0)))
    np.testing.assert_allclose(mean, expected, rtol=1e-12)
    _, old = predict_test(
        project, project.store.experiment(2), project.store.version("ph-test"), "none", average="probability"
    )
    expected = np.mean([1 / (1 + np.exp(-part.logits.astype(np.float64))) for part in parts], axis=0)
    np.testing.assert_allclose(old, expected, rtol=1e-12)


def test_gains_by_label_and_the_estimate_for_the_mean_of_networks(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(top=3, method="per-label-logit", calibrate=False, smooth=False))
    tables = {n: read_oof(project, project.store.experiment(n), "hflip") for n in (1, 2, 3)}
    labels, best = tables[1].labels, min(tables.values(), key=lambda t: t.score)
    nested = probabilities(read_predictions(project.workspace.ensemble_dir(1) / "oof.parquet").logits)
    mean = np.mean([t.probabilities for t in tables.values()], axis=0)
    for row, *losses in zip(
        report.labels, *(label_losses(labels, p) for p in (best.probabilities, mean, nested)), strict=True
    ):
        assert (row.best_single, row.mean, row.blend) == pytest.approx(losses, rel=1e-5)
        assert row.weights is not None
        assert set(row.weights) == {m.experiment for m in report.ensemble.members}
    assert [row.label for row in report.labels] == list(LABELS)
    by_label = np.array([[row.weights[m.experiment] for m in report.ensemble.members] for row in report.labels])
    assert LABEL_WEIGHTS @ by_label / 7 == pytest.approx([m.weight for m in report.ensemble.members])

    test = project.store.test_sets("ph")[0]
    folds = {n: stored_test_folds(project, project.store.experiment(n), test, "hflip")[1] for n in (1, 2, 3)}
    weights = {m.experiment: by_label[:, k] for k, m in enumerate(report.ensemble.members)}
    each = [probabilities(sum(w * logits(folds[n][k]) for n, w in weights.items())) for k in (0, 1)]
    (submission,) = report.submissions
    assert submission.averaging_gain == pytest.approx(averaging_gain(each), rel=1e-6)
    assert submission.averaging_gain > 0
    assert report.nested_mean == pytest.approx(report.ensemble.nested_score - submission.averaging_gain, rel=1e-12)
    older = make_ensemble(project, EnsembleRequest(top=3, method="mean", average="probability"))
    assert (older.nested_mean, older.submissions[0].averaging_gain) == (None, None)
    assert {row.weights is None for row in older.labels} == {True}
