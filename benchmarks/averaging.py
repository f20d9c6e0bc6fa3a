"""Orders of averaging: calibration of each fold's predictions before their mean, compared with calibration of the mean.

python benchmarks/averaging.py [--quick] [--json FILE]

Each network of K folds has the logits of a real ResNet-50 (`ICHX_TEST_DATA`, otherwise simulated ones) with independent
errors, as overconfident as that network or with its temperature corrected. The calibration is fitted on OOF predictions
(each slice by one network) of half of the slices and applied to the predictions of the other half by all networks.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from cohort import data_folder, label_file, synthetic_cohort
from common import Figure, arguments, conclude
from evaluation import make_members

from ichx.datasets.label_csv import read_labels
from ichx.evaluation.averaging import blend_folds, mean_of
from ichx.evaluation.blend_methods import LinearPool
from ichx.evaluation.calibration import fit_temperature, fit_temperatures
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.nested_score import FittedBlend
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.labels import LABELS

FloatArray = npt.NDArray[np.float64]

FOLDS, SEEDS, QUICK_SEEDS = 5, 3, 1
SLICES = 75_281
"""Simulated slices; as many as the real predictions."""
TIE = 1e-5
ERRORS = (0.5, 1.0)
"""Standard deviations of a network's errors, in logits of the calibrated network."""


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    if folder is not None:
        labels, predicted = real_predictions(folder)
    else:
        cohort = synthetic_cohort().first(SLICES)
        labels, predicted = cohort.labels.astype(np.float64), make_members(cohort, None, 1)[0]
    z = logits(np.clip(predicted, 1e-7, 1 - 1e-7))
    temperature = fit_temperature(probabilities(z), labels, neighbours(len(z))).values[0]
    figures = []
    for error in ERRORS:
        for name, scale in (("calibrated", 1 / temperature), ("overconfident", 1.0)):
            runs = [
                compare(labels, z, error * temperature, scale, seed)
                for seed in range(QUICK_SEEDS if options.quick else SEEDS)
            ]
            old, new, plain = np.mean(runs, axis=0)
            what = f"{name} networks, errors {error:g}: log loss"
            note = f"{old:.5f} when the mean is calibrated; {plain:.5f} for its probabilities, uncalibrated"
            figures.append(Figure(what, float(new), "", note, "not higher", bool(new < old + TIE)))
    conclude(figures, options)


def real_predictions(folder: Path) -> tuple[FloatArray, FloatArray]:
    """Return labels and probabilities `(N, 6)` of the real network."""
    table = pd.read_csv(folder / "predictions" / "resnet50_holdout.csv.gz").set_index("Image")[list(LABELS)]
    known = read_labels(label_file(folder))
    rows = pd.Index(known.ids).get_indexer(table.index)
    return known.values[rows].astype(np.float64), table.to_numpy(np.float64)


def compare(labels: FloatArray, z: FloatArray, error: float, scale: float, seed: int) -> tuple[float, float, float]:
    """Return the log loss of test slices: mean, then calibration; calibration, then mean of logits; no calibration."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(z))
    known, test = order[: len(z) // 2], order[len(z) // 2 :]
    own = rng.integers(FOLDS, size=len(known))
    networks = [z + error * rng.standard_normal(z.shape) for _ in range(FOLDS)]
    if scale != 1.0:  # each network with its own temperature, on slices of which no score is reported
        alone = neighbours(len(known))
        networks = [n / fit_temperature(probabilities(n[known]), labels[known], alone).values[0] for n in networks]
    oof = probabilities(np.stack(networks)[own, known])
    predicted = {fold: probabilities(n[test]) for fold, n in enumerate(networks)}
    step = fit_temperatures(oof, labels[known], neighbours(len(known)))
    blend = FittedBlend("mean", (0,), LinearPool((0,), np.ones((1, 6))), {"calibration": step}, ())
    old, new = (blend_folds(blend, {0: predicted}, neighbours(len(test)), how) for how in ("probability", "logit"))
    plain = mean_of(list(predicted.values()), "probability")
    return score(labels[test], old), score(labels[test], new), score(labels[test], plain)


def neighbours(count: int) -> SeriesNeighbours:
    """Return slices without neighbours."""
    return SeriesNeighbours(np.arange(count), np.zeros(count, np.int64))


if __name__ == "__main__":
    main()
