"""Labels of the phantom against those of real readers: studies without a bleed, runs of positive slices, holes in them.

python benchmarks/phantom_labels.py [--quick] [--json FILE]

A run is a series of adjacent slices with the label, a hole a single slice without it between two runs. The real values
come from the headers and labels in ICHX_TEST_DATA, without series whose steps vary: there, slices of several scans
alternate. Without that folder, the values that this script has measured on it are the baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from cohort import data_folder
from common import Figure, arguments, conclude

from ichx.labels import LABELS
from ichx.phantom.study import make_study
from ichx.worker_pool import map_in_processes, worker_count

IntArray = npt.NDArray[np.int64]

STUDIES, QUICK_STUDIES, SIZE, SEED = 600, 90, 64, 3
EVEN = 0.4
"""Largest relative difference between the steps of a series and their median."""


@dataclass(frozen=True)
class Flicker:
    """How labels vary along series."""

    negative: float
    """Share of the studies without the label."""
    runs: float
    """Runs per study with the label."""
    holes: float
    """Holes per run."""


MEASURED = {"any": Flicker(0.58, 1.31, 0.094), "subtypes": Flicker(0.83, 1.23, 0.073)}
"""Real readers; for subtypes the mean over the five."""


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    real = MEASURED if folder is None else _summary(_real_series(folder))
    count = QUICK_STUDIES if options.quick else STUDIES
    phantom = _summary([labels for _, labels in sorted(_phantom(count), key=lambda item: item[0])])
    margin = 4.0 if options.quick else 1.5
    figures = []
    for name, wanted in real.items():
        found = phantom[name]
        for what, value, target in (
            ("runs per positive study", found.runs, wanted.runs - 1),
            ("one-slice holes per run", found.holes, wanted.holes),
        ):
            excess = value - 1 if what.startswith("runs") else value
            met = target / margin <= excess <= target * margin
            shown = target + 1 if what.startswith("runs") else target
            figures.append(Figure(f"{name}: {what}", value, "", f"real {shown:.3f}", f"within {margin:g} x", met))
    share, wanted_share = phantom["any"].negative, real["any"].negative
    figures.append(
        Figure(
            "studies without a bleed",
            share,
            "",
            f"real {wanted_share:.2f}",
            "within 0.15",
            abs(share - wanted_share) <= 0.15,
        )
    )
    conclude(figures, options)


def _phantom(count: int) -> list[tuple[int, IntArray]]:
    return list(map_in_processes(_labels, list(range(count)), worker_count(None, count)))


def _labels(patient: int) -> tuple[int, IntArray]:
    return patient, make_study(SEED, patient, size=SIZE).labels.astype(np.int64)


def _real_series(folder: object) -> list[IntArray]:
    table = pd.read_csv(f"{folder}/metadata/slices_78545.csv.gz")
    table = table.sort_values(["StudyInstanceUID", "SeriesInstanceUID", "ImagePositionPatient_3"])
    found = []
    for _, rows in table.groupby(["StudyInstanceUID", "SeriesInstanceUID"]):
        steps = np.diff(rows["ImagePositionPatient_3"].to_numpy())
        if len(steps) > 5 and (np.abs(steps / np.median(steps) - 1) <= EVEN).all():
            found.append(rows[list(LABELS)].to_numpy(np.int64))
    return found


def _summary(series: Sequence[IntArray]) -> dict[str, Flicker]:
    by_label = [_flicker([labels[:, k] for labels in series]) for k in range(len(LABELS))]
    subtypes = np.mean([(f.negative, f.runs, f.holes) for f in by_label[:-1]], axis=0)
    return {"any": by_label[-1], "subtypes": Flicker(*map(float, subtypes))}


def _flicker(series: Sequence[IntArray]) -> Flicker:
    runs = holes = positive = 0
    for labels in series:
        edges = np.diff(labels, prepend=0, append=0)
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        positive += bool(len(starts))
        runs += len(starts)
        holes += int((starts[1:] - ends[:-1] == 1).sum())
    return Flicker(1 - positive / len(series), runs / max(positive, 1), holes / max(runs, 1))


if __name__ == "__main__":
    main()
