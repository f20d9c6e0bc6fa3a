"""The nested score of a blend compared with its in-sample score and with its score on unseen patients, and its time.

python benchmarks/nested.py [--quick] [--json FILE]

Each repetition fits a blend on other patients of the cohort and scores it on the same 5,000 unseen patients. Compared
are gains over the mean of the members, which depend less on the patients than scores do. Labels and predictions are
those of `evaluation.py`.
"""

import time

import numpy as np
import numpy.typing as npt
import pandas as pd
from cohort import Cohort, data_folder, real_cohort, synthetic_cohort
from common import Figure, arguments, conclude
from evaluation import FloatArray, make_members
from threadpoolctl import threadpool_limits

from ichx.datasets.folds import assign_folds
from ichx.evaluation.choices import Method
from ichx.evaluation.metric import score
from ichx.evaluation.nested_score import BlendData, BlendOptions, BlendPipeline
from ichx.evaluation.series_neighbours import SeriesNeighbours

MEMBERS, FOLDS, UNSEEN = 8, 5, 5_000
SIZES, REPETITIONS, QUICK_REPETITIONS = (50, 200, 1000), 10, 2
METHODS: tuple[Method, ...] = ("auto", "stack")


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    members = make_members(cohort, folder, MEMBERS)
    patients = np.random.default_rng(0).permutation(np.unique(cohort.patients.astype(str)))
    unseen = blend_data(cohort, members, patients[:UNSEEN])
    figures = []
    with threadpool_limits(1, "blas"):
        for method in METHODS:
            for size in SIZES[:1] if options.quick else SIZES:
                repetitions = QUICK_REPETITIONS if options.quick else REPETITIONS
                parts = [patients[UNSEEN + k * size :][:size] for k in range(repetitions)]
                figures += compare(cohort, members, parts, unseen, method)
    conclude(figures, options)


def compare(
    cohort: Cohort, members: list[FloatArray], parts: list[npt.NDArray[np.str_]], unseen: BlendData, method: Method
) -> list[Figure]:
    """Return the excess of in-sample and nested gains over gains on unseen patients, and the time of nesting."""
    in_sample, nested, times = [], [], []
    for part in parts:
        pipeline = BlendPipeline(blend_data(cohort, members, part), BlendOptions(method, top=4, smooth=True))
        began = time.process_time()
        fitted = pipeline.fit()
        once = time.process_time() - began
        result = BlendPipeline(pipeline.data, pipeline.options).nested()
        times.append((time.process_time() - began) / once)
        assert result is not None
        real = gain(unseen, fitted.apply(dict(enumerate(unseen.members)), unseen.neighbours))
        in_sample.append(gain(pipeline.data, pipeline.apply(fitted)) - real)
        nested.append(gain(pipeline.data, result.predicted) - real)
    what = f"{method}, {len(parts[0])} patients"
    closer = abs(np.mean(nested)) <= abs(np.mean(in_sample))
    return [
        Figure(f"{what}: in-sample gain above", float(np.mean(in_sample)), "", _baseline(in_sample), "", True),
        Figure(
            f"{what}: nested gain above", float(np.mean(nested)), "", _baseline(nested), "closer to 0", bool(closer)
        ),
        Figure(f"{what}: CPU time with nested score", float(np.median(times)), "x", "one fit", "", True),
    ]


def gain(data: BlendData, predicted: FloatArray) -> float:
    """Return by how much the score of a blend is lower than that of the members' mean."""
    return score(data.labels, np.mean(data.members, axis=0)) - score(data.labels, predicted)


def _baseline(values: list[float]) -> str:
    return f"unseen patients, s.e. {np.std(values, ddof=1) / np.sqrt(len(values)):.1e}"


def blend_data(cohort: Cohort, members: list[FloatArray], patients: npt.NDArray[np.str_]) -> BlendData:
    """Return the slices of some patients, in folds."""
    rows = np.flatnonzero(np.isin(cohort.patients.astype(str), patients))
    code = pd.factorize(cohort.patients[rows])[0].astype(np.int64)
    labels = cohort.labels[rows].astype(np.float64)
    folds = assign_folds(cohort.images[rows], cohort.patients[rows], cohort.labels[rows], FOLDS, 0).astype(np.int64)
    neighbours = SeriesNeighbours(code, np.arange(len(rows)))
    return BlendData(tuple(p[rows] for p in members), labels, neighbours, code, folds)


if __name__ == "__main__":
    main()
