"""The solvers of blends and logistic regressions, compared with those of SciPy and scikit-learn.

python benchmarks/solvers.py [--quick] [--json FILE]

The problems are those of a blend of 4 and 8 members at the size of the RSNA training set and at 100,000 slices. Labels
and predictions are those of `evaluation.py`. `docs/decisions` draws the conclusions.
"""

import time
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from cohort import data_folder, real_cohort, synthetic_cohort
from common import Figure, arguments, conclude
from evaluation import FloatArray, make_members
from scipy.optimize import Bounds, LinearConstraint, minimize
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ichx.datasets.folds import assign_folds
from ichx.evaluation import blend
from ichx.evaluation.logistic import fit_logistic, logits
from ichx.evaluation.metric import score
from ichx.labels import LABELS

SIZES, COUNTS, FOLDS = (100_000, 752_803), (4, 8), 5
QUICK_SIZES, QUICK_COUNTS = (20_000,), (4,)
REPETITIONS = 3

Solver = Callable[[FloatArray, list[FloatArray]], FloatArray]


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    sizes, counts = (QUICK_SIZES, QUICK_COUNTS) if options.quick else (SIZES, COUNTS)
    members = make_members(cohort, folder, max(counts))
    figures = []
    with threadpool_limits(1, "blas"):  # for all solvers, as ichx uses one thread
        for size in sizes:
            for count in counts:
                figures += blend_figures(cohort.labels[:size].astype(np.float64), [p[:size] for p in members[:count]])
        labels, few = cohort.labels[: sizes[0]].astype(np.float64), [p[: sizes[0]] for p in members[:4]]
        folds = assign_folds(cohort.images[: sizes[0]], cohort.patients[: sizes[0]], labels, FOLDS, 0)
        figures += nested_figures(labels, few, folds)
        for count in (1, 4):
            figures += logistic_figures(labels, few[:count])
    conclude(figures, options)


def newton(labels: FloatArray, members: list[FloatArray]) -> FloatArray:
    return blend.solve(labels, members).weights


def slsqp(labels: FloatArray, members: list[FloatArray]) -> FloatArray:
    q, a = blend.truth_probabilities(labels, members)
    count = len(members)
    found = minimize(
        lambda w: _loss_and_gradient(q, a, w),
        np.full(count, 1 / count),
        jac=True,
        method="SLSQP",
        bounds=Bounds(0, 1),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return np.maximum(found.x, 0) / np.maximum(found.x, 0).sum()


def trust_constr(labels: FloatArray, members: list[FloatArray]) -> FloatArray:
    q, a = blend.truth_probabilities(labels, members)
    count = len(members)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "delta_grad == 0.0"
        found = minimize(
            lambda w: _loss_and_gradient(q, a, w),
            np.full(count, 1 / count),
            jac=True,
            hess=lambda w: (q * (a / (q @ w) ** 2)[:, None]).T @ q,
            method="trust-constr",
            bounds=Bounds(1e-15, 1),
            constraints=LinearConstraint(np.ones(count), 1, 1),
            options={"gtol": 1e-10, "xtol": 1e-14, "barrier_tol": 1e-12, "maxiter": 1000},
        )
    return np.maximum(found.x, 0) / np.maximum(found.x, 0).sum()


def _loss_and_gradient(q: FloatArray, a: FloatArray, w: FloatArray) -> tuple[float, FloatArray]:
    mixed = np.maximum(q @ w, 1e-300)
    return -float(a @ np.log(mixed)), -(q.T @ (a / mixed))


def blend_figures(labels: FloatArray, members: list[FloatArray]) -> list[Figure]:
    size = f"{len(labels):,} x {len(members)} members"
    solvers: dict[str, Solver] = {"ichx": newton, "SLSQP": slsqp, "trust-constr": trust_constr}
    weights, seconds = _alternate({name: lambda s=s: s(labels, members) for name, s in solvers.items()})
    q, a = blend.truth_probabilities(labels, members)
    losses = {name: _loss_and_gradient(q, a, w)[0] for name, w in weights.items()}
    figures = []
    for name in solvers:
        certificate = float(np.max(-_loss_and_gradient(q, a, weights[name])[1]) - 1)
        what = f"{name}, {size}"
        if name != "ichx":
            ratio, difference = seconds[name] / seconds["ichx"], float(np.abs(weights[name] - weights["ichx"]).max())
            baseline = f"ichx ({seconds['ichx']:.3g} s)"
            figures.append(Figure(f"{what}: time", ratio, "x", baseline, ">= 1 x", ratio >= 1))
            figures.append(Figure(f"{what}: weights differ by", difference, "", "ichx", "", True))
            gap = losses[name] - losses["ichx"]
            figures.append(Figure(f"{what}: loss above", gap, "", "ichx", ">= -1e-9", gap >= -1e-9))
        figures.append(Figure(f"{what}: certificate", certificate, "", "the optimum", "", True))
    return figures


def nested_figures(labels: FloatArray, members: list[FloatArray], folds: npt.NDArray[np.int16]) -> list[Figure]:
    """Return the nested scores of convex blends with each solver."""
    scores = {}
    for name, solver in {"ichx": newton, "SLSQP": slsqp, "trust-constr": trust_constr}.items():
        mixed = np.empty_like(labels)
        for fold in range(FOLDS):
            held = folds == fold
            weights = solver(labels[~held], [p[~held] for p in members])
            mixed[held] = blend.mix([p[held] for p in members], weights)
        scores[name] = score(labels, mixed)
    size = f"{len(labels):,} x {len(members)} members"
    return [
        Figure(f"{name}, {size}: nested score differs by", scores[name] - scores["ichx"], "", "ichx", "", True)
        for name in ("SLSQP", "trust-constr")
    ]


def logistic_figures(labels: FloatArray, members: list[FloatArray]) -> list[Figure]:
    """Return figures of a regression of `any` on the members' logits of all labels and a constant."""
    y = labels[:, -1]
    features = [logits(p)[:, k] for p in members for k in range(len(LABELS))] + [np.ones(len(y))]
    x = np.stack(features, axis=1)
    even = np.zeros(len(features))
    even[len(LABELS) - 1 : -1 : len(LABELS)] = 1 / len(members)

    def ridge_problem(w: FloatArray) -> tuple[float, FloatArray]:
        z = x @ w
        away = w - even
        value = float(np.logaddexp(0, z).mean() - (y * z).mean()) + 0.5 / len(y) * float(away @ away)
        return value, x.T @ (1 / (1 + np.exp(-z)) - y) / len(y) + away / len(y)

    runs: dict[str, Callable[[], FloatArray]] = {
        "ichx": lambda: fit_logistic(features, y, towards=even),
        "scikit-learn newton-cholesky": lambda: _scikit(x, y, "newton-cholesky"),
        "scikit-learn lbfgs": lambda: _scikit(x, y, "lbfgs"),
        "SciPy L-BFGS-B": lambda: (
            minimize(
                ridge_problem,
                even,
                jac=True,
                method="L-BFGS-B",
                options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10_000},
            ).x
        ),
    }
    weights, seconds = _alternate(runs)
    figures = []
    for name in list(runs)[1:]:
        what = f"{name}, {len(y):,} x {len(features)} features"
        ratio, difference = seconds[name] / seconds["ichx"], float(np.abs(weights[name] - weights["ichx"]).max())
        baseline = f"ichx ({seconds['ichx']:.3g} s)"
        figures.append(Figure(f"{what}: time", ratio, "x", baseline, ">= 1 x", ratio >= 1))
        figures.append(Figure(f"{what}: coefficients differ by", difference, "", "ichx", "", True))
        gradient = float(np.abs(ridge_problem(weights[name])[1]).max())
        reference = float(np.abs(ridge_problem(weights["ichx"])[1]).max())
        figures.append(Figure(f"{what}: gradient", gradient, "", f"ichx ({reference:.1e})", "", True))
    return figures


def _scikit(x: FloatArray, y: FloatArray, solver: str) -> FloatArray:
    """Fit with a ridge towards zero: scikit-learn has no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            LogisticRegression(C=1.0, fit_intercept=False, solver=solver, tol=1e-10, max_iter=10_000).fit(x, y).coef_[0]
        )


def _alternate(runs: dict[str, Callable[[], FloatArray]]) -> tuple[dict[str, FloatArray], dict[str, float]]:
    """Return each run's result and the median of its seconds; repetitions alternate between the runs."""
    results: dict[str, FloatArray] = {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPETITIONS):
        for name, run in runs.items():
            began = time.process_time()
            results[name] = run()
            seconds[name].append(time.process_time() - began)
    return results, {name: float(np.median(times)) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
