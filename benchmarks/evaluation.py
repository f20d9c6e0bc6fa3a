"""Blending at the size of the RSNA training set: optimal weights compared with an Optuna search, the nested score, and
the complete `ichx ensemble`.

python benchmarks/evaluation.py [--quick] [--json FILE]

With ICHX_TEST_DATA, labels are real, on patients sampled from the metadata, and the first member has a real model's
predictions, sampled for each slice from slices with the same labels. The other members are copies of it with noise,
temperature and confusions. Without the data, labels and predictions are synthetic.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

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
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.nested_score import BlendData, BlendOptions, BlendPipeline
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.store import open_store
from ichx.views import DEFAULT_VIEWS as VIEWS
from ichx.workspace import init_workspace

FloatArray = npt.NDArray[np.float64]

PEAK = """
import resource
from pathlib import Path

def peak():  # GiB; on Linux, ru_maxrss includes the memory of the parent process
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
"""
SOLVE = f"""{PEAK}
import sys, time
import numpy as np
from ichx.evaluation.blend import solve
folder, count = Path(sys.argv[1]), int(sys.argv[2])
labels = np.load(folder / "labels.npy")
members = [np.load(folder / f"{{k}}.npy") for k in range(count)]
began = time.perf_counter()
found = solve(labels, members)
print(time.perf_counter() - began, peak(), found.certificate, found.loss)
"""
ENSEMBLE = f"""{PEAK}
import sys
from ichx.cli.app import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, peak(), file=sys.stderr)
"""
FEW, MANY, FOLDS, TRIALS = 4, 30, 5, 200
FEW_SECONDS, FEW_GIB, MANY_SECONDS, NESTED_TIMES, TRIALS_TIMES = 3.0, 2.0, 60.0, 5.0, 5.0
ENSEMBLE_SECONDS, SMOOTH_SECONDS, ENSEMBLE_GIB = 60.0, 120.0, 4.0
QUICK = 0.05
"""Share of the slices with --quick."""


def main() -> None:
    options = arguments(__doc__)
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    print(cohort.origin)
    if options.quick:
        cohort = _patients_first(cohort, QUICK)
    labels = cohort.labels.astype(np.float64)
    members = make_members(cohort, folder, MANY)
    size = f"{len(labels):,} x 6"
    figures = _blend_figures(cohort, labels, members, size)
    with tempfile.TemporaryDirectory() as scratch:
        workspace = _registered(Path(scratch) / "workspace", cohort, members[:FEW])
        for flags, target in (((), ENSEMBLE_SECONDS), (("--smooth",), SMOOTH_SECONDS)):
            figures += _ensemble(workspace, flags, size, target)
    conclude(figures, options)


def _blend_figures(cohort: Cohort, labels: FloatArray, members: list[FloatArray], size: str) -> list[Figure]:
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "labels.npy", labels)
        for k, p in enumerate(members):
            np.save(Path(scratch) / f"{k}.npy", p)
        few, convex, nested = [], [], []
        for _ in range(3):  # alternating, so that a loaded machine affects all
            few.append(_solve(scratch, FEW))
            convex.append(_convex(labels, members[:FEW]))
            nested.append(_nested(cohort, labels, members[:FEW]))
        search_seconds, best = _search(labels, members[:FEW])
        many = _solve(scratch, MANY)
    seconds = float(np.median([f.seconds for f in few]))
    peak, certificate, loss = max(f.peak for f in few), max(f.certificate for f in few), few[0].loss
    times, speedup = float(np.median(np.divide(nested, convex))), search_seconds / seconds
    search = f"{TRIALS} Optuna trials ({search_seconds:.3g} s)"
    return [
        Figure(f"blend of {FEW}", seconds, "s", size, f"{FEW_SECONDS:g} s", seconds <= FEW_SECONDS),
        Figure(f"blend of {FEW}: peak memory", peak, "GiB", size, f"{FEW_GIB:g} GiB", peak <= FEW_GIB),
        Figure(f"blend of {FEW}: certificate", certificate, "", "the optimum", "1e-09", certificate <= blend.GAP),
        Figure(f"blend of {FEW}: faster", speedup, "x", search, f"{TRIALS_TIMES:g} x", speedup >= TRIALS_TIMES),
        Figure(f"blend of {FEW}: score above", loss - best, "", f"the best trial ({best:.6f})", "0", loss <= best),
        Figure(f"blend of {MANY}", many.seconds, "s", size, f"{MANY_SECONDS:g} s", many.seconds <= MANY_SECONDS),
        Figure(
            f"blend of {MANY}: certificate", many.certificate, "", "the optimum", "1e-09", many.certificate <= blend.GAP
        ),
        Figure(
            f"nested over {FOLDS} folds",
            times,
            "x",
            f"one blend ({np.median(convex):.3g} s)",
            f"{NESTED_TIMES:g} x",
            times <= NESTED_TIMES,
        ),
    ]


class Solved(NamedTuple):
    """A blend in a process: peak memory in GiB."""

    seconds: float
    peak: float
    certificate: float
    loss: float


def _registered(root: Path, cohort: Cohort, members: list[FloatArray]) -> Path:
    """Return a workspace with the cohort and an experiment for each of the predictions `members`."""
    workspace = init_workspace(root)
    with open_store(workspace) as store:
        data = add_cohort(workspace, store, cohort, FOLDS)
        for p in members:
            add_finished(workspace, store, data, "resnext50", {view: logits(p) for view in VIEWS})
    return root


def _ensemble(workspace: Path, flags: tuple[str, ...], size: str, target_seconds: float) -> list[Figure]:
    """Return wall time and peak memory of a process that blends all experiments with the default pipeline."""
    command = [sys.executable, "-c", ENSEMBLE, "ensemble", "--top", str(FEW), "--json", *flags]
    began = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | {"ICHX_WORKSPACE": str(workspace)}, capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    choice = json.loads(done.stdout)["choice"]
    busy, peak = map(float, done.stderr.split()[-2:])
    print(f"{' '.join(command[3:])}: {choice['method']}, {choice['steps']}, processor time {busy:.1f} s")
    name = " ".join(("ichx ensemble", *flags))
    return [
        Figure(name, seconds, "s", f"{size}, {FEW} members", f"{target_seconds:g} s", seconds <= target_seconds),
        Figure(f"{name}: peak memory", peak, "GiB", size, f"{ENSEMBLE_GIB:g} GiB", peak <= ENSEMBLE_GIB),
    ]


def _solve(folder: str, members: int) -> Solved:
    """Blend the first `members` in `folder` in a process."""
    command = [sys.executable, "-c", SOLVE, folder, str(members)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    return Solved(*map(float, done.stdout.split()))


def _convex(labels: FloatArray, members: list[FloatArray]) -> float:
    began = time.perf_counter()
    blend.solve(labels, members)
    return time.perf_counter() - began


def _nested(cohort: Cohort, labels: FloatArray, members: list[FloatArray]) -> float:
    """Return the seconds to blend each fold with the weights of the others, and to score the result."""
    folds = assign_folds(cohort.images, cohort.patients, cohort.labels, FOLDS, 0).astype(np.int64)
    patients = pd.factorize(cohort.patients)[0].astype(np.int64)
    neighbours = SeriesNeighbours(patients, np.arange(len(labels)))
    data = BlendData(tuple(members), labels, neighbours, patients, folds)
    began = time.perf_counter()
    nested = BlendPipeline(data, BlendOptions("convex", calibrate=False)).nested()
    assert nested is not None
    return time.perf_counter() - began


def _search(labels: FloatArray, members: list[FloatArray]) -> tuple[float, float]:
    """Return the seconds of Optuna's search for weights, and the lowest score that it finds."""
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
    """Return logits (N, 6): for each slice a real prediction of a slice with the same labels."""
    table = pd.read_csv(folder / "predictions" / "resnet50_holdout.csv.gz")
    known = read_labels(label_file(folder))
    row_of = {image: row for row, image in enumerate(known.ids)}
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


def make_members(cohort: Cohort, folder: Path | None, count: int) -> list[FloatArray]:
    """Return `count` members: the first, and variants of it with noise, a temperature and confusions between labels."""
    labels = cohort.labels.astype(np.float64)
    first = _resampled(labels, folder) if folder else _drawn(labels)
    random, members = np.random.default_rng(1), [probabilities(first)]
    for k in range(1, count):
        noise, temperature, confusion = 0.3 + 0.05 * k, 1.0 + 0.02 * (k % 7), 0.03 * (k % 4)
        other = np.ascontiguousarray(first[:, random.permutation(len(LABELS))])
        mixed = (1 - confusion) * first + confusion * other + random.normal(0, noise, first.shape)
        members.append(probabilities(mixed / temperature))
    return members


def _patients_first(cohort: Cohort, share: float) -> Cohort:
    """Return the slices of a share of the patients."""
    names = np.unique(cohort.patients.astype(str))
    few = np.isin(cohort.patients.astype(str), names[: round(share * PATIENTS)])
    return Cohort(cohort.images[few], cohort.patients[few], cohort.labels[few], cohort.origin)


if __name__ == "__main__":
    main()
