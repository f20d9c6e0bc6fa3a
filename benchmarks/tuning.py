"""Tuning: gain of a study over a plugin's own recipe on other folds, overhead of a trial, and losses through kills.

    python benchmarks/tuning.py [--quick] [--json FILE]

The commands run as processes, on a phantom and the CPU. `--quick` uses fewer patients, trials, seeds and kills, and
omits random search. It takes about two minutes, because it
starts a dozen trainings and as many other commands in sequence.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common import Figure, arguments, conclude
from optuna_studies import (
    constant_prevalence,
    finished_trials,
    kill_often,
    make_workspace,
    read_json,
    register_own,
    register_recipe,
    register_tiny,
    run_ichx,
    trial_recipes,
)

from ichx.evaluation.oof import read_oof
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

SHORT = ("stage.balanced.epochs=1", "stage.rebalanced.epochs=1", "stage.full.epochs=1")
FEW = 9
"""Stages and patients of short trainings, whose surroundings are measured."""

OVERHEAD = 3.0
"""Target for the seconds of a trial in addition to the run of its fold."""


@dataclass(frozen=True)
class Size:
    """Amount of work."""

    patients: int
    """Patients of the dataset on which better values are searched."""
    seeds: tuple[int, ...]
    trials: int
    other_folds: tuple[int, ...]
    """Folds on which the promoted experiments are compared."""
    samplers: tuple[str, ...]
    timed: int
    """Trials of a study whose overhead is measured."""
    repetitions: int
    kills: int
    killed_trials: int
    """Trials of the killed study."""


FULL = Size(
    patients=30,
    seeds=(0, 1, 2),
    trials=30,
    other_folds=(1, 2),
    samplers=("tpe", "random"),
    timed=4,
    repetitions=3,
    kills=20,
    killed_trials=20,
)
QUICK = Size(
    patients=FEW,
    seeds=(0,),
    trials=2,
    other_folds=(1,),
    samplers=("tpe",),
    timed=2,
    repetitions=1,
    kills=2,
    killed_trials=2,
)


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    options = arguments(__doc__)
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as scratch:
        few = make_workspace(Path(scratch, "few"), FEW)
        root = few if size.patients == FEW else make_workspace(Path(scratch, "all"), size.patients)
        figures = measure_gains(root, size)
        short = register_tiny(few, SHORT)
        run_ichx(few, "data", "cache", "phantom", "--for", short)
        more, seconds = measure_overhead(few, short, size)
        figures += more + measure_kills(few, short, size, seconds)
    conclude(figures, options)


@dataclass(frozen=True)
class Search:
    """A study and its promoted trial."""

    promoted: int | None
    """Experiment that the best trial was promoted to; None if the best trial is the unchanged recipe."""
    seconds: float
    states: str
    """Number of trials in each state."""


@dataclass(frozen=True)
class Gain:
    """A promoted trial compared with the unchanged recipe on folds that were not used for tuning."""

    value: float = 0.0
    """Improvement of the calibrated score; 0 if the best trial is the unchanged recipe."""
    low: float | None = None
    """Bounds of its paired 95 % interval over patients."""
    high: float | None = None
    scores: str = "the best trial is the unchanged recipe"

    @property
    def interval(self) -> str:
        """The interval in words."""
        return "no interval" if self.low is None else f"{self.low:+.4f} to {self.high:+.4f}"

    @property
    def not_worse(self) -> bool:
        """Whether the interval does not lie below 0."""
        return self.high is None or self.high >= 0


def measure_gains(root: Path, size: Size) -> list[Figure]:
    """Tune the plugin's own recipe with each sampler and seed; compare on folds that were not used for tuning."""
    figures: list[Figure] = []
    gains: dict[str, list[float]] = {}
    for seed in size.seeds:
        own = register_own(root, seed)
        searches = {name: search(root, own, size.trials, name) for name in size.samplers}
        numbers = sorted({found.promoted for found in searches.values() if found.promoted is not None})
        folds = [part for fold in size.other_folds for part in ("--fold", fold)]
        run_ichx(root, "run", own, *numbers, *folds, "--jobs", 2, "--device", "cpu")
        for name, found in searches.items():
            gain = _gain(read_json(root, "tune", "show", own, "--study", name), found.promoted)
            gains.setdefault(name, []).append(gain.value)
            figures += [
                Figure(
                    f"seed {seed}, {name}: improvement on the other folds, {gain.interval}",
                    gain.value,
                    "",
                    f"the plugin's recipe, {gain.scores}",
                    "interval not below 0",
                    gain.not_worse,
                ),
                Figure(f"its {size.trials} trials, 2 at a time: {found.states}", found.seconds, "s", "-", "-", True),
            ]
            print(
                f"seed {seed}, {name}: {gain.value:+.5f} ({gain.interval}), {gain.scores}; "
                f"{found.states} in {found.seconds:.0f} s",
                flush=True,
            )
        if seed == size.seeds[0]:
            figures.append(_better_than_constant(root, own, size))
    means = {name: statistics.mean(values) for name, values in gains.items()}
    for name, mean in means.items():
        required = name == "tpe" and len(size.seeds) > 1
        target = "above 0" if required else "-"
        figures.append(Figure(f"{name}: mean improvement", mean, "", "-", target, mean > 0 or not required))
    if "random" in means:
        figures.append(Figure("tpe compared with random search", means["tpe"] - means["random"], "", "-", "-", True))
    return figures


def search(root: Path, own: int, trials: int, sampler: str) -> Search:
    """Run a study of the experiment `own` and promote its best trial."""
    began = time.perf_counter()
    options = ("--sampler", sampler, "--study", sampler, "--no-warm-start", "--device", "cpu")
    study = read_json(root, "tune", own, "--trials", trials, "--jobs", 2, *options)
    seconds = time.perf_counter() - began
    states = [trial["state"] for trial in study["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    best = study["best"]
    promoted = None if best["baseline"] else int(read_json(root, "exp", "promote", best["experiment"])["number"])
    return Search(promoted, seconds, counts)


def _gain(view: Any, promoted: int | None) -> Gain:
    """Return the gain of the experiment `promoted` in the results `view` of its study."""
    entry = next((p for p in view["promoted"] if p["experiment"] == promoted), None)
    if entry is None:
        return Gain()
    found = entry["calibrated"]
    scores = f"{found['parent_score']:.4f}; tuned: {found['score']:.4f}"
    scores += f" (not calibrated: {entry['parent_score']:.4f}, {entry['score']:.4f})"
    return Gain(found["better_by"], found["low"], found["high"], scores)


def _better_than_constant(root: Path, own: int, size: Size) -> Figure:
    """Return the score of the plugin's own recipe on the other folds, compared with that of constant prevalences."""
    with open_store(open_workspace(root)) as store:
        table = read_oof(Project(open_workspace(root), store), store.experiment(own), only=size.other_folds)
        constant = constant_prevalence(Project(open_workspace(root), store), size.other_folds)
    name = "the plugin's recipe on the other folds"
    return Figure(name, table.score, "", f"constant prevalence, {constant:.4f}", "lower", table.score < constant)


class Times(NamedTuple):
    """Seconds of wall-clock time, and of processor time, which depends less on the load of the machine."""

    wall: float
    processor: float


def measure_overhead(root: Path, short: int, size: Size) -> tuple[list[Figure], float]:
    """Compare studies with runs of the same recipes, alternating; both use an existing cache.

    The second value is the number of seconds that a trial takes.
    """
    studies: list[Times] = []
    runs: list[Times] = []
    for repetition in range(size.repetitions):
        tune = _tune(short, f"timed-{repetition}", size.timed)
        if repetition % 2 == 0:
            studies.append(_timed(root, tune))
        numbers = [register_recipe(root, recipe) for recipe in trial_recipes(root, short, "timed-0")]
        runs.append(_timed(root, *(("run", number, "--fold", 0, "--device", "cpu") for number in numbers)))
        if repetition % 2 == 1:
            studies.append(_timed(root, tune))
        if trial_recipes(root, short, f"timed-{repetition}") != trial_recipes(root, short, "timed-0"):
            raise SystemExit("two studies with the same seed have different recipes and cannot be compared")
    print(f"{size.timed} trials: {_format_times(studies)}; only the runs: {_format_times(runs)}", flush=True)
    each = [
        ((s.wall - r.wall) / size.timed, (s.processor - r.processor) / size.timed)
        for s, r in zip(studies, runs, strict=True)
    ]
    wall, processor = (statistics.median(one) for one in zip(*each, strict=True))
    alone = statistics.median(run.wall for run in runs) / size.timed
    baseline = f"`ichx run N --fold 0`, {alone:.1f} s"
    figures = [
        Figure("overhead of a trial", wall, "s", baseline, f"{OVERHEAD:g} s", wall <= OVERHEAD),
        Figure("the same in processor time", processor, "s", "-", "-", True),
    ]
    return figures, statistics.median(study.wall for study in studies) / size.timed


def _tune(number: int, study: str, trials: int) -> tuple[object, ...]:
    options = ("--no-warm-start", "--pruner", "none", "--device", "cpu")
    return ("tune", number, "--study", study, "--trials", trials, *options)


def _timed(root: Path, *commands: Sequence[object]) -> Times:
    """Run commands in sequence; return their times, including all processes that they start."""
    began, before = time.perf_counter(), os.times()
    for command in commands:
        run_ichx(root, *command)
    after = os.times()
    processor = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return Times(time.perf_counter() - began, processor)


def _format_times(times: Sequence[Times]) -> str:
    return ", ".join(f"{one.wall:.1f} s ({one.processor:.1f} s of processor time)" for one in times)


def measure_kills(root: Path, short: int, size: Size, seconds: float) -> list[Figure]:
    """Compare a study that is killed often with the first one of `measure_overhead`, continued to as many trials.

    Args:
        root: Workspace.
        short: Number of the tuned experiment.
        size: Amount of work.
        seconds: Approximate time of a trial.
    """
    trials = size.killed_trials
    if trials > size.timed:
        run_ichx(root, *_tune(short, "timed-0", trials))
    report = kill_often(root, short, _tune(short, "killed", trials), kills=size.kills, span=1.5 * seconds)
    complete, killed = (finished_trials(root, f"experiment-{short}-{study}") for study in ("timed-0", "killed"))
    different = sum(killed.get(trial) != result for trial, result in complete.items())
    return [
        Figure("kills of a study", report.kills, "", "-", f"{size.kills}", report.kills >= size.kills),
        Figure("kills at the end of a training", report.at_end, "", "-", "-", True),
        Figure("finished trials lost or changed", report.lost, "", "before each kill", "0", report.lost == 0),
        Figure("trials with two experiments, or trained twice", report.repeated, "", "-", "0", not report.repeated),
        Figure("finished trials at the end", len(killed), "", "-", f"{trials}", len(killed) == trials),
        Figure("values or scores that differ by a bit", different, "", "a study without kills", "0", not different),
    ]


if __name__ == "__main__":
    main()
