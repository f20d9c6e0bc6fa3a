"""The nested score of a blend compared with its in-sample score and with its score on unseen patients, and its time.

python benchmarks/nested.py [--quick] [--json FILE]

2,000 patients are split into parts. A blend is fitted on each part and scored on all other patients. Compared are gains
over the mean of the members, which depend less on the patients than scores do. Labels and predictions are those of
`evaluation.py`.
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

MEMBERS, FOLDS = 8, 5
PATIENTS, SIZES = 2_000, (50, 200, 1_000)
QUICK_PATIENTS, QUICK_SIZES = 400, (50,)
METHODS: tuple[Method, ...] = ("auto", "stack")


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    members = make_members(cohort, folder, MEMBERS)
    count, sizes = (QUICK_PATIENTS, QUICK_SIZES) if options.quick else (PATIENTS, SIZES)
    patients = np.random.default_rng(0).permutation(pd.unique(cohort.patients))[:count]
    rows = np.flatnonzero(pd.Series(cohort.patients).isin(patients))
    cohort = Cohort(cohort.images[rows], cohort.patients[rows], cohort.labels[rows], cohort.origin)
    members = [p[rows] for p in members]
    figures = []
    with threadpool_limits(1, "blas"):
        for method in METHODS:
            for size in sizes:
                figures += compare(cohort, members, np.split(patients, count // size), method)
    conclude(figures, options)


def compare(
    cohort: Cohort, members: list[FloatArray], parts: list[npt.NDArray[np.object_]], method: Method
) -> list[Figure]:
    """Return the excess of in-sample and nested gains over gains on unseen patients, and the time of nesting."""
    in_sample, nested, times = [], [], []
    for k, part in enumerate(parts):
        unseen = blend_data(cohort, members, np.concatenate(parts[:k] + parts[k + 1 :]))
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
    baseline = f"that on unseen patients, {len(parts)} parts"
    closer = abs(np.mean(nested)) <= abs(np.mean(in_sample))
    return [
        Figure(f"{what}: in-sample gain above", float(np.mean(in_sample)), "", baseline, "", True),
        Figure(f"{what}: nested gain above", float(np.mean(nested)), "", baseline, "closer to 0", bool(closer)),
        Figure(f"{what}: CPU time with nested score", float(np.median(times)), "x", "one fit", "", True),
    ]


def gain(data: BlendData, predicted: FloatArray) -> float:
    """Return by how much the score of a blend is lower than that of the members' mean."""
    return score(data.labels, np.mean(data.members, axis=0)) - score(data.labels, predicted)


def blend_data(cohort: Cohort, members: list[FloatArray], patients: npt.NDArray[np.object_]) -> BlendData:
    """Return the slices of some patients, in folds."""
    rows = np.flatnonzero(pd.Series(cohort.patients).isin(patients))
    code = pd.factorize(cohort.patients[rows])[0].astype(np.int64)
    labels = cohort.labels[rows].astype(np.float64)
    folds = assign_folds(cohort.images[rows], cohort.patients[rows], cohort.labels[rows], FOLDS, 0).astype(np.int64)
    neighbours = SeriesNeighbours(code, np.arange(len(rows)))
    return BlendData(tuple(p[rows] for p in members), labels, neighbours, code, folds)


if __name__ == "__main__":
    main()
