"""The solvers of blends and logistic regressions, compared with those of SciPy and scikit-learn.

python benchmarks/solvers.py [--quick] [--json FILE]

The problems are those of a blend of 4 and 8 members at the size of the RSNA training set and at 100,000 slices. Labels
and predictions are those of `evaluation.py`. `docs/decisions` draws the conclusions.
"""

import time
import warnings
from collections.abc import Callable
from functools import partial

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
from ichx.evaluation.metric import probabilities, score
from ichx.labels import LABELS

SIZES, COUNTS, FOLDS, HARD = (100_000, 752_803), (4, 8), 5, 300
QUICK_SIZES, QUICK_COUNTS = (20_000,), (4,)
REPETITIONS = 3

Solver = Callable[[FloatArray, list[FloatArray]], FloatArray]
Runs = dict[str, Callable[[], FloatArray]]


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
        figures += hard_figures()
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


SOLVERS: dict[str, Solver] = {"ichx": newton, "SLSQP": slsqp, "trust-constr": trust_constr}


def blend_figures(labels: FloatArray, members: list[FloatArray]) -> list[Figure]:
    size = f"{len(labels):,} x {len(members)} members"
    weights, seconds = _alternate({name: partial(solver, labels, members) for name, solver in SOLVERS.items()})
    q, a = blend.truth_probabilities(labels, members)
    figures = [_figure(f"ichx, {size}: certificate", _certificate(q, a, weights["ichx"]), "the optimum")]
    for name in ("SLSQP", "trust-constr"):
        what, w = f"{name}, {size}", weights[name]
        gap = _loss_and_gradient(q, a, w)[0] - _loss_and_gradient(q, a, weights["ichx"])[0]
        figures += [
            _ratio(f"{what}: CPU time", seconds, name),
            _figure(f"{what}: weights differ by", float(np.abs(w - weights["ichx"]).max()), "ichx"),
            _figure(f"{what}: loss above", gap, "ichx"),
            _figure(f"{what}: certificate", _certificate(q, a, w), "the optimum"),
        ]
    return figures


def hard_figures() -> list[Figure]:
    """Return the share of small problems that a solver leaves above the certificate.

    They have few slices, useless, equal or nearly perfect members, or certain and wrong predictions.
    """
    random, missed = np.random.default_rng(0), dict.fromkeys(SOLVERS, 0)
    for problem in range(HARD):
        slices, count = int(random.integers(1, 400)), int(random.integers(2, 12))
        labels = (random.random((slices, 6)) < random.choice([0, 0.01, 0.3, 1.0])).astype(float)
        members = [
            probabilities((labels - 0.5) * skill + random.normal(-0.5, 1, labels.shape))
            for skill in random.uniform(-4, 12, count)
        ]
        if problem % 3 == 0:
            members = [np.where(np.abs(p - 0.5) > 0.45, np.round(p), p) for p in members]
        if problem % 5 == 0:
            members[1] = members[0].copy()
        q, a = blend.truth_probabilities(labels, members)
        for name, solver in SOLVERS.items():
            missed[name] += _certificate(q, a, solver(labels, members)) > blend.GAP
    return [_figure(f"{name}: hard problems missed", missed[name], f"{HARD} problems") for name in SOLVERS]


def nested_figures(labels: FloatArray, members: list[FloatArray], folds: npt.NDArray[np.int16]) -> list[Figure]:
    """Return the nested scores of convex blends with each solver."""
    scores = {}
    for name, solver in SOLVERS.items():
        mixed = np.empty_like(labels)
        for fold in range(FOLDS):
            held = folds == fold
            weights = solver(labels[~held], [p[~held] for p in members])
            mixed[held] = blend.mix([p[held] for p in members], weights)
        scores[name] = score(labels, mixed)
    size = f"{len(labels):,} x {len(members)} members"
    return [
        _figure(f"{name}, {size}: nested score differs by", scores[name] - scores["ichx"], "ichx")
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

    runs: Runs = {
        "ichx": lambda: fit_logistic(features, y, towards=even),
        "scikit-learn newton-cholesky": partial(_scikit, x, y, "newton-cholesky"),
        "scikit-learn lbfgs": partial(_scikit, x, y, "lbfgs"),
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
        what, w = f"{name}, {len(y):,} x {len(features)}", weights[name]
        gradient, reference = (float(np.abs(ridge_problem(v)[1]).max()) for v in (w, weights["ichx"]))
        figures += [
            _ratio(f"{what}: CPU time", seconds, name),
            _figure(f"{what}: coefficients differ by", float(np.abs(w - weights["ichx"]).max()), "ichx"),
            _figure(f"{what}: gradient", gradient, f"ichx ({reference:.1e})"),
        ]
    return figures


def _scikit(x: FloatArray, y: FloatArray, solver: str) -> FloatArray:
    """Fit with a ridge towards zero: scikit-learn has no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            LogisticRegression(C=1.0, fit_intercept=False, solver=solver, tol=1e-10, max_iter=10_000).fit(x, y).coef_[0]
        )


def _certificate(q: FloatArray, a: FloatArray, w: FloatArray) -> float:
    return float(np.max(-_loss_and_gradient(q, a, w)[1]) - 1)


def _ratio(what: str, seconds: dict[str, float], name: str) -> Figure:
    return Figure(what, seconds[name] / seconds["ichx"], "x", f"ichx ({seconds['ichx']:.3g} s)", "", True)


def _figure(what: str, value: float, baseline: str) -> Figure:
    return Figure(what, value, "", baseline, "", True)


def _alternate(runs: Runs) -> tuple[dict[str, FloatArray], dict[str, float]]:
    """Return each run's result and the median of its CPU time; repetitions alternate between the runs."""
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
