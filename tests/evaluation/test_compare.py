"""A comparison is paired: the same slices of the same patients under both experiments."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SHORT

from ichx.errors import IchxError
from ichx.evaluation.bootstrap import paired_difference
from ichx.evaluation.compare import SHOWN, compare_scores
from ichx.evaluation.metric import row_losses
from ichx.evaluation.oof import read_oof
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import Store, open_store
from ichx.workspace import Workspace, open_workspace


@pytest.fixture
def place(trained_copy: Path) -> Iterator[tuple[Workspace, Store]]:
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        yield workspace, store


@pytest.mark.parametrize("tta", ["none", "hflip"])
def test_the_difference_and_the_slices_by_hand(place: tuple[Workspace, Store], tta: str) -> None:
    workspace, store = place
    one, two = store.experiment(1), store.experiment(2)
    found = compare_scores(Project(workspace, store), one, two, tta=tta)
    first, second = (read_oof(Project(workspace, store), e, tta) for e in (one, two))
    assert (found.first, found.second) == (first.score, second.score)
    assert found.slices == len(first.slice_ids)
    assert found.notes == ()
    assert found.difference == paired_difference(
        first.labels, first.probabilities, second.probabilities, first.patients, ranked=True
    )
    assert found.difference.value == pytest.approx(first.score - second.score, rel=1e-9)
    weights = np.asarray(LABEL_WEIGHTS) / 7
    losses = [row_losses(t.labels, t.probabilities) @ weights for t in (first, second)]
    gap = np.abs(losses[0] - losses[1])
    assert len(found.disagreements) == SHOWN
    for place_, d in enumerate(found.disagreements):
        row = first.slice_ids.tolist().index(d.slice_id)
        assert gap[row] == np.sort(gap)[::-1][place_]
        assert (d.first_loss, d.second_loss) == (losses[0][row], losses[1][row])
        assert d.positive == tuple(label for k, label in enumerate(LABELS) if first.labels[row, k])
        assert d.first == tuple(first.probabilities[row])
        assert d.second == tuple(second.probabilities[row])


def test_an_experiment_is_no_different_from_itself(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    found = compare_scores(Project(workspace, store), store.experiment(1), store.experiment(1))
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.disagreements == ()


def test_only_slices_of_both_count_and_that_is_said(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    registry = load_registry()
    half = new_experiment(store, registry, ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
    run_experiment(Project(workspace, store, registry), half.number, folds=[1])
    whole = read_oof(Project(workspace, store), store.experiment(1))
    found = compare_scores(Project(workspace, store), store.experiment(1), store.experiment(half.number))
    assert found.slices == int((whole.folds == 1).sum())
    assert found.first == whole.fold_scores[1]
    rest = int((whole.folds == 0).sum())
    assert found.notes == (f"{rest} slices of experiment 1 have no prediction by the other, and do not count",)
    other = new_experiment(store, registry, ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
    run_experiment(Project(workspace, store, registry), other.number, folds=[0])
    with pytest.raises(IchxError, match=f"experiments {half.number} and {other.number} have no finished fold in comm"):
        compare_scores(Project(workspace, store), store.experiment(half.number), store.experiment(other.number))


def test_other_labels_and_unknown_views_are_refused(place: tuple[Workspace, Store]) -> None:
    workspace, store = place
    one = store.experiment(1)
    with pytest.raises(IchxError, match=r"have other slices or labels \(ph v1 and ph v2\)"):
        compare_scores(Project(workspace, store), one, dataclasses.replace(one, label_digest="x", dataset_version=2))
    with pytest.raises(IchxError, match="no test-time augmentation 'vflip'"):
        compare_scores(Project(workspace, store), one, one, tta="vflip")
