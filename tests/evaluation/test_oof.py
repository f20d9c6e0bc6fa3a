"""Out-of-fold tables have every slice once, by the fold that did not train on its patient, or are refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ichx.datasets.dataset import load_dataset, load_folds
from ichx.errors import ChangedDataError, CorruptFileError, NotReadyError
from ichx.evaluation.choices import Average, Tta
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.oof import mean_over_views, read_oof
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import PredictionDraft


def oof_file(project: Project, fold: int, view: str = "identity") -> Path:
    return project.workspace.experiment_files(1).fold(fold).predictions("oof", view)


def select_rows(project: Project, fold: int, rows: np.ndarray | list[int]) -> None:
    """Rewrite a fold's OOF predictions with `rows` only, in both views."""
    for view in ("identity", "hflip"):
        path = oof_file(project, fold, view)
        old = read_predictions(path)
        write_predictions(path, Predictions(old.slice_ids[rows], old.logits[rows]))


def test_every_slice_once_in_the_order_of_the_dataset(project: Project) -> None:
    data = load_dataset(project, "ph")
    folds = load_folds(project.workspace, data.version, data.version.folds[0])
    table = read_oof(project, project.store.experiment(1))
    assert table.slice_ids.tolist() == data.slices["slice_id"].tolist()
    assert table.folds.tolist() == folds.tolist()
    np.testing.assert_array_equal(table.labels, data.slices[list(LABELS)].to_numpy())
    assert table.left_out == 0
    patients = [set(data.slices["patient"][folds == k]) for k in (0, 1)]
    assert not patients[0] & patients[1]


@pytest.mark.parametrize("tta", ["none", "hflip"])
@pytest.mark.parametrize("average", ["logit", "probability"])
def test_scores_from_the_files_by_hand(project: Project, tta: Tta, average: Average) -> None:
    table = read_oof(project, project.store.experiment(1), tta, average=average)
    by_id = {}
    for fold in (0, 1):
        plain, flipped = (read_predictions(oof_file(project, fold, view)) for view in ("identity", "hflip"))
        x, y = plain.logits.astype(np.float64), flipped.logits.astype(np.float64)
        p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-y))
        mean = (p + q) / 2 if average == "probability" else 1 / (1 + np.exp(-(x + y) / 2))
        by_id |= dict(zip(plain.slice_ids, mean if tta == "hflip" else p, strict=True))
    expected = np.array([by_id[i] for i in table.slice_ids])
    np.testing.assert_allclose(table.probabilities, expected, rtol=1e-12)
    assert table.score == pytest.approx(score(table.labels, expected), rel=1e-12)
    by_fold = [score(table.labels[table.folds == k], expected[table.folds == k]) for k in (0, 1)]
    assert table.fold_scores == pytest.approx({0: by_fold[0], 1: by_fold[1]})
    assert table.spread == pytest.approx(abs(by_fold[0] - by_fold[1]) / np.sqrt(2))
    recorded = project.store.experiment(1)
    if tta == "none" or average == "logit":
        assert (recorded.score_tta if tta == "hflip" else recorded.score) == pytest.approx(table.score, rel=1e-12)
    else:
        assert recorded.score_tta != pytest.approx(table.score, rel=1e-6)


def test_tta_changes_the_probabilities(project: Project) -> None:
    plain, mean = (read_oof(project, project.store.experiment(1), tta) for tta in ("none", "hflip"))
    assert not np.array_equal(plain.probabilities, mean.probabilities)


def test_table_of_one_fold(project: Project) -> None:
    full = read_oof(project, project.store.experiment(1))
    inside = full.folds == 0
    table = read_oof(project, project.store.experiment(1), only=[0])
    assert table.slice_ids.tolist() == full.slice_ids[inside].tolist()
    np.testing.assert_array_equal(table.probabilities, full.probabilities[inside])
    assert table.fold_scores == {0: full.fold_scores[0]}
    assert (table.spread, table.left_out) == (None, 0)


def test_missing_rows_are_refused(project: Project) -> None:
    full = read_oof(project, project.store.experiment(1))
    before = int((full.folds == 0).sum())
    select_rows(project, 0, np.arange(3, before))
    with pytest.raises(ChangedDataError) as caught:
        read_oof(project, project.store.experiment(1))
    assert caught.value.problem.startswith("Experiment 1, fold 0: ")
    assert f" {before - 3} of {before} " in caught.value.problem
    assert f" 3 slices: {', '.join(full.slice_ids[full.folds == 0][:3])}." in caught.value.problem


def test_slices_that_could_not_be_decoded_are_counted(project: Project) -> None:
    """The store has recorded that three slices of the fold were not predicted."""
    full = read_oof(project, project.store.experiment(1))
    before = int((full.folds == 0).sum())
    select_rows(project, 0, np.arange(3, before))
    drafts = [p for p in project.store.predictions(1, role="oof") if p.fold == 0]
    names = [field.name for field in dataclasses.fields(PredictionDraft)]
    project.store.add_predictions(
        [PredictionDraft(**{name: getattr(p, name) for name in names} | {"slices": before - 3}) for p in drafts]
    )
    table = read_oof(project, project.store.experiment(1))
    assert (table.left_out, len(table.labels)) == (3, len(full.labels) - 3)


def test_predictions_of_another_fold_are_refused(project: Project) -> None:
    """A fold must not predict what it trained on."""
    for view in ("identity", "hflip"):
        oof_file(project, 0, view).write_bytes(oof_file(project, 1, view).read_bytes())
    slices = int((read_oof(project, project.store.experiment(1), only=[1]).folds == 1).sum())
    with pytest.raises(ChangedDataError, match=f"^Experiment 1, fold 0: {slices} slices .*trained on"):
        read_oof(project, project.store.experiment(1))


def test_unmarked_leaky_folds_are_refused(project: Project) -> None:
    data = load_dataset(project, "ph")
    folds = load_folds(project.workspace, data.version, data.version.folds[0])
    split = data.slices[["slice_id"]].assign(fold=folds)
    first = int(np.flatnonzero(folds == 0)[0])
    split.loc[first, "fold"] = 1
    split.to_parquet(project.workspace.root / data.version.path / "folds-default.parquet", index=False)
    experiment = project.store.experiment(1)
    with pytest.raises(ChangedDataError, match=rf"^Experiment 1: 1 of 8 .*: {data.slices['patient'][first]} \(fold"):
        read_oof(project, experiment)
    with pytest.raises(ChangedDataError, match="fold 0: 1 slice of other folds"):
        read_oof(project, dataclasses.replace(experiment, leaked=True))


def test_a_slice_predicted_twice_is_refused(project: Project) -> None:
    select_rows(project, 1, [0, 1, 1, 2])
    with pytest.raises(ChangedDataError, match="1 slice predicted more than once: "):
        read_oof(project, project.store.experiment(1))


def test_unknown_slices_are_refused(project: Project) -> None:
    for view in ("identity", "hflip"):
        old = read_predictions(oof_file(project, 0, view))
        ids = old.slice_ids.copy()
        ids[:2] = ["ID_x", "ID_y"]
        write_predictions(oof_file(project, 0, view), Predictions(ids, old.logits))
    with pytest.raises(ChangedDataError, match=r"2 predictions .*: ID_x, ID_y") as caught:
        read_oof(project, project.store.experiment(1))
    assert "`ichx audit 1`" in caught.value.remedy


def test_views_of_different_slices_are_refused(project: Project) -> None:
    path = oof_file(project, 0, "hflip")
    old = read_predictions(path)
    write_predictions(path, Predictions(old.slice_ids[::-1], old.logits[::-1]))
    read_oof(project, project.store.experiment(1), "none")
    with pytest.raises(ChangedDataError, match="views"):
        read_oof(project, project.store.experiment(1), "hflip")


def test_missing_and_damaged_files(project: Project) -> None:
    path = oof_file(project, 0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match=str(path)):
        read_oof(project, project.store.experiment(1))
    path.unlink()
    with pytest.raises(ChangedDataError, match=str(path)):
        read_oof(project, project.store.experiment(1))
    path.write_bytes(content)
    old = read_predictions(path)
    old.logits[3, 1] = np.nan
    write_predictions(path, old)
    with pytest.raises(CorruptFileError, match=r"\b1 row\b"):
        read_oof(project, project.store.experiment(1))
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptFileError, match=str(path)):
        read_oof(project, project.store.experiment(1))
    write_predictions(path / "part.parquet", Predictions(old.slice_ids, old.logits))
    with pytest.raises(CorruptFileError, match=str(path)):
        read_oof(project, project.store.experiment(1))


def test_an_experiment_without_a_finished_fold(project: Project) -> None:
    experiment = new_experiment(project.store, project.registry, ExperimentRequest(plugin="tiny_resnet"))
    with pytest.raises(NotReadyError, match=r"\b4\b") as caught:
        read_oof(project, experiment)
    assert "`ichx run 4`" in caught.value.remedy


def test_predictions_round_trip(tmp_path: Path) -> None:
    written = Predictions(
        np.array(["b", "a", "1.2.3#7"], object), np.random.default_rng(0).normal(0, 9, (3, 6)).astype(np.float32)
    )
    digest = write_predictions(tmp_path / "new" / "p.parquet", written)
    read = read_predictions(tmp_path / "new" / "p.parquet")
    assert read.slice_ids.tolist() == written.slice_ids.tolist()
    np.testing.assert_array_equal(read.logits, written.logits)
    assert read.logits.dtype == np.float32
    assert len(digest) == 64
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["p.parquet"]
    mean = mean_over_views([written, dataclasses.replace(written, logits=-written.logits)])
    np.testing.assert_allclose(mean, 0.5, rtol=1e-12)
    assert probabilities(written.logits).dtype == np.float64
