"""Blending at the size of the RSNA training set: the optimal weights against a search for them, nested, intervals, and
`ichx ensemble` from start to end.

python benchmarks/evaluation.py [--quick] [--json FILE]

With ICHX_TEST_DATA, labels are the real ones, on patients drawn from the metadata; the first member has a real model's
predictions, drawn for each slice from those of the slices with the same labels. The other members are made from it
with noise, temperature and confusions. These predictions are synthetic; without the data, all is.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from cohort import PATIENTS, Cohort, data_folder, label_file, real_cohort, synthetic_cohort
from common import Figure, arguments, conclude
from registered import add_cohort, add_finished

from ichx.datasets.folds import assign_folds
from ichx.datasets.label_csv import read_labels
from ichx.evaluation import blend
from ichx.evaluation.bootstrap import patient_bootstrap
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.nested_score import Folded, Options, Slices
from ichx.evaluation.predictions import VIEWS
from ichx.evaluation.series_neighbours import Heads
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.store import open_store
from ichx.workspace import init_workspace

FloatArray = npt.NDArray[np.float64]

SOLVE = """
import sys, time
from pathlib import Path
import numpy as np
from ichx.evaluation.blend import solve
folder, count = Path(sys.argv[1]), int(sys.argv[2])
labels = np.load(folder / "labels.npy")
members = [np.load(folder / f"{k}.npy") for k in range(count)]
began = time.perf_counter()
found = solve(labels, members)
seconds = time.perf_counter() - began
status = Path("/proc/self/status")
if status.exists():  # Linux counts the starting process's memory in ru_maxrss
    peak = 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
else:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seconds, peak / 2**30, found.certificate, found.loss)
"""
ENSEMBLE = """
import resource, sys
from ichx.cli.app import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20, file=sys.stderr)
"""
FEW, MANY, FOLDS, TRIALS, DRAWS = 4, 30, 5, 200, 1000
FEW_SECONDS, FEW_GIB, MANY_SECONDS, NESTED_TIMES, TRIALS_TIMES, BOOTSTRAP_SECONDS = 3.0, 2.0, 60.0, 5.0, 5.0, 30.0
ENSEMBLE_SECONDS, SMOOTH_SECONDS, ENSEMBLE_GIB = 60.0, 120.0, 4.0
QUICK = 0.05
"""Share of the slices of --quick."""


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    print(cohort.origin)
    if options.quick:
        cohort = _patients_first(cohort, QUICK)
    labels = cohort.labels.astype(np.float64)
    members = _members(labels, _resampled(labels, folder) if folder else _drawn(labels))
    size = f"{len(labels):,} x 6"
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "labels.npy", labels)
        for k, p in enumerate(members):
            np.save(Path(scratch) / f"{k}.npy", p)
        # What each is held against runs between its repetitions.
        few, nested, trials = [], [], []
        for repetition in range(3):
            few.append(_solve(scratch, FEW))
            nested.append((_convex(labels, members[:FEW]), _nested(cohort, labels, members[:FEW])))
            if repetition == 0:
                trials.append(_search(labels, members[:FEW]))
        many = _solve(scratch, MANY)
    seconds = float(np.median([s for s, *_ in few]))
    certificate, loss = max(c for _, _, c, _ in few), few[0][3]
    searched, best = trials[0]
    figures += [
        Figure(f"blend of {FEW}", seconds, "s", size, f"{FEW_SECONDS:g} s", seconds <= FEW_SECONDS),
        _peak(f"blend of {FEW}: peak memory", max(p for _, p, _, _ in few), size),
        Figure(f"blend of {FEW}: certificate", certificate, "", "the optimum", "1e-09", certificate <= blend.GAP),
        Figure(
            f"blend of {FEW}: faster",
            searched / seconds,
            "x",
            f"{TRIALS} Optuna trials ({searched:.3g} s)",
            f"{TRIALS_TIMES:g} x",
            searched >= TRIALS_TIMES * seconds,
        ),
        Figure(f"blend of {FEW}: score above", loss - best, "", f"the best trial ({best:.6f})", "0", loss <= best),
        Figure(f"blend of {MANY}", many[0], "s", size, f"{MANY_SECONDS:g} s", many[0] <= MANY_SECONDS),
        Figure(f"blend of {MANY}: certificate", many[2], "", "the optimum", "1e-09", many[2] <= blend.GAP),
    ]
    times = float(np.median([n / s for s, n in nested]))
    told = f"one blend ({np.median([s for s, _ in nested]):.3g} s)"
    figures.append(Figure(f"nested over {FOLDS} folds", times, "x", told, f"{NESTED_TIMES:g} x", times <= NESTED_TIMES))
    began = time.perf_counter()
    found = patient_bootstrap(labels, members[0], cohort.patients, draws=DRAWS)
    seconds = time.perf_counter() - began
    told = f"{DRAWS:,} draws, {found.patients:,} patients"
    figures.append(
        Figure("intervals, with AUC", seconds, "s", told, f"{BOOTSTRAP_SECONDS:g} s", seconds <= BOOTSTRAP_SECONDS)
    )
    with tempfile.TemporaryDirectory() as scratch:
        workspace = _registered(Path(scratch) / "workspace", cohort, members[:FEW])
        for asked, reach in (((), ENSEMBLE_SECONDS), (("--smooth",), SMOOTH_SECONDS)):
            figures += _ensemble(workspace, asked, size, reach)
    conclude(figures, options)


def _registered(root: Path, cohort: Cohort, members: list[FloatArray]) -> Path:
    """Return a workspace with the cohort and an experiment with these predictions for each of `members`."""
    workspace = init_workspace(root)
    with open_store(workspace) as store:
        data = add_cohort(workspace, store, cohort, FOLDS)
        for p in members:
            add_finished(workspace, store, data, "resnext50", {view: logits(p) for view in VIEWS})
    return root


def _ensemble(workspace: Path, asked: tuple[str, ...], size: str, reach: float) -> list[Figure]:
    """Return wall time and peak memory of a process that blends all experiments with the default pipeline."""
    command = [sys.executable, "-c", ENSEMBLE, "ensemble", "--top", str(FEW), "--json", *asked]
    began = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | {"ICHX_WORKSPACE": str(workspace)}, capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    told = json.loads(done.stdout)
    busy, peak = map(float, done.stderr.split()[-2:])
    print(
        f"{' '.join(command[3:])}: {told['choice']['method']}, {told['choice']['steps']}, processor time {busy:.1f} s"
    )
    name = " ".join(("ichx ensemble", *asked))
    return [
        Figure(name, seconds, "s", f"{size}, {FEW} members", f"{reach:g} s", seconds <= reach),
        Figure(f"{name}: peak memory", peak, "GiB", size, f"{ENSEMBLE_GIB:g} GiB", peak <= ENSEMBLE_GIB),
    ]


def _peak(name: str, gib: float, size: str) -> Figure:
    return Figure(name, gib, "GiB", size, f"{FEW_GIB:g} GiB", gib <= FEW_GIB)


def _solve(folder: str, members: int) -> tuple[float, float, float, float]:
    """Return seconds, peak GiB, certificate and loss of a process that blends the first `members` in `folder`."""
    command = [sys.executable, "-c", SOLVE, folder, str(members)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    seconds, peak, certificate, loss = map(float, done.stdout.split())
    return seconds, peak, certificate, loss


def _convex(labels: FloatArray, members: list[FloatArray]) -> float:
    began = time.perf_counter()
    blend.solve(labels, members)
    return time.perf_counter() - began


def _nested(cohort: Cohort, labels: FloatArray, members: list[FloatArray]) -> float:
    """Return the seconds to blend each fold with weights from the others, and to score that."""
    folds = assign_folds(cohort.images, cohort.patients, cohort.labels, FOLDS, 0).astype(np.int64)
    patients = pd.factorize(cohort.patients)[0].astype(np.int64)
    slices = Slices(tuple(members), labels, Heads(patients, np.arange(len(labels))), patients, folds)
    began = time.perf_counter()
    nested = Folded(slices, Options("convex", calibrate=False)).nested()
    assert nested is not None
    return time.perf_counter() - began


def _search(labels: FloatArray, members: list[FloatArray]) -> tuple[float, float]:
    """Return the seconds that Optuna's search for weights takes, and the lowest score that it finds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        weights = np.array([trial.suggest_float(f"w{k}", 0.0, 1.0) for k in range(len(members))])
        weights /= weights.sum()
        mixed = sum(w * p for w, p in zip(weights, members, strict=True))
        mixed = np.clip(mixed, 1e-15, 1 - 1e-15)
        losses = -np.where(labels == 1, np.log(mixed), np.log(1 - mixed)).mean(axis=0)
        return float(np.average(losses, weights=LABEL_WEIGHTS))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    began = time.perf_counter()
    study.optimize(objective, n_trials=TRIALS)
    seconds = time.perf_counter() - began
    found = np.array([study.best_params[f"w{k}"] for k in range(len(members))])
    return seconds, score(labels, blend.mix(members, found / found.sum()))


def _resampled(labels: FloatArray, folder: Path) -> FloatArray:
    """Return logits (N, 6): for each slice those of a real prediction for a slice with the same labels."""
    table = pd.read_csv(folder / "predictions" / "resnet50_holdout.csv.gz")
    known = read_labels(label_file(folder))
    row_of = {image: row for row, image in enumerate(known.images)}
    rows = [row_of[image] for image in table["Image"]]
    bits = 1 << np.arange(len(LABELS))
    sets, wanted = known.values[rows].astype(int) @ bits, labels.astype(int) @ bits
    real = logits(np.clip(table[list(LABELS)].to_numpy(np.float64), 1e-9, 1 - 1e-9))
    random, drawn = np.random.default_rng(0), np.empty(len(labels), np.int64)
    for labelled in np.unique(wanted):
        places = np.flatnonzero(wanted == labelled)
        among = np.flatnonzero(sets == labelled)
        drawn[places] = random.choice(among if len(among) else np.arange(len(real)), len(places))
    return real[drawn]


def _drawn(labels: FloatArray) -> FloatArray:
    random = np.random.default_rng(0)
    return 6 * labels - 5 + random.normal(0, 1.8, labels.shape)


def _members(labels: FloatArray, first: FloatArray) -> list[FloatArray]:
    """Return MANY members: `first`, and variants with noise, a temperature, and logits confused with other labels'."""
    random, made = np.random.default_rng(1), [probabilities(first)]
    for k in range(1, MANY):
        noise, temperature, confusion = 0.3 + 0.05 * k, 1.0 + 0.02 * (k % 7), 0.03 * (k % 4)
        other = np.ascontiguousarray(first[:, random.permutation(len(LABELS))])
        mixed = (1 - confusion) * first + confusion * other + random.normal(0, noise, first.shape)
        made.append(probabilities(mixed / temperature))
    return made


def _patients_first(cohort: Cohort, share: float) -> Cohort:
    """Return the slices of a share of the patients."""
    names = np.unique(cohort.patients.astype(str))
    few = np.isin(cohort.patients.astype(str), names[: round(share * PATIENTS)])
    return Cohort(cohort.images[few], cohort.patients[few], cohort.labels[few], cohort.origin)


if __name__ == "__main__":
    main()
