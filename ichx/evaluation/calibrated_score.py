"""The score after calibration within a fold: compares recipes without the effects of label smoothing and sampling.

Two steps change the predicted probabilities first. Undersampled negatives are undone in closed form: the network has
learned odds that are too high by a known factor (Elkan, The foundations of cost-sensitive learning, IJCAI 2001). Then
logits are divided by one temperature, fitted on one half of the validation patients and applied to the other half, in
both directions, so that no slice is calibrated by its own label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.evaluation.calibration import fit_temperature
from ichx.evaluation.metric import FloatArray, score
from ichx.labels import ANY, LABELS

_ANY = LABELS.index(ANY)


@dataclass(frozen=True)
class FoldCalibration:
    """What the calibrated score of a fold's validation slices depends on, besides their predictions."""

    halves: npt.NDArray[np.bool_]
    """Half of each validation slice, `(N,)`; a patient is in one half."""
    kept: tuple[float, ...]
    """Share of the negative slices that an epoch of each stage trains on; 1 if its loss accounts for the others."""

    def score(self, labels: FloatArray, predicted: FloatArray, stage: int) -> float:
        """Return the calibrated score of predictions `(N, 6)` after an epoch of a stage."""
        return calibrated_score(labels, predicted, self.halves, self.kept[stage])


def calibrated_score(labels: FloatArray, predicted: FloatArray, halves: npt.NDArray[np.bool_], kept: float) -> float:
    """Return the weighted log loss after `calibrate`; NaN for predictions that are not finite."""
    if not np.isfinite(predicted).all():
        return float("nan")
    return score(labels, calibrate(labels, predicted, halves, kept))


def calibrate(labels: FloatArray, predicted: FloatArray, halves: npt.NDArray[np.bool_], kept: float) -> FloatArray:
    """Return calibrated probabilities `(N, 6)`.

    Args:
        labels: `(N, 6)` in 0..1.
        predicted: Probabilities, `(N, 6)`.
        halves: Half of each slice, `(N,)`.
        kept: Share of the negative slices that the network was trained on.
    """
    corrected = undo_undersampling(predicted, kept)
    calibrated = corrected.copy()
    for half in (halves, ~halves):
        if half.any() and not half.all():
            calibrated[half] = fit_temperature(corrected[~half], labels[~half]).apply(corrected[half])
    return calibrated


def undo_undersampling(predicted: FloatArray, kept: float) -> FloatArray:
    """Return the probabilities `(N, 6)` of all slices by a network that was trained on a part of the negative ones.

    Every slice with `any` was trained on, and the share `kept` of those without. With P for all slices and Q for the
    trained ones, Q(label) = P(label) / (P(any) + kept (1 - P(any))) for each label, of which `any` is the maximum.

    Args:
        predicted: Q, `(N, 6)`.
        kept: In (0, 1].
    """
    if kept == 1.0:
        return predicted
    corrected: FloatArray = predicted * (kept / (1.0 - (1.0 - kept) * predicted[:, [_ANY]]))
    return corrected


def patient_halves(patients: Sequence[str] | npt.NDArray[np.object_], labels: FloatArray) -> npt.NDArray[np.bool_]:
    """Return the half of each slice, `(N,)`: patients with about as many slices with `any` in both.

    The same patients and labels give the same halves. With one patient, a half is empty.
    """
    names, code = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    positives = np.bincount(code, labels[:, _ANY] > 0.5, len(names))
    order = np.lexsort((np.arange(len(names)), -positives))
    second = np.zeros(len(names), bool)
    second[order] = np.arange(len(names)) % 4 % 3 > 0  # first, second, second, first, ...
    halves: npt.NDArray[np.bool_] = second[code]
    return halves
