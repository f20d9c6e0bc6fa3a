"""Baseline that a model must beat: logistic regression on the share of brain pixels as bright as blood."""

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ichx.evaluation.metric import FloatArray

BONE_HU = 300
BLOOD_HU = (50, 100)
"""Fresh blood: above grey matter, below calcium."""


def bright_share(hu: npt.NDArray[np.int16]) -> float:
    """Return the share of pixels within `BLOOD_HU` inside the skull of a slice, `(H, W)` HU; 0 without a skull."""
    bone = (hu > BONE_HU).astype(np.uint8)
    contours, _ = cv2.findContours(bone, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(bone), contours, -1, 1, cv2.FILLED)
    inside = cv2.erode(filled, np.ones((3, 3), np.uint8)).astype(bool) & (hu < BONE_HU)
    count = int(inside.sum())
    return float(((hu >= BLOOD_HU[0]) & (hu <= BLOOD_HU[1]) & inside).sum() / count) if count else 0.0


def brightness_baseline(train: npt.ArrayLike, labels: npt.NDArray[np.float64], test: npt.ArrayLike) -> FloatArray:
    """Fit the baseline and predict. A label that does not vary is predicted as it is.

    Args:
        train: Shares of bright pixels of the training slices, `(N,)`.
        labels: Their labels in {0, 1}, `(N, 6)`.
        test: Shares of bright pixels of the slices to predict, `(M,)`.

    Returns:
        Probabilities `(M, 6)`.
    """
    x, z = np.asarray(train, np.float64)[:, None], np.asarray(test, np.float64)[:, None]
    predicted = np.empty((len(z), labels.shape[1]))
    for column, y in enumerate(labels.T):
        if y.min() == y.max():
            predicted[:, column] = y[0]
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
        predicted[:, column] = model.predict_proba(z)[:, 1]
    return predicted
