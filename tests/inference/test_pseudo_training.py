"""Trainings on pseudo-labels: which labels a fold reads, what the audit finds, and the mark of transductive scores."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ichx.cache.dataset_removal import remove_dataset
from ichx.cache.mixture_masks import MixtureMasks
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.fold_import import import_folds
from ichx.datasets.fold_labels import FOLD_LABELS_FILE, FoldLabels, read_fold_labels
from ichx.datasets.mix import ensure_joint
from ichx.errors import ConflictError
from ichx.evaluation.audit import audit
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.pseudo_labels import LabelRule
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.prepare import prepare_experiment
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.inference.evaluate import evaluate_slices
from ichx.inference.pseudo import PseudoRequest, create_pseudo_labels
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.labels import ANY, LABELS
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.project import Project
from ichx.store import Experiment, marks
from ichx.training.run_options import RunOptions

CPU = InferenceOptions(device="cpu")
SHORT = ("stage.balanced.epochs=1", "stage.rebalanced.epochs=1", "stage.full.epochs=1", "precision=fp32")


@pytest.fixture(scope="session")
def other_files(tmp_path_factory: pytest.TempPathFactory) -> PhantomFiles:
    """Return 3 other patients on disk."""
    return write_phantom(tmp_path_factory.mktemp("other") / "files", patients=3, seed=6, size=64)


@pytest.fixture
def mixed(project: Project, other_files: PhantomFiles, tmp_path: Path) -> Project:
    """Return the trained workspace with an unlabelled dataset `new`, its labels `pseudo`, and `ph+pseudo`."""
    add_dataset(project, AddRequest("new", Path(shutil.copytree(other_files.train, tmp_path / "files"))))
    label(project)
    ensure_joint(project, "ph+pseudo")
    return project


def label(project: Project, keep: str | None = None, *, of: str = "new", transductive: bool = False) -> None:
    rule = LabelRule.parse(keep, hard=False)
    request = PseudoRequest("pseudo", of, "2", rule, transductive, CPU)
    create_pseudo_labels(project, request, callbacks=RunCallbacks())


def registered(project: Project) -> Experiment:
    request = ExperimentRequest("tiny_resnet", dataset="ph+pseudo", settings=SHORT)
    return new_experiment(project.store, project.registry, request)


def labels_of(project: Project) -> FoldLabels:
    found = read_fold_labels(project.workspace, project.store.version("pseudo"))
    assert found is not None
    return found


def write_labels(project: Project, labels: FoldLabels) -> None:
    """Replace the labels of `pseudo` and what is recorded of their digest, as a careful forger would."""
    from sqlalchemy import update

    from ichx.store.tables import dataset_version

    labels.write(project.workspace.root / project.store.version("pseudo").path)
    with project.store._engine.begin() as connection:
        for name in ("pseudo", "ph+pseudo"):
            version = project.store.version(name)
            summary = dict(version.summary)
            if name == "pseudo":
                summary["pseudo"] = summary["pseudo"] | {"digest": labels.digest}
            else:
                part = summary["pseudo_parts"]["pseudo"] | {"digest": labels.digest}
                summary["pseudo_parts"] = {"pseudo": part}
            changed = update(dataset_version).where(dataset_version.c.id == version.id)
            connection.execute(changed.values(summary=summary))


def checks(project: Project, number: int) -> dict[str, tuple[str, str]]:
    return {check.subject: (check.state, check.detail) for check in audit(project, number).checks}


def test_each_fold_trains_on_its_own_labels(mixed: Project) -> None:
    prepared = prepare_experiment(mixed, registered(mixed), RunCallbacks())
    labels, slices = labels_of(mixed), prepared.data.slices
    pseudo = np.flatnonzero(prepared.folds == -1)
    ids = slices["slice_id"].to_numpy(object)
    assert len(pseudo) == mixed.store.version("new").slices
    assert slices[list(LABELS)].iloc[pseudo].isna().all().all()
    for fold in (0, 1):
        rows = prepared.training_rows(fold)
        assert np.isin(pseudo, rows).all()
        assert not np.isin(pseudo, prepared.validation_rows(fold)).any()
        feed = prepared.feed(fold, 0)
        np.testing.assert_array_equal(feed.labels(pseudo), labels.of_fold(fold, ids[pseudo]).astype(float))
        others = np.flatnonzero(prepared.folds >= 0)
        np.testing.assert_array_equal(feed.labels(others), slices[list(LABELS)].to_numpy(float)[others])
        (batch,) = list(feed.inference_batches(pseudo[:3], batch=3))
        np.testing.assert_array_equal(batch.labels.numpy(), labels.of_fold(fold, ids[pseudo[:3]]))


def test_the_cache_of_the_predictions_serves_the_training(mixed: Project) -> None:
    """No slice is decoded twice: the files of the unlabelled dataset are gone, and its cache is enough."""
    shutil.rmtree(mixed.store.version("new").source)
    settings = (*SHORT, "input.size=32", "input.crop=32")  # as the experiment that predicted
    request = ExperimentRequest("tiny_resnet", dataset="ph+pseudo", settings=settings)
    experiment = new_experiment(mixed.store, mixed.registry, request)
    prepared = prepare_experiment(mixed, experiment, RunCallbacks())
    assert prepared.cache.valid.all()
    assert not list(mixed.workspace.cache_dir.glob("pseudo*"))


def test_slices_without_a_label_do_not_train(mixed: Project) -> None:
    p = labels_of(mixed).table[ANY]
    label(mixed, f"any>={round(float(p.median()), 6)}")
    ensure_joint(mixed, "ph+pseudo")
    assert mixed.store.version("ph+pseudo").number == 2, "other labels are another version"
    prepared = prepare_experiment(mixed, registered(mixed), RunCallbacks())
    labels, ids = labels_of(mixed), prepared.data.slices["slice_id"].to_numpy(object)
    kept = [set(labels.table["slice_id"][labels.table["fold"] == fold]) for fold in (0, 1)]
    assert kept[0] != kept[1]
    for fold in (0, 1):
        rows = prepared.training_rows(fold)
        assert set(ids[rows[prepared.folds[rows] == -1]]) == kept[fold]


def test_only_certain_negatives_have_a_mask(mixed: Project) -> None:
    """Hard labels that are all 0 mean an empty mask; the mask of any other pseudo-label is unknown."""
    rule = LabelRule.parse("any<=0.3|any>0.3", hard=True)
    create_pseudo_labels(mixed, PseudoRequest("pseudo", "new", "1", rule, options=CPU), callbacks=RunCallbacks())
    ensure_joint(mixed, "ph+pseudo")
    prepared = prepare_experiment(mixed, registered(mixed), RunCallbacks())
    n = len(prepared.data.slices)
    known = prepared.folds >= 0
    none = MixtureMasks((None,), np.column_stack([np.zeros(n, int), np.arange(n)]), prepared.cache.spec.size, known)
    prepared = replace(prepared, masks=none)
    labels, ids = labels_of(mixed), prepared.data.slices["slice_id"].to_numpy(object)
    for fold in (0, 1):
        masks, own = prepared.masks_of(fold), labels.of_fold(fold, ids)
        assert masks is not None
        pseudo = prepared.folds == -1
        assert masks.known[~pseudo].all()
        assert np.array_equal(masks.known[pseudo], ~own[pseudo].any(axis=1))
    assert not none.known[pseudo].any(), "other folds are not affected"
    soft = replace(prepared, fold_labels=FoldLabels.of({0: (ids[pseudo], np.full((pseudo.sum(), 6), 0.01, "f4"))}))
    masks = soft.masks_of(0)
    assert masks is not None
    assert not masks.known[pseudo].any()


@pytest.mark.slow
def test_a_training_passes_the_audit_and_scores_no_pseudo_label(mixed: Project) -> None:
    experiment = registered(mixed)
    report = run_experiment(mixed, experiment.number, options=RunOptions(workers=0))
    assert report.score is not None
    assert np.isfinite(report.score)
    found = checks(mixed, experiment.number)
    assert {state for state, _ in found.values()} == {"ok"}, found
    assert {"pseudo labels", "pseudo patients", "pseudo folds", "pseudo fold 0", "pseudo fold 1"} <= set(found)
    version = mixed.store.version("ph+pseudo")
    data = load_version(mixed.workspace, version)
    scored = int((load_folds(mixed.workspace, version, version.folds[0], data.slices) >= 0).sum())
    assert sum(p.slices for p in mixed.store.predictions(experiment.number, role="oof", view="identity")) == scored
    assert "transductive" not in marks(mixed.store.experiment(experiment.number))


def test_the_audit_finds_labels_of_another_fold(mixed: Project) -> None:
    """The labels of both folds are exchanged, with all digests of them."""
    experiment = registered(mixed)
    table = labels_of(mixed).table
    swapped = {
        fold: (
            table["slice_id"][table["fold"] == 1 - fold].to_numpy(object),
            table[list(LABELS)][table["fold"] == 1 - fold].to_numpy(np.float32),
        )
        for fold in (0, 1)
    }
    write_labels(mixed, FoldLabels.of(swapped))
    found = checks(mixed, experiment.number)
    assert found["labels"][0] == "wrong", "the experiment is pinned to the labels"
    assert found["pseudo fold 0"][0] == found["pseudo fold 1"][0] == "wrong"
    assert found["pseudo labels"][0] == "ok"


def test_the_audit_reports_what_is_gone(mixed: Project) -> None:
    experiment = registered(mixed)
    (prediction,) = [p for p in mixed.store.predictions(2, role="evaluation") if p.fold == 0]
    (mixed.workspace.root / prediction.path).unlink()
    weights = mixed.workspace.experiment_files(2).fold(1).weights
    weights.write_bytes(mixed.workspace.experiment_files(2).fold(0).weights.read_bytes())
    found = checks(mixed, experiment.number)
    assert found["pseudo fold 0"][0] == "unknown"
    assert "gone" in found["pseudo fold 0"][1]
    assert found["pseudo fold 1"][0] == "unknown"
    assert "changed" in found["pseudo fold 1"][1]
    remove_dataset(mixed, "new")
    assert checks(mixed, experiment.number)["pseudo fold 0"][0] == "unknown"
    folder = mixed.workspace.root / mixed.store.version("pseudo").path
    (folder / FOLD_LABELS_FILE).unlink()
    assert checks(mixed, experiment.number)["pseudo labels"][0] == "wrong"


def test_a_mixture_on_other_folds_is_refused(mixed: Project, tmp_path: Path) -> None:
    """The same patients in exchanged folds: fold 0 would read labels of networks that trained on its patients."""
    version = mixed.store.version("ph")
    data = load_version(mixed.workspace, version)
    folds = load_folds(mixed.workspace, version, version.folds[0], data.slices)
    table = data.slices[["slice_id"]].assign(fold=1 - folds)
    table.to_csv(tmp_path / "folds.csv", index=False)
    import_folds(mixed, "ph", tmp_path / "folds.csv", name="swapped")
    from ichx.datasets.mix import mix_datasets
    from ichx.datasets.mix_request import MixRequest, PartRequest

    parts = (PartRequest("ph"), PartRequest("pseudo"))
    with pytest.raises(ConflictError, match="another fold"):
        mix_datasets(mixed, MixRequest("swapped-mix", parts, folds="swapped"))
    assert mix_datasets(mixed, MixRequest("fine", parts)).created
    with pytest.raises(ConflictError, match="another fold"):
        import_joint_folds(mixed, tmp_path, lambda folds: np.where(folds < 0, folds, 1 - folds))
    with pytest.raises(ConflictError, match="would be scored"):
        import_joint_folds(mixed, tmp_path, lambda folds: np.maximum(folds, 0))
    import_joint_folds(mixed, tmp_path, lambda folds: folds)


def import_joint_folds(project: Project, folder: Path, change: "Callable[[np.ndarray], np.ndarray]") -> None:
    """Import the changed folds of the mixture `ph+pseudo`."""
    version = project.store.version("ph+pseudo")
    slices = load_version(project.workspace, version).slices
    folds = change(load_folds(project.workspace, version, version.folds[0], slices))
    slices[["slice_id"]].assign(fold=folds).to_csv(folder / "joint.csv", index=False)
    import_folds(project, "ph+pseudo", folder / "joint.csv", name="joint")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_other_files_of_the_same_patients_are_compared_by_ids(mixed: Project, tmp_path: Path) -> None:
    """A part without a slice of the labelled dataset, but with its patients in exchanged folds."""
    data = load_version(mixed.workspace, mixed.store.version("ph"))
    copies = shutil.copytree(data.source, tmp_path / "copies")
    rows = ["ID,Label"]
    for path in sorted(copies.rglob("*.dcm")):
        header = pydicom.dcmread(path)
        header.SOPInstanceUID = f"{header.SOPInstanceUID}0"
        header.save_as(path)
        rows += [f"{header.SOPInstanceUID}_{name},{len(rows) % 2}" for name in LABELS]
    (tmp_path / "copies.csv").write_text("\n".join(rows) + "\n")
    add_dataset(mixed, AddRequest("copies", copies, labels=tmp_path / "copies.csv", folds=2, fold_seed=5))
    version = mixed.store.version("copies")
    slices = load_version(mixed.workspace, version).slices
    own = load_folds(mixed.workspace, mixed.store.version("ph"), mixed.store.version("ph").folds[0], data.slices)
    fold_of = dict(zip(data.slices["patient"], own, strict=True))
    same = np.array([fold_of[patient] for patient in slices["patient"]])
    for name, folds in (("same", same), ("swapped", 1 - same)):
        slices[["slice_id"]].assign(fold=folds).to_csv(tmp_path / f"{name}.csv", index=False)
        import_folds(mixed, "copies", tmp_path / f"{name}.csv", name=name)
    from ichx.datasets.mix import mix_datasets
    from ichx.datasets.mix_request import MixRequest, PartRequest

    parts = (PartRequest("copies"), PartRequest("pseudo"))
    assert mix_datasets(mixed, MixRequest("fine", parts, folds="same")).created
    with pytest.raises(ConflictError, match="another fold"):
        mix_datasets(mixed, MixRequest("leak", parts, folds="swapped"))


def test_only_pseudo_labels_are_no_mixture(mixed: Project) -> None:
    from ichx.datasets.mix import mix_datasets
    from ichx.datasets.mix_request import MixRequest, PartRequest

    with pytest.raises(ConflictError):
        mix_datasets(mixed, MixRequest("two", (PartRequest("pseudo"), PartRequest("new"))))


@pytest.mark.slow
def test_transductive_scores_are_marked(project: Project, phantom: PhantomFiles) -> None:
    """The test set has labels here, as after a competition: a score on it is allowed and marked."""
    request = AddRequest("truth", phantom.test, labels=phantom.test_labels, folds=0)
    add_dataset(project, request)
    label(project, of="ph-test", transductive=True)
    ensure_joint(project, "ph+pseudo")
    experiment = registered(project)
    assert marks(experiment) == ("transductive", "partial (0 of 2 folds)")
    run_experiment(project, experiment.number, options=RunOptions(workers=0))
    model = ready_experiment(project, experiment.number, CPU, print)
    found, _ = evaluate_slices(project, model, "truth", callbacks=RunCallbacks())
    assert "transductive" in found.marks
    number = make_ensemble(project, EnsembleRequest(members=[experiment.number], tta="none")).ensemble.number
    assert "transductive" in marks(project.store.ensemble(number))
    (listed,) = [e for e in project.store.experiments() if e.number == experiment.number]
    assert listed.transductive
    assert "transductive" not in marks(project.store.experiment(2))
