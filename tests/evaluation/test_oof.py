"""Out-of-fold tables: every slice once, by the fold that did not train on its patient; anything else is refused."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ichx.datasets.dataset import load_dataset, load_folds
from ichx.errors import IchxError
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.oof import OofTable, mean_over_views, read_oof
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import PredictionDraft, Store, open_store
from ichx.workspace import Workspace, open_workspace


@pytest.fixture
def place(trained_copy: Path) -> Iterator[tuple[Workspace, Store]]:
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        yield workspace, store


def oof_file(workspace: Workspace, fold: int, view: str = "identity", number: int = 1) -> Path:
    return workspace.experiment_dir(number) / f"fold-{fold}" / f"oof-{view}.parquet"


def rewrite(workspace: Workspace, fold: int, rows: np.ndarray | list[int], number: int = 1) -> None:
    """Keep `rows` of a fold's OOF predictions, in both views."""
    for view in ("identity", "hflip"):
        path = oof_file(workspace, fold, view, number)
        old = read_predictions(path)
        write_predictions(path, Predictions(old.slice_ids[rows], old.logits[rows]))


def test_every_slice_is_there_once_in_the_datasets_order(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    data = load_dataset(Project(workspace, store), "ph")
    folds = load_folds(workspace, data.version, data.version.folds[0])
    table = read_oof(Project(workspace, store), store.experiment(1))
    assert table.slice_ids.tolist() == data.slices["slice_id"].tolist()
    assert table.folds.tolist() == folds.tolist()
    np.testing.assert_array_equal(table.labels, data.slices[list(LABELS)].to_numpy())
    assert table.left_out == 0
    patients = [set(data.slices["patient"][folds == k]) for k in (0, 1)]
    assert not patients[0] & patients[1]


@pytest.mark.parametrize("tta", ["none", "hflip"])
def test_scores_from_the_files_by_hand(place: tuple[Workspace, Store], tta: str) -> None:
    workspace, store = place
    table = read_oof(Project(workspace, store), store.experiment(1), tta)
    by_id = {}
    for fold in (0, 1):
        plain, flipped = (read_predictions(oof_file(workspace, fold, view)) for view in ("identity", "hflip"))
        p = 1 / (1 + np.exp(-plain.logits.astype(np.float64)))
        q = 1 / (1 + np.exp(-flipped.logits.astype(np.float64)))
        by_id |= dict(zip(plain.slice_ids, (p + q) / 2 if tta == "hflip" else p, strict=True))
    expected = np.array([by_id[i] for i in table.slice_ids])
    np.testing.assert_allclose(table.probabilities, expected, rtol=1e-12)
    assert table.score == pytest.approx(score(table.labels, expected), rel=1e-12)
    of_fold = [score(table.labels[table.folds == k], expected[table.folds == k]) for k in (0, 1)]
    assert table.fold_scores == pytest.approx({0: of_fold[0], 1: of_fold[1]})
    assert table.spread == pytest.approx(abs(of_fold[0] - of_fold[1]) / np.sqrt(2))
    recorded = store.experiment(1)
    assert (recorded.score_tta if tta == "hflip" else recorded.score) == pytest.approx(table.score, rel=1e-12)


def test_a_flip_is_another_view(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    plain, mean = (read_oof(Project(workspace, store), store.experiment(1), tta) for tta in ("none", "hflip"))
    assert not np.array_equal(plain.probabilities, mean.probabilities)


def test_a_fold_that_is_not_finished_is_not_in_the_table(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    table = read_oof(Project(workspace, store), store.experiment(1))
    inside = table.folds == 0
    only = OofTable(
        slice_ids=table.slice_ids[inside],
        folds=table.folds[inside],
        labels=table.labels[inside],
        probabilities=table.probabilities[inside],
        left_out=0,
        patients=table.patients[inside],
        studies=table.studies[inside],
    )
    assert list(only.fold_scores) == [0]
    assert only.spread is None


def test_an_incomplete_table_is_refused(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    whole = read_oof(Project(workspace, store), store.experiment(1))
    before = int((whole.folds == 0).sum())
    rewrite(workspace, 0, np.arange(3, before))
    with pytest.raises(IchxError) as caught:
        read_oof(Project(workspace, store), store.experiment(1))
    absent = "; ".join(whole.slice_ids[whole.folds == 0][:3])
    assert caught.value.problem == (
        f"experiment 1, fold 0: incomplete: {before - 3} of the {before} predictions that were recorded; "
        f"no prediction of 3 slices: {absent}"
    )


def test_slices_that_were_never_predicted_are_counted(place: tuple[Workspace, Store]) -> None:
    """As many as could be decoded were recorded."""
    workspace, store = place
    whole = read_oof(Project(workspace, store), store.experiment(1))
    before = int((whole.folds == 0).sum())
    rewrite(workspace, 0, np.arange(3, before))
    drafts = [p for p in store.predictions(1, role="oof") if p.fold == 0]
    names = [field.name for field in dataclasses.fields(PredictionDraft)]
    store.add_predictions(
        [PredictionDraft(**{name: getattr(p, name) for name in names} | {"slices": before - 3}) for p in drafts]
    )
    table = read_oof(Project(workspace, store), store.experiment(1))
    assert (table.left_out, len(table.labels)) == (3, len(whole.labels) - 3)


def test_predictions_of_another_fold_are_refused(place: tuple[Workspace, Store]) -> None:
    """What a fold trained on is no out-of-fold prediction."""
    workspace, store = place
    for view in ("identity", "hflip"):
        oof_file(workspace, 0, view).write_bytes(oof_file(workspace, 1, view).read_bytes())
    with pytest.raises(IchxError, match="which this one trained on, e") as caught:
        read_oof(Project(workspace, store), store.experiment(1))
    assert caught.value.problem.startswith("experiment 1, fold 0: ")


def test_folds_that_split_a_patient_are_refused_unless_the_score_is_marked(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    data = load_dataset(Project(workspace, store), "ph")
    folds = load_folds(workspace, data.version, data.version.folds[0])
    split = data.slices[["slice_id"]].assign(fold=folds)
    first = int(np.flatnonzero(folds == 0)[0])
    split.loc[first, "fold"] = 1
    split.to_parquet(workspace.root / data.version.path / "folds-default.parquet", index=False)
    experiment = store.experiment(1)
    with pytest.raises(IchxError) as caught:
        read_oof(Project(workspace, store), experiment)
    assert caught.value.problem.startswith("experiment 1: 1 of 8 patients in more than one fold, ")
    assert f": {data.slices['patient'][first]} (folds 0, 1)" in caught.value.problem
    with pytest.raises(IchxError, match="fold 0: 1 slice of other folds"):
        read_oof(Project(workspace, store), dataclasses.replace(experiment, leaked=True))


def test_a_slice_predicted_twice_is_refused(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    rewrite(workspace, 1, [0, 1, 1, 2])
    with pytest.raises(IchxError, match="1 slice predicted more than once: "):
        read_oof(Project(workspace, store), store.experiment(1))


def test_unknown_slices_are_refused(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    for view in ("identity", "hflip"):
        old = read_predictions(oof_file(workspace, 0, view))
        ids = old.slice_ids.copy()
        ids[:2] = ["ID_x", "ID_y"]
        write_predictions(oof_file(workspace, 0, view), Predictions(ids, old.logits))
    with pytest.raises(
        IchxError, match="2 predictions of slices that are not in the dataset version: ID_x, ID_y"
    ) as caught:
        read_oof(Project(workspace, store), store.experiment(1))
    assert "ichx audit 1" in caught.value.remedy


def test_views_of_different_slices_are_refused(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    path = oof_file(workspace, 0, "hflip")
    old = read_predictions(path)
    write_predictions(path, Predictions(old.slice_ids[::-1], old.logits[::-1]))
    read_oof(Project(workspace, store), store.experiment(1), "none")
    with pytest.raises(IchxError, match="two views of one fold predict different slices"):
        read_oof(Project(workspace, store), store.experiment(1), "hflip")


def test_missing_and_damaged_files_are_told(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    path = oof_file(workspace, 0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(IchxError, match="cannot be read") as caught:
        read_oof(Project(workspace, store), store.experiment(1))
    assert str(path) in caught.value.problem
    path.unlink()
    with pytest.raises(IchxError, match="are missing"):
        read_oof(Project(workspace, store), store.experiment(1))
    path.write_bytes(content)
    old = read_predictions(path)
    old.logits[3, 1] = np.nan
    write_predictions(path, old)
    with pytest.raises(IchxError, match="holds NaN or infinity in 1 row"):
        read_oof(Project(workspace, store), store.experiment(1))


def test_an_experiment_without_a_finished_fold(place: tuple[Workspace, Store]) -> None:
    from ichx.experiments.register import new_experiment
    from ichx.plugins import load_registry

    workspace, store = place
    fresh = new_experiment(store, load_registry(), plugin="tiny_resnet")
    with pytest.raises(IchxError, match="experiment 4 has no finished fold") as caught:
        read_oof(Project(workspace, store), fresh)
    assert "ichx run 4" in caught.value.remedy


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    given = Predictions(
        np.array(["b", "a", "1.2.3#7"], object), np.random.default_rng(0).normal(0, 9, (3, 6)).astype(np.float32)
    )
    digest = write_predictions(tmp_path / "new" / "p.parquet", given)
    again = read_predictions(tmp_path / "new" / "p.parquet")
    assert again.slice_ids.tolist() == given.slice_ids.tolist()
    np.testing.assert_array_equal(again.logits, given.logits)
    assert again.logits.dtype == np.float32
    assert len(digest) == 64
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["p.parquet"]
    mean = mean_over_views([given, dataclasses.replace(given, logits=-given.logits)])
    np.testing.assert_allclose(mean, 0.5, rtol=1e-12)
    assert probabilities(given.logits).dtype == np.float64
