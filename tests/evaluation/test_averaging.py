"""Means over folds: the blend of each fold first, then the mean of logits; or the reference's mean of probabilities."""

import numpy as np
import pytest

from ichx.errors import InvalidInputError
from ichx.evaluation.averaging import averaging_gain, blend_folds, mean_of
from ichx.evaluation.blend_methods import LinearPool
from ichx.evaluation.calibration import Temperatures
from ichx.evaluation.choices import check_average
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.nested_score import FittedBlend
from ichx.evaluation.series_neighbours import SeriesNeighbours


def test_means_of_two_parts() -> None:
    low, high = np.full((1, 6), 0.1), np.full((1, 6), 0.5)
    odds = np.sqrt(1 / 9)  # geometric mean of 1/9 and 1
    np.testing.assert_allclose(mean_of([low, high], "logit"), odds / (1 + odds), rtol=1e-14)
    np.testing.assert_allclose(mean_of([low, high], "probability"), 0.3, rtol=1e-14)
    assert mean_of([low], "logit") is low
    assert np.isnan(mean_of([low, low * np.nan], "logit")).all()


def test_a_blend_is_applied_to_each_fold_before_the_mean() -> None:
    """With temperature 2, the logits of folds are halved first; the order matters for probabilities only."""
    blend = FittedBlend(
        "mean", (0, 1), LinearPool((0, 1), np.full((2, 6), 0.5)), {"calibration": Temperatures(np.array([2.0]))}, ()
    )
    neighbours = SeriesNeighbours(np.zeros(1, np.int64), np.zeros(1, np.int64))
    members = {
        0: {0: np.full((1, 6), 0.2), 3: np.full((1, 6), 0.9)},
        1: {0: np.full((1, 6), 0.4), 3: np.full((1, 6), 0.7)},
    }
    odds = np.sqrt(np.sqrt(0.3 / 0.7) * np.sqrt(0.8 / 0.2))  # of each fold's mean, at temperature 2, then averaged
    np.testing.assert_allclose(blend_folds(blend, members, neighbours, "logit"), odds / (1 + odds), rtol=1e-12)
    odds = np.sqrt(0.55 / 0.45)  # of the mean over folds and members, at temperature 2
    np.testing.assert_allclose(blend_folds(blend, members, neighbours, "probability"), odds / (1 + odds), rtol=1e-12)


def test_an_unknown_average() -> None:
    with pytest.raises(InvalidInputError, match="`average`: 'median'"):
        check_average("median")


def test_the_gain_of_averaging_logits_needs_no_labels() -> None:
    """The mean of the scores of single networks less the score of their mean logit, whatever the labels are."""
    rng = np.random.default_rng(4)
    networks = [probabilities(rng.normal(-1, 2, (300, 6))) for _ in range(4)]
    for labels in ((rng.random((300, 6)) < 0.3).astype(float), np.zeros((300, 6)), rng.random((300, 6))):
        gain = np.mean([score(labels, p) for p in networks]) - score(labels, mean_of(networks, "logit"))
        assert averaging_gain(networks) == pytest.approx(gain, rel=1e-9)
    assert averaging_gain([networks[0]] * 3) == pytest.approx(0, abs=1e-12)
