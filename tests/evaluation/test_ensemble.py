"""The ensemble: the best complete experiments, blended on OOF predictions, and a submission join_group by slice id."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHORT
from dicom_files import write_study

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.fold_import import import_folds
from ichx.errors import IchxError
from ichx.evaluation import blend
from ichx.evaluation.ensemble import make_ensemble, predict_test
from ichx.evaluation.metric import score
from ichx.evaluation.nested_score import METHODS
from ichx.evaluation.oof import read_oof
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import Store, marks, open_store
from ichx.workspace import Workspace, open_workspace

PLAIN = {"method": "convex", "calibrate": False}


@pytest.fixture
def place(trained_copy: Path) -> Iterator[tuple[Workspace, Store]]:
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        yield workspace, store


def read_submission(path: Path) -> pd.Series:
    return pd.read_csv(path).set_index("ID")["Label"]


def test_members_weights_and_scores(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    report = make_ensemble(Project(workspace, store), top=3, tta="hflip", **PLAIN)
    tables = {n: read_oof(Project(workspace, store), store.experiment(n), "hflip") for n in (1, 2, 3)}
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
    assert report.certificate is not None
    assert report.certificate <= 1e-9
    assert report.notes == ()
    assert store.ensemble(1) == report.ensemble


def test_the_nested_score_by_hand(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    report = make_ensemble(Project(workspace, store), top=3, tta="none", **PLAIN)
    tables = [read_oof(Project(workspace, store), store.experiment(n), "none") for n in (1, 2, 3)]
    labels, folds = tables[0].labels, tables[0].folds
    mixed = np.empty_like(labels)
    for fold in (0, 1):
        inside = folds == fold
        weights = blend.solve(labels[~inside], [t.probabilities[~inside] for t in tables]).weights
        mixed[inside] = sum(w * t.probabilities[inside] for w, t in zip(weights, tables, strict=True))
    assert report.ensemble.nested_score == pytest.approx(score(labels, mixed), rel=1e-9)
    kept = read_predictions(workspace.ensembles_dir / "1" / "oof.parquet")
    assert kept.slice_ids.tolist() == tables[0].slice_ids.tolist()
    np.testing.assert_allclose(1 / (1 + np.exp(-kept.logits.astype(float))), mixed, rtol=1e-5)


def test_the_submission_by_hand(place: tuple[Workspace, Store], phantom: PhantomFiles) -> None:
    """Mean over views, then over folds, then the blend; every value found by its id."""
    workspace, store = place
    report = make_ensemble(Project(workspace, store), top=3, tta="hflip", **PLAIN)
    expected: dict[str, np.ndarray] = {}
    for member in report.ensemble.members:
        for fold in (0, 1):
            for view in ("identity", "hflip"):
                folder = workspace.experiment_dir(member.experiment) / f"fold-{fold}"
                table = read_predictions(folder / f"test-ph-test-v1-{view}.parquet")
                p = 1 / (1 + np.exp(-table.logits.astype(np.float64)))
                for name, row in zip(table.slice_ids, p * member.weight / 4, strict=True):
                    expected[name] = expected.get(name, np.zeros(6)) + row
    (submission,) = report.submissions
    assert (submission.images, submission.filled) == (phantom.test_slices, 0)
    written = read_submission(workspace.root / submission.path)
    assert phantom.sample_submission is not None
    assert written.index.tolist() == pd.read_csv(phantom.sample_submission)["ID"].tolist()
    for name, value in written.items():
        image, _, label = str(name).rpartition("_")
        assert value == pytest.approx(expected[image][LABELS.index(label)], rel=1e-9)


def test_top_takes_the_best(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    best = min((1, 2, 3), key=lambda n: read_oof(Project(workspace, store), store.experiment(n), "hflip").score)
    report = make_ensemble(Project(workspace, store), top=1, tta="hflip", calibrate=False)
    assert [(m.experiment, m.weight) for m in report.ensemble.members] == [(best, 1.0)]
    assert report.ensemble.score == pytest.approx(report.best_single, rel=1e-9)
    two = make_ensemble(Project(workspace, store), top=2, tta="hflip")
    assert two.ensemble.number == 2
    assert two.submissions[0].path != report.submissions[0].path


def test_fewer_than_asked_for_is_said_and_what_is_missing(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    registry = load_registry()
    new_experiment(store, registry, plugin="tiny_resnet", name="waiting")
    half = new_experiment(
        store,
        registry,
        plugin="tiny_resnet",
        size=32,
        settings=SHORT,
        name="half",
    )
    run_experiment(Project(workspace, store, registry), half.number, folds=[1])
    report = make_ensemble(Project(workspace, store), top=5, tta="hflip")
    assert [m.experiment for m in report.ensemble.members if m.experiment > 3] == []
    assert report.notes[0] == "asked for 5 experiments, 3 are complete; blending those"
    assert "2 experiments not complete: 4 (waiting): 0 of 2 folds, new; 5 (half): 1 of 2 folds, partial" in report.notes


def test_members_are_blended_as_named(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    best = make_ensemble(Project(workspace, store), top=3, tta="hflip")
    named = make_ensemble(Project(workspace, store), members=[3, 1, 2], tta="hflip")
    assert named.ensemble.members == best.ensemble.members
    assert (named.ensemble.score, named.ensemble.nested_score) == (best.ensemble.score, best.ensemble.nested_score)
    assert (named.ensemble.partial, named.notes) == (None, ())
    alone = make_ensemble(Project(workspace, store), members=[2], tta="none", calibrate=False)
    assert [(m.experiment, m.weight) for m in alone.ensemble.members] == [(2, 1.0)]
    assert alone.ensemble.score == pytest.approx(
        read_oof(Project(workspace, store), store.experiment(2)).score, rel=1e-9
    )


def test_members_that_are_not_finished_share_the_folds_that_all_have(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    registry = load_registry()
    half = new_experiment(store, registry, plugin="tiny_resnet", size=32, settings=SHORT, name="half")
    with pytest.raises(IchxError, match="experiment 4 has no finished fold"):
        make_ensemble(Project(workspace, store), members=[1, half.number], tta="hflip")
    run_experiment(Project(workspace, store, registry), half.number, folds=[1])
    report = make_ensemble(
        Project(workspace, store), members=[1, half.number], tta="hflip", method="mean", calibrate=False
    )
    assert report.ensemble.partial == "1 of 2 folds"
    assert marks(report.ensemble) == ("partial (1 of 2 folds)",)
    assert report.ensemble.nested_score is None
    assert "blended on the folds that every member has: 1 of 2 folds" in report.notes
    table = read_oof(Project(workspace, store), store.experiment(1), "hflip")
    inside = table.folds == 1
    of_first = next(m for m in report.ensemble.members if m.experiment == 1)
    assert of_first.score == pytest.approx(score(table.labels[inside], table.probabilities[inside]), rel=1e-12)
    (submission,) = report.submissions
    written = read_submission(workspace.root / submission.path)
    test = store.test_sets("ph")[0]
    parts = [predict_test(Project(workspace, store), store.experiment(n), test, "hflip", [1]) for n in (1, half.number)]
    weight = {m.experiment: m.weight for m in report.ensemble.members}
    mixed = sum(weight[n] * p for n, (_, p) in zip((1, half.number), parts, strict=True))
    for name, row in zip(parts[0][0], mixed, strict=True):
        assert [written[f"{name}_{label}"] for label in LABELS] == pytest.approx(row.tolist(), rel=1e-6)

    other = new_experiment(store, registry, plugin="tiny_resnet", size=32, settings=SHORT, name="other half")
    run_experiment(Project(workspace, store, registry), other.number, folds=[0])
    with pytest.raises(IchxError, match="no fold is finished by every member"):
        make_ensemble(Project(workspace, store), members=[half.number, other.number], tta="none")


def test_members_that_cannot_be_blended(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    for members, options, told in (
        ([1, 9], {}, "no experiment 9"),
        ([1, 2, 1], {}, "named more than once: 1"),
        ([1, 2], {"dataset": "ph-test"}, "1 is on ph, not on ph-test\n2 is on ph"),
    ):
        with pytest.raises(IchxError, match=told):
            make_ensemble(Project(workspace, store), members=members, tta="none", **options)
    assert store.ensembles() == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_submission(place: tuple[Workspace, Store], phantom: PhantomFiles, method: str) -> None:
    workspace, store = place
    report = make_ensemble(Project(workspace, store), top=3, tta="hflip", method=method, smooth=True)
    made = report.ensemble
    assert made.method == method or (method == "auto" and made.method in ("convex", "mean"))
    assert made.nested_score is not None
    assert 0 < made.nested_score < 1
    assert {m.experiment for m in made.members} | set(report.choice.dropped) == {1, 2, 3}
    assert [choice.fold for choice in report.fold_choices] == [0, 1]
    assert report.interval is not None
    assert report.interval.value == pytest.approx(made.nested_score, rel=1e-9)
    told = json.loads((workspace.ensembles_dir / "1" / "blend.json").read_text())
    assert told["choice"]["method"] == made.method
    (submission,) = report.submissions
    assert submission.images == phantom.test_slices


def test_an_import_of_folds_keeps_experiments_together(place: tuple[Workspace, Store], tmp_path: Path) -> None:
    """The next version has the same files, labels and default folds: its experiments join the others."""
    workspace, store = place
    table = pd.read_parquet(workspace.root / store.version("ph").path / "catalog.parquet")
    theirs = table[["slice_id", "patient"]].assign(fold=pd.factorize(table["patient"])[0] % 2)
    theirs[["slice_id", "fold"]].to_csv(tmp_path / "folds.csv", index=False)
    import_folds(Project(workspace, store), "ph", tmp_path / "folds.csv", name="theirs")
    later = new_experiment(store, load_registry(), plugin="tiny_byobnet", size=32, settings=SHORT, name="later")
    run_experiment(Project(workspace, store, load_registry()), later.number)
    assert store.experiment(later.number).dataset_version == 2
    report = make_ensemble(Project(workspace, store), members=[1, later.number], tta="none", method="mean")
    assert {m.experiment for m in report.ensemble.members} == {1, later.number}
    other = new_experiment(store, load_registry(), plugin="tiny_byobnet", size=32, settings=SHORT, folds="theirs")
    with pytest.raises(IchxError, match=r"slices with another fold \(theirs, default\)"):
        make_ensemble(Project(workspace, store), members=[1, other.number], tta="none")


def test_nothing_complete(dataset_copy: Path) -> None:
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        with pytest.raises(IchxError, match="no experiment is complete"):
            make_ensemble(Project(workspace, store), top=4, tta="hflip")
        for number in range(20):
            new_experiment(store, load_registry(), plugin="tiny_resnet", name=f"waiting-{number}")
        with pytest.raises(IchxError) as caught:
            make_ensemble(Project(workspace, store), top=4, tta="hflip")
        first, told = caught.value.problem.splitlines()
        assert first == "no experiment is complete"
        assert told.startswith("20 experiments not complete, e.g. 1 (waiting-0): 0 of 2 folds, new; 2 (waiting-1)")
        assert "waiting-19" not in told
        assert "ichx run" in caught.value.remedy
        assert store.ensembles() == []
    assert not workspace.ensembles_dir.exists()


def test_what_cannot_be_asked_for(place: tuple[Workspace, Store], tmp_path: Path) -> None:
    workspace, store = place
    for options, told in (
        ({"top": 0, "tta": "none"}, "--top 0 blends nothing"),
        ({"top": 1, "tta": "vflip"}, "no test-time augmentation 'vflip'"),
        ({"tta": "none", "method": "median"}, "there is no method 'median'"),
        ({"top": 1, "tta": "none", "dataset": "phh"}, "'phh'"),
        ({"top": 1, "tta": "none", "dataset": "ph-test"}, "no experiment on ph-test is complete"),
    ):
        with pytest.raises(IchxError, match=told):
            make_ensemble(Project(workspace, store), **options)  # type: ignore[arg-type]
    assert store.ensembles() == []


def test_out_names_the_file(place: tuple[Workspace, Store], tmp_path: Path) -> None:
    workspace, store = place
    out = tmp_path / "mine" / "final.csv"
    report = make_ensemble(Project(workspace, store), top=2, tta="none", out=out)
    assert report.submissions[0].path == str(out.resolve())
    assert out.is_file()


def test_two_test_sets_get_a_submission_each(
    place: tuple[Workspace, Store], phantom: PhantomFiles, tmp_path: Path
) -> None:
    """One added later is predicted from the stored weights; until then the ensemble says what to do."""
    workspace, store = place
    assert phantom.test is not None
    assert phantom.sample_submission is not None
    rows = phantom.sample_submission.read_text().splitlines()
    half = tmp_path / "half.csv"
    half.write_text("\n".join(rows[:1] + rows[-60:]) + "\nID_absent_any,0.5\n")
    half.write_text(half.read_text() + "".join(f"ID_absent_{label},0.5\n" for label in LABELS[:-1]))
    add_dataset(Project(workspace, store), AddRequest("late", phantom.test, test_of="ph", sample=half))
    with pytest.raises(IchxError, match="no predictions of late from fold 0, 1") as caught:
        make_ensemble(Project(workspace, store), top=3, tta="hflip")
    assert "ichx run" in caught.value.remedy
    for number in (1, 2, 3):
        run_experiment(Project(workspace, store, load_registry()), number)
    report = make_ensemble(Project(workspace, store), top=3, tta="hflip")
    by_set = {s.test_set: s for s in report.submissions}
    assert set(by_set) == {"ph-test", "late"}
    assert (by_set["late"].images, by_set["late"].filled) == (11, 1)
    late, plain = (read_submission(workspace.root / by_set[name].path) for name in ("late", "ph-test"))
    known = [name for name in late.index if not name.startswith("ID_absent")]
    assert len(known) == 60
    np.testing.assert_allclose(late[known], plain[known], rtol=1e-6)
    prevalence = read_oof(Project(workspace, store), store.experiment(1)).labels.mean(axis=0)
    np.testing.assert_allclose([late[f"ID_absent_{label}"] for label in LABELS], prevalence, rtol=1e-9)
    with pytest.raises(IchxError, match="--out needs exactly one test set"):
        make_ensemble(Project(workspace, store), top=3, tta="hflip", out=tmp_path / "x.csv")


def test_a_dataset_that_moved_on_is_told(place: tuple[Workspace, Store], phantom: PhantomFiles) -> None:
    """Experiments on other versions or folds are not mixed: those like the newest complete one are blended."""
    workspace, store = place
    registry = load_registry()
    add_dataset(Project(workspace, store), AddRequest("ph", phantom.train, labels=phantom.train_labels, folds=3))
    later = new_experiment(store, registry, plugin="tiny_efficientnet", size=32, settings=SHORT, name="moved")
    run_experiment(Project(workspace, store, registry), later.number)
    report = make_ensemble(Project(workspace, store), top=4, tta="hflip")
    assert [m.experiment for m in report.ensemble.members] == [4]
    assert report.notes[1].startswith("3 experiments left out: other data or folds than 4, the newest: 1 (")
    with pytest.raises(
        IchxError, match=r"4 and 1 do not belong together: \d+ slices with another fold \(default, default\)"
    ):
        make_ensemble(Project(workspace, store), members=[1, 4], tta="none")


def test_experiments_on_two_datasets_need_a_choice(place: tuple[Workspace, Store], tmp_path: Path) -> None:
    workspace, store = place
    ids = [i for p in range(4) for i in write_study(tmp_path / "other", str(p), 3)]
    rows = [f"{i}_{label},{n % 2}" for n, i in enumerate(ids) for label in LABELS]
    (tmp_path / "other.csv").write_text("ID,Label\n" + "\n".join(rows) + "\n")
    add_dataset(
        Project(workspace, store), AddRequest("other", tmp_path / "other", labels=tmp_path / "other.csv", folds=2)
    )
    new_experiment(store, load_registry(), plugin="tiny_resnet", dataset="other")
    with pytest.raises(IchxError, match="experiments on 2 datasets: other, ph"):
        make_ensemble(Project(workspace, store), top=4, tta="hflip")
    report = make_ensemble(Project(workspace, store), top=3, tta="hflip", dataset="ph")
    assert len(report.ensemble.members) == 3
    assert report.notes == ()


def test_predictions_of_a_test_set_are_means_over_all_folds(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    version = store.version("ph-test")
    ids, mean = predict_test(Project(workspace, store), store.experiment(2), version, "none")
    parts = [
        read_predictions(workspace.experiment_dir(2) / f"fold-{k}" / "test-ph-test-v1-identity.parquet") for k in (0, 1)
    ]
    assert ids.tolist() == parts[0].slice_ids.tolist()
    expected = np.mean([1 / (1 + np.exp(-part.logits.astype(np.float64))) for part in parts], axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-12)
