"""Tuning: what a study finds, on folds that did not choose it; what a trial costs beside its training; what kills lose.

    python benchmarks/tuning.py [--quick] [--json FILE]

The commands are run as processes, on a phantom and the CPU. `--quick` takes fewer patients, trials, seeds and kills,
and leaves out the search by chance: its first ten trials are those of the default sampler. It takes about two minutes,
for a dozen trainings and as many other commands are started one after the other.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common import Figure, arguments, conclude
from optuna_studies import (
    finished_trials,
    kill_often,
    make_workspace,
    read_json,
    register_recipe,
    register_tiny,
    run_ichx,
    trial_recipes,
)

BAD = (
    "stage.balanced.lr=2e-3",
    "stage.rebalanced.lr=2e-3",
    "stage.full.lr=2e-3",
    "model.dropout=0.3",
    "augmentation.probability=1.0",
    "augmentation.rotate=45.0",
    "augmentation.shift=0.1",
    "augmentation.scale=0.2",
    "loss.label_smoothing=0.05",
)
"""What would hold back a large pretrained network: low rates, strong augmentation, dropout, smoothed labels.

Here a small network starts from random weights and sees few slices for five epochs: at a third of the plugin's rates it
comes less far, and what is held back had not been learned by heart. It trains all the same, and every epoch is better.
"""

SHORT = ("stage.balanced.epochs=1", "stage.rebalanced.epochs=1", "stage.full.epochs=1")
FEW = 9
"""Trainings that are over soon, and patients, where only what surrounds them is measured."""

OVERHEAD = 3.0
"""Seconds that a trial may cost beside the run of its fold."""


@dataclass(frozen=True)
class Size:
    """How much is done; `patients` are those that a better recipe is searched on."""

    patients: int
    seeds: tuple[int, ...]
    trials: int
    others: tuple[int, ...]
    chance: bool
    timed: int
    repetitions: int
    kills: int
    killed_trials: int


FULL = Size(
    patients=24,
    seeds=(0, 1, 2),
    trials=30,
    others=(1, 2),
    chance=True,
    timed=4,
    repetitions=3,
    kills=20,
    killed_trials=20,
)
QUICK = Size(
    patients=FEW, seeds=(0,), trials=2, others=(1,), chance=False, timed=2, repetitions=1, kills=2, killed_trials=2
)


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    options = arguments(__doc__)
    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as scratch:
        few = make_workspace(Path(scratch, "few"), FEW)
        short = register_tiny(few, SHORT)
        run_ichx(few, "data", "cache", "phantom", "--for", short)
        figures, seconds = cost(few, short, size)
        figures += kills(few, short, size, seconds)
        root = few if size.patients == FEW else make_workspace(Path(scratch, "all"), size.patients)
        for seed in size.seeds:
            figures += gain(root, seed, size)
    conclude(figures, options)


@dataclass(frozen=True)
class Found:
    """What a study came to: the experiment its best trial was `promoted` to, None where that is the recipe as it is."""

    promoted: int | None
    seconds: float
    states: str


def gain(root: Path, seed: int, size: Size) -> list[Figure]:
    """Tune the bad recipe, promote the best trial, and hold it against the bad one on the folds that did not choose."""
    bad = register_tiny(root, BAD, seed)
    studies: dict[str, tuple[str, ...]] = {"found by default": ()}
    if size.chance:
        studies["found by chance"] = ("--sampler", "random", "--study", "random")
    found = {what: search(root, bad, size.trials, more) for what, more in studies.items()}
    numbers = sorted({of.promoted for of in found.values() if of.promoted is not None})
    others = [part for fold in size.others for part in ("--fold", fold)]
    run_ichx(root, "run", bad, *numbers, *others, "--jobs", 2, "--device", "cpu")
    figures = []
    for what, of in found.items():
        shown = read_json(root, "tune", "show", bad, "--study", "random" if studies[what] else "")
        entry = next((p for p in shown["promoted"] if p["experiment"] == of.promoted), None)
        by = entry["parent_score"] - entry["score"] if entry else 0.0
        against = f"{entry['parent_score']:.4f}, its score {entry['score']:.4f}" if entry else "the best trial is it"
        required = what == "found by default"
        figures += [
            Figure(
                f"seed {seed}, {what}: better on the other folds by",
                by,
                "",
                f"the bad recipe, {against}",
                "above 0" if required else "-",
                by > 0 or not required,
            ),
            Figure(f"its {size.trials} trials, 2 at a time: {of.states}", of.seconds, "s", "-", "-", True),
        ]
        print(f"seed {seed}, {what}: {by:+.5f}, {against}; {of.states} in {of.seconds:.0f} s", flush=True)
    return figures


def search(root: Path, bad: int, trials: int, more: Sequence[str]) -> Found:
    """Run a study of the experiment `bad` and promote its best trial."""
    began = time.perf_counter()
    study = read_json(root, "tune", bad, "--trials", trials, "--jobs", 2, "--device", "cpu", *more)
    seconds = time.perf_counter() - began
    states = [trial["state"] for trial in study["trials"]]
    counted = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    best = study["best"]
    made = None if best["baseline"] else int(read_json(root, "exp", "promote", best["experiment"])["number"])
    return Found(made, seconds, counted)


class Times(NamedTuple):
    """Seconds that something took: on the clock, and of a processor, which others that use the machine change less."""

    wall: float
    processor: float


def cost(root: Path, short: int, size: Size) -> tuple[list[Figure], float]:
    """Hold studies against runs of the same recipes, each a process, in turn; the cache is there for both.

    Return also how many seconds a trial takes.
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
            raise SystemExit("two studies of the same seed have tried different recipes: there is nothing to compare")
    print(f"{size.timed} trials: {_listed(studies)}; the runs alone: {_listed(runs)}", flush=True)
    each = [
        ((s.wall - r.wall) / size.timed, (s.processor - r.processor) / size.timed)
        for s, r in zip(studies, runs, strict=True)
    ]
    whole, processor = (statistics.median(one) for one in zip(*each, strict=True))
    alone = statistics.median(run.wall for run in runs) / size.timed
    against = f"`ichx run N --fold 0`, {alone:.1f} s"
    figures = [
        Figure("a trial beside its run", whole, "s", against, f"{OVERHEAD:g} s", whole <= OVERHEAD),
        Figure("the same in processor time", processor, "s", "-", "-", True),
    ]
    return figures, statistics.median(study.wall for study in studies) / size.timed


def _tune(number: int, study: str, trials: int) -> tuple[object, ...]:
    return ("tune", number, "--study", study, "--trials", trials, "--pruner", "none", "--device", "cpu")


def _timed(root: Path, *commands: Sequence[object]) -> Times:
    """Return what the commands take one after the other, with all processes that they start."""
    began, before = time.perf_counter(), os.times()
    for command in commands:
        run_ichx(root, *command)
    after = os.times()
    processor = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return Times(time.perf_counter() - began, processor)


def _listed(times: Sequence[Times]) -> str:
    return ", ".join(f"{one.wall:.1f} s ({one.processor:.1f} s of a processor)" for one in times)


def kills(root: Path, short: int, size: Size, seconds: float) -> list[Figure]:
    """Hold a study that is killed often against the first one of `cost`, which goes on to as many trials.

    A trial takes about so many `seconds`.
    """
    trials = size.killed_trials
    if trials > size.timed:
        run_ichx(root, *_tune(short, "timed-0", trials))
    report = kill_often(root, short, _tune(short, "killed", trials), kills=size.kills, span=1.5 * seconds)
    whole, killed = (finished_trials(root, f"experiment-{short}-{study}") for study in ("timed-0", "killed"))
    different = sum(killed.get(trial) != of_trial for trial, of_trial in whole.items())
    return [
        Figure("kills of a study", report.kills, "", "-", f"{size.kills}", report.kills >= size.kills),
        Figure("kills right after a trial was trained", report.at_end, "", "-", "-", True),
        Figure("finished trials lost or changed", report.lost, "", "before each kill", "0", report.lost == 0),
        Figure("trials that are two experiments, or trained twice", report.repeated, "", "-", "0", not report.repeated),
        Figure("trials finished in the end", len(killed), "", "-", f"{trials}", len(killed) == trials),
        Figure("values or scores that differ by a bit", different, "", "a study never killed", "0", not different),
    ]


if __name__ == "__main__":
    main()
