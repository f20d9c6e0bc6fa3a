"""Predictions of slices and studies by a network over series."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from ichx.sequences.data import IntArray
from ichx.sequences.feed import SequenceFeed
from ichx.training.feed import Rows
from ichx.training.prediction import PredictionTask, Predictor


@dataclass(frozen=True)
class SequencePrediction:
    """Logits of the slices and the studies of some series."""

    slices: IntArray
    """`(S,)` rows of the slices in the data, sorted."""
    logits: npt.NDArray[np.float32]
    """`(S, 6)` of the slices."""
    studies: IntArray
    """`(K,)` numbers of the studies, sorted."""
    study_logits: npt.NDArray[np.float32]
    """`(K, 6)`: whether a study has the label on any slice, as the network has learnt it."""


def predict_series(
    predictor: Predictor, network: nn.Module, feed: SequenceFeed, rows: Rows, task: PredictionTask | None = None
) -> SequencePrediction:
    """Return the predictions of `rows` of `feed`, e.g. `feed.validation_rows` or `feed.rows(series)`."""
    predictions = predictor.logits(network, feed, rows, task)
    studies, study_logits = feed.study_logits(rows, predictions)
    return SequencePrediction(feed.slices(rows), feed.slice_logits(rows, predictions), studies, study_logits)
