"""Pseudo-labels: which networks they come from, what is refused, and how an interrupted command resumes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.fold_labels import FOLD_LABELS_FILE, FoldLabels, read_fold_labels
from ichx.errors import ChangedDataError, ConflictError, IchxError, InvalidInputError, NotReadyError, UnsupportedError
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_file import read_model
from ichx.evaluation.oof import mean_over_views
from ichx.evaluation.predictions import read_predictions
from ichx.evaluation.pseudo_blends import read_blends
from ichx.evaluation.pseudo_labels import LabelRule
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.inference.evaluate import evaluate_slices
from ichx.inference.pseudo import PseudoReport, PseudoRequest, create_pseudo_labels
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.labels import ANY, LABELS
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.project import Project

CPU = InferenceOptions(device="cpu")
SOFT = LabelRule()


@pytest.fixture(scope="session")
def unlabelled_files(tmp_path_factory: pytest.TempPathFactory) -> PhantomFiles:
    """Return 4 other patients on disk."""
    return write_phantom(
        tmp_path_factory.mktemp("unlabelled") / "files", patients=4, seed=5, size=64, prevalence={"any": 0.5}
    )


@pytest.fixture
def place(project: Project, unlabelled_files: PhantomFiles, tmp_path: Path) -> Project:
    """Return the trained workspace with the unlabelled dataset `new`."""
    files = Path(shutil.copytree(unlabelled_files.train, tmp_path / "files"))
    add_dataset(project, AddRequest("new", files))
    return project


def created(
    project: Project,
    rule: LabelRule = SOFT,
    *,
    name: str = "pseudo",
    of: str = "new",
    by: str = "2",
    transductive: bool = False,
) -> PseudoReport:
    request = PseudoRequest(name, of, by, rule, transductive, CPU)
    return create_pseudo_labels(project, request, callbacks=RunCallbacks())


def stored(project: Project, experiment: int, fold: int, views: tuple[str, ...] = ("identity",)) -> np.ndarray:
    """Return the probabilities that the networks of a fold have predicted for `new`."""
    version = project.store.version("new").id
    paths = {p.view: p.path for p in project.store.predictions(experiment, role="evaluation", version_id=version)}
    found = {
        p.view: read_predictions(project.workspace.root / p.path)
        for p in project.store.predictions(experiment, role="evaluation", version_id=version)
        if p.fold == fold
    }
    assert set(views) <= set(paths)
    return mean_over_views([found[view] for view in views])


def labels_of(project: Project, name: str = "pseudo") -> FoldLabels:
    found = read_fold_labels(project.workspace, project.store.version(name))
    assert found is not None
    return found


def sure_rule(project: Project, experiment: int) -> tuple[LabelRule, float, float]:
    """Return a rule that keeps about half of the slices that the experiment has predicted, and its bounds."""
    p = np.concatenate([stored(project, experiment, fold)[:, LABELS.index(ANY)] for fold in (0, 1)])
    low, high = (round(float(bound), 6) for bound in np.quantile(p, [0.25, 0.75]))
    return LabelRule.parse(f"any>={high}|any<={low}", hard=True), low, high


def test_each_fold_has_the_labels_of_its_own_networks(place: Project) -> None:
    found = created(place)
    version = place.store.version("pseudo")
    assert found.created
    assert found.version == version
    data = load_version(place.workspace, version)
    assert data.slices[list(LABELS)].isna().all().all(), "nothing else can train on the labels of another fold"
    assert (load_folds(place.workspace, version, version.folds[0], data.slices) == -1).all()
    ids, labels = data.slices["slice_id"].to_numpy(object), labels_of(place)
    assert labels.folds == (0, 1)
    for fold in (0, 1):
        np.testing.assert_allclose(labels.of_fold(fold, ids), stored(place, 2, fold), atol=1e-6)
    assert not np.allclose(labels.of_fold(0, ids), labels.of_fold(1, ids))
    origin = version.summary["pseudo"]
    assert (origin["by"]["kind"], origin["by"]["number"], origin["digest"]) == ("experiment", 2, labels.digest)
    assert sorted(origin["by"]["networks"]) == ["2/0", "2/1"]
    assert origin["trained_on"]["fold_digest"] == place.store.experiment(2).fold_digest
    assert not place.store.dataset("new").trainable


def test_hard_labels_of_confident_slices(place: Project) -> None:
    created(place, by="1", name="soft")
    rule, low, high = sure_rule(place, 1)
    created(place, rule, by="1")
    ids = load_version(place.workspace, place.store.version("new")).slices["slice_id"].to_numpy(object)
    labels = labels_of(place)
    for fold in (0, 1):
        p, found = stored(place, 1, fold), labels.of_fold(fold, ids)
        sure = (p[:, LABELS.index(ANY)] >= high) | (p[:, LABELS.index(ANY)] <= low)
        assert 0 < sure.sum() < len(sure)
        assert np.array_equal(~np.isnan(found).any(axis=1), sure)
        expected = (p[sure] >= 0.5).astype(float)
        expected[:, LABELS.index(ANY)] = expected.max(axis=1, initial=0)
        assert np.array_equal(found[sure], expected)


def test_an_ensemble_labels_each_fold_with_a_blend_that_does_not_know_it(place: Project) -> None:
    number = make_ensemble(place, EnsembleRequest(members=[1, 2], tta="none", method="convex")).ensemble.number
    created(place, by=f"ensemble:{number}")
    version = place.store.version("pseudo")
    blends = read_blends(place.workspace.root / version.path)
    assert blends is not None
    whole = read_model(place.workspace, place.store.ensemble(number)).fitted
    assert set(blends) == {0, 1}
    ids, labels = (
        load_version(place.workspace, version).slices["slice_id"].to_numpy(object),
        labels_of(place),
    )
    from ichx.evaluation.series_neighbours import SeriesNeighbours

    neighbours = SeriesNeighbours.of(load_version(place.workspace, version).slices)
    for fold, blend in blends.items():
        members = {at: stored(place, number, fold) for at, number in enumerate((1, 2))}
        expected = blend.apply(members, neighbours)
        np.testing.assert_allclose(labels.of_fold(fold, ids), expected, atol=1e-6)
    different = [blend.pool.shares for blend in (*blends.values(), whole)]
    assert not all(np.allclose(shares, different[0]) for shares in different[1:]), "the folds left out matter"
    assert version.summary["pseudo"]["by"]["digest"] == place.store.ensemble(number).digest


def test_predictions_are_stored_and_other_thresholds_need_no_new_ones(place: Project) -> None:
    first = created(place)
    shutil.rmtree(load_version(place.workspace, place.store.version("new")).source)
    shutil.rmtree(place.workspace.cache_dir)
    again = created(place)
    assert (again.created, again.version) == (False, first.version)
    other = created(place, sure_rule(place, 2)[0])
    assert (other.created, other.version.number) == (True, 2)
    with pytest.raises(IchxError):  # another experiment needs the pixels
        created(place, by="1", name="of-1")
    assert [d.name for d in place.store.datasets() if d.name == "of-1"] == []


def test_an_interrupted_prediction_resumes(place: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second fold fails; the rerun predicts only that one."""
    import ichx.inference.member_predictions as module

    loaded: list[int] = []
    original = module.open_networks
    from contextlib import contextmanager

    @contextmanager
    def interrupted(*arguments: object) -> Iterator[object]:
        with original(*arguments) as network:  # type: ignore[arg-type]
            load = network.load

            def watched(fold: int) -> None:
                loaded.append(fold)
                if fold == 1 and loaded.count(1) == 1:
                    raise KeyboardInterrupt
                load(fold)

            network.load = watched  # type: ignore[method-assign]
            yield network

    monkeypatch.setattr(module, "open_networks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        created(place)
    assert [d.name for d in place.store.datasets() if d.name == "pseudo"] == []
    created(place)
    assert loaded == [0, 1, 1]


def test_a_large_prediction_resumes_within_a_fold(place: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 slices: the rerun predicts only the part that failed and those after it, with the same logits."""
    import ichx.inference.prediction_parts as module
    from ichx.inference.trained import FoldNetworks

    created(place, name="whole")
    expected = stored(place, 2, 0)
    for p in place.store.predictions(2, role="evaluation"):
        (place.workspace.root / p.path).unlink()
    monkeypatch.setattr(module, "PART", 64)
    parts: list[int] = []
    original = FoldNetworks.logits_of_views

    def interrupted(self: FoldNetworks, feed: object, rows: np.ndarray, tasks: object) -> object:
        parts.append(int(rows[0]))
        if len(parts) == 2:
            raise KeyboardInterrupt
        return original(self, feed, rows, tasks)  # type: ignore[arg-type]

    monkeypatch.setattr(FoldNetworks, "logits_of_views", interrupted)
    with pytest.raises(KeyboardInterrupt):
        created(place)
    created(place)
    of_first_fold = parts[: len(parts) - (len(expected) - 1) // 64 - 1]
    assert of_first_fold == [0, 64, *range(64, len(expected), 64)]
    np.testing.assert_allclose(stored(place, 2, 0), expected, atol=1e-6)
    assert not list(place.workspace.experiments_dir.rglob("*-part-*"))


def test_what_is_refused(place: Project, phantom: PhantomFiles) -> None:
    with pytest.raises(ConflictError, match="in common"):
        created(place, of="ph")  # the labelled patients
    with pytest.raises(ConflictError, match="name of their own"):
        created(place, name="new")
    with pytest.raises(ConflictError, match="no pseudo-labels"):
        created(place, name="ph")
    with pytest.raises(InvalidInputError, match="ens:3"):
        created(place, by="ens:3")
    with pytest.raises(InvalidInputError, match="any>0.5&any<0.4"):
        created(place, LabelRule.parse("any>0.5&any<0.4", hard=True))
    created(place)
    with pytest.raises(ConflictError, match="--of new|pseudo-labels of new"):
        created(place, name="twice", of="pseudo")
    with pytest.raises(InvalidInputError, match="never scored"):
        new_experiment(place.store, place.registry, ExperimentRequest("tiny_resnet", dataset="pseudo"))
    assert new_experiment(place.store, place.registry, ExperimentRequest("tiny_resnet")).dataset == "ph"
    with pytest.raises(UnsupportedError, match="never scored"):
        evaluate_slices(place, ready_experiment(place, 2, CPU, print), "pseudo", callbacks=RunCallbacks())


def test_a_missing_fold_is_named(place: Project) -> None:
    fresh = new_experiment(place.store, place.registry, ExperimentRequest("tiny_resnet"))
    with pytest.raises(NotReadyError):
        created(place, by=str(fresh.number))


def test_patients_of_test_sets_need_transductive(place: Project, tmp_path: Path, phantom: PhantomFiles) -> None:
    with pytest.raises(ConflictError, match="ph-test") as refused:
        created(place, of="ph-test")
    assert "--transductive" in refused.value.remedy
    add_dataset(place, AddRequest("same-patients", phantom.test))
    with pytest.raises(ConflictError, match="2 patients of ph-test"):
        created(place, of="same-patients")
    marked = created(place, of="same-patients", transductive=True)
    assert marked.version.summary["transductive"] is True
    assert marked.version.summary["pseudo"]["tested"] == {"ph-test": 2}
    plain = created(place, name="plain", transductive=True)
    assert plain.version.summary["transductive"] is False
    assert any("--transductive has no effect" in warning for warning in plain.warnings)


def test_a_labelled_dataset_for_evaluation_counts_as_a_test_set(place: Project, unlabelled_files: PhantomFiles) -> None:
    request = AddRequest("truth", unlabelled_files.train, labels=unlabelled_files.train_labels, folds=0)
    add_dataset(place, request)
    with pytest.raises(ConflictError, match="4 patients of truth"):
        created(place)


def test_changed_labels_are_noticed(place: Project) -> None:
    created(place)
    version = place.store.version("pseudo")
    path = place.workspace.root / version.path / FOLD_LABELS_FILE
    table = labels_of(place).table
    table.loc[0, ANY] = 1 - table.loc[0, ANY]
    table.to_parquet(path, index=False)
    with pytest.raises(ChangedDataError, match="pseudo"):
        read_fold_labels(place.workspace, version)
    path.unlink()
    with pytest.raises(ChangedDataError, match="missing"):
        read_fold_labels(place.workspace, version)
    assert not created(place).created
    assert labels_of(place).digest == version.summary["pseudo"]["digest"], "the same labels are written again"
