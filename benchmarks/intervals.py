"""Intervals over patients: time and memory of 1,000 draws at the size of the RSNA training set, and how much wider they
are than intervals over slices.

python benchmarks/intervals.py [--quick] [--json FILE]

With ICHX_TEST_DATA, labels are real and predictions are sampled from a real network's; otherwise both are synthetic.
"""

import resource
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from cohort import Cohort, data_folder, label_file, real_cohort, synthetic_cohort
from common import Figure, arguments, conclude

from ichx.datasets.label_csv import read_labels
from ichx.evaluation.bootstrap import patient_bootstrap
from ichx.evaluation.metric import probabilities
from ichx.labels import LABELS

SECONDS, GIB = 30.0, 2.0
QUICK = 0.1
"""Share of the images and of the draws with --quick."""


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    print(cohort.origin)
    predicted = predictions(cohort, folder)
    part = cohort.first(round(QUICK * len(cohort.images))) if options.quick else cohort
    figures = bootstrap_figures(part, predicted[: len(part.images)], 100 if options.quick else 1000)
    conclude(figures + (real_figures(folder) if folder else []), options)


def bootstrap_figures(cohort: Cohort, predicted: npt.NDArray[np.float64], draws: int = 1000) -> list[Figure]:
    """Return time and memory of all scores of slices with their intervals."""
    times, busy = [], []
    for _ in range(3):
        began, used = time.perf_counter(), time.process_time()
        found = patient_bootstrap(cohort.labels, predicted, cohort.patients, draws=draws)
        times.append(time.perf_counter() - began)
        busy.append(time.process_time() - used)
    print(f"processor time of {draws:,} draws: {statistics.median(busy):.1f} s")
    seconds, peak = statistics.median(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = f"{len(cohort.images):,} slices, {found.patients:,} patients, {draws:,} draws"
    return [
        Figure("intervals of all scores", seconds, "s", size, f"{SECONDS:g} s", seconds <= SECONDS),
        Figure("peak memory of the process", peak, "GiB", size, f"{GIB:g} GiB", peak <= GIB),
    ]


def real_figures(folder: Path) -> list[Figure]:
    """Return the standard error of a real network's score over patients, compared with that over slices."""
    labels, predicted = _real(folder)
    known = pd.read_csv(folder / "metadata" / "slices_78545.csv.gz").set_index("SOPInstanceUID")["PatientID"]
    images = predicted.index.intersection(known.index)
    y, p, patients = labels.loc[images].to_numpy(), predicted.loc[images].to_numpy(), known[images].to_numpy(object)
    by_patient, by_slice = (
        patient_bootstrap(y, p, who, ranked=False).log_loss for who in (patients, np.arange(len(images)))
    )
    print(f"a real network's log loss on {len(images):,} slices of {len(set(patients)):,} patients: {by_patient}")
    baseline = f"{by_slice.standard_error:.4g} over slices"
    wider = by_patient.standard_error > by_slice.standard_error
    return [Figure("standard error over patients", by_patient.standard_error, "", baseline, "larger", wider)]


def predictions(cohort: Cohort, folder: Path | None) -> npt.NDArray[np.float64]:
    """Return distinct probabilities (N, 6) for `cohort`, sampled from real slices with the same labels if possible."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.1, cohort.labels.shape)
    if folder is None:
        return probabilities(6 * cohort.labels - 5 + 20 * noise)
    labels, predicted = _real(folder)
    bits = 1 << np.arange(len(LABELS))
    have, want = (labels.to_numpy() > 0.5) @ bits, (cohort.labels > 0.5) @ bits
    row = np.empty(len(want), np.int64)
    for one in np.unique(want):
        rows = np.flatnonzero(have == one)
        row[want == one] = random.choice(rows if len(rows) else len(have), int((want == one).sum()))
    p = np.clip(predicted.to_numpy()[row], 1e-7, 1 - 1e-7)
    return probabilities(np.log(p / (1 - p)) + noise)


def _real(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    predicted = pd.read_csv(folder / "predictions" / "resnet50_holdout.csv.gz").set_index("Image")[list(LABELS)]
    table = read_labels(label_file(folder))
    return pd.DataFrame(table.values, index=table.ids, columns=list(LABELS)).loc[predicted.index], predicted


if __name__ == "__main__":
    main()
