"""Comparison of two experiments: paired over the slices of both."""

import dataclasses

import numpy as np
import pytest
from conftest import SHORT

from ichx.errors import ConflictError, InvalidInputError, NotReadyError
from ichx.evaluation.bootstrap import paired_difference
from ichx.evaluation.choices import Tta
from ichx.evaluation.compare import SHOWN, compare_scores
from ichx.evaluation.metric import row_losses
from ichx.evaluation.oof import read_oof
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.project import Project


@pytest.mark.parametrize("tta", ["none", "hflip"])
def test_difference_and_disagreements_by_hand(project: Project, tta: Tta) -> None:
    one, two = project.store.experiment(1), project.store.experiment(2)
    found = compare_scores(project, one, two, tta=tta)
    first, second = (read_oof(project, e, tta) for e in (one, two))
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
    for rank, d in enumerate(found.disagreements):
        row = first.slice_ids.tolist().index(d.slice_id)
        assert gap[row] == np.sort(gap)[::-1][rank]
        assert (d.first_loss, d.second_loss) == (losses[0][row], losses[1][row])
        assert d.positive == tuple(label for k, label in enumerate(LABELS) if first.labels[row, k])
        assert d.first == tuple(first.probabilities[row])
        assert d.second == tuple(second.probabilities[row])


@pytest.mark.usefixtures("intervals_of_few")
def test_an_experiment_compared_with_itself(project: Project) -> None:
    found = compare_scores(project, project.store.experiment(1), project.store.experiment(1))
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.disagreements == ()


def test_only_common_slices_count(project: Project) -> None:
    store = project.store
    half = new_experiment(store, project.registry, ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
    run_experiment(project, half.number, folds=[1])
    full = read_oof(project, store.experiment(1))
    found = compare_scores(project, store.experiment(1), store.experiment(half.number))
    assert found.slices == int((full.folds == 1).sum())
    assert found.first == full.fold_scores[1]
    (note,) = found.notes
    assert f"{int((full.folds == 0).sum())} slices of experiment 1" in note
    assert f"experiment {half.number}" in note
    other = new_experiment(store, project.registry, ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
    run_experiment(project, other.number, folds=[0])
    with pytest.raises(NotReadyError, match=f"{half.number} and {other.number}"):
        compare_scores(project, store.experiment(half.number), store.experiment(other.number))


def test_different_labels(project: Project) -> None:
    one = project.store.experiment(1)
    with pytest.raises(ConflictError, match="ph v1 and ph v2"):
        compare_scores(project, one, dataclasses.replace(one, label_digest="x", dataset_version=2))


def test_invalid_tta(project: Project) -> None:
    one = project.store.experiment(1)
    with pytest.raises(InvalidInputError, match="`tta`: 'vflip'"):
        compare_scores(project, one, one, tta="vflip")  # type: ignore[arg-type]
