"""A study: asks Optuna for values, has trials run side by side, and ends in good time. Asked again, it goes on.

What becomes of one trial is in `ichx.tuning.running`.
"""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.patient_subset import subset_folds
from ichx.errors import IchxError, raise_problems
from ichx.jobs import Engine
from ichx.jobs.resources import share_machine
from ichx.plugins import load_registry
from ichx.recipe import Recipe, settable
from ichx.recipe_text import from_toml
from ichx.tuning.default_space import default_space
from ichx.tuning.limits import Limits
from ichx.tuning.running import Running, TrialRunner
from ichx.tuning.sampling import SAMPLERS, make_sampler
from ichx.tuning.setup import OPTIONS
from ichx.tuning.space import Space
from ichx.tuning.storage import PRUNERS, begin_with, make_pruner, open_study, reopen, study_name
from ichx.tuning.study_events import TuneEnding, TuneEvents
from ichx.tuning.trial import Budget

if TYPE_CHECKING:
    from optuna import Study

    from ichx.project import Project
    from ichx.store import Experiment
    from ichx.workspace import Workspace

TICK_SECONDS = 0.3
MOST_FAILED = 3
"""So many trials in a row that fail end a study: what hinders them will hinder the next one, too."""


def tune(
    project: "Project",
    number: int,
    engine: Engine,
    *,
    trials: int,
    jobs: int = 1,
    space: Space | None = None,
    budget: Budget | None = None,
    limits: Limits | None = None,
    sampler: str = "tpe",
    pruner: str = "median",
    study: str | None = None,
    timeout: float | None = None,
    events: TuneEvents | None = None,
    stops: Callable[[], int] = lambda: 0,
) -> TuneEnding:
    """Search better values for experiment `number` until its study has `trials` finished trials, `jobs` at a time.

    The first trial is the experiment's own recipe, the baseline. After `timeout` seconds, or when `stops` says that
    the user asked for it (twice: at once), trials that run are told to stop, and go on when asked again. Raises
    `IchxError` before any trial for a wrong fold, budget or study, and where trials fail for a reason that will stay.
    """
    budget, limits, events = budget or Budget(), limits or Limits(), events or TuneEvents()
    parent = project.store.experiment(number)
    recipe = from_toml(parent.recipe, source=f"the recipe of experiment {number}")
    space = default_space(recipe) if space is None else space
    raise_problems(_problems(parent, trials, jobs, budget, limits, sampler, pruner, timeout), "see `ichx tune --help`")
    _check_data(project, parent, budget)
    if budget.options.weights is not None:
        from ichx.training.weights import choose_start, read_weights  # imports torch

        told = budget.options
        choose_start(project.workspace.experiments_dir, recipe, pretrained=told.pretrained, weights=told.weights)
        read_weights(budget.options.weights)
    load_registry().get(recipe.plugin)  # tells which there are
    _note_start(project.workspace, parent, recipe, budget, events)
    own = _own(space, recipe)
    with open_study(
        project.workspace,
        study_name(number, study),
        _setup(parent, space, budget, limits),
        make_pruner(pruner, len(recipe.stage)),
        make_sampler(sampler, recipe.seed),
    ) as held:
        if sampler == "gp" and pruner != "none":
            events.note("gp learns from done trials alone, not from what is ended early: --pruner none suits it")
        for name in sorted({dimension.name for dimension in space} - own.keys()):
            events.note(f"what the recipe has for {name} lies outside of what is searched")
        begin_with(held, own)
        runner = TrialRunner(project.workspace, project.store, parent, engine, held, space, budget, limits, events)
        before = len(runner.finished())
        why = _Tuner(held, runner, events).run(trials, jobs, timeout, stops)
        finished = runner.finished()
    if why == "failing":
        last = next(result for result in reversed(finished) if result.state == "failed")
        first = not any(result.state in ("done", "pruned") for result in finished)
        raise IchxError(
            f"trial {last.trial + 1} failed before any succeeded: {last.reason}"
            if first
            else f"{MOST_FAILED} trials in a row failed, the last one: {last.reason}",
            f"mend this and tune again; its log is {project.workspace.root / (last.log or '')}",
        )
    if why == "complete" and not any(result.state == "done" for result in finished):
        raise IchxError(
            f"no trial of {len(finished)} succeeded; the last one: {finished[-1].reason}",
            "mend this; a larger --trials tries on",
        )
    return TuneEnding(len(finished), len(finished) - before, why)


class _Tuner:
    def __init__(self, study: "Study", runner: TrialRunner, events: TuneEvents) -> None:
        self.study, self.runner, self.events = study, runner, events
        self.active: list[Running] = []
        self.before = {result.trial for result in runner.finished()}
        self.draining = False

    def run(self, trials: int, jobs: int, timeout: float | None, stops: Callable[[], int]) -> str:
        """Run trials until `trials` are finished, and return why no more are run."""
        until = None if timeout is None else time.monotonic() + timeout
        left = trials - len(self.runner.finished())
        if left <= 0:
            return "complete"
        # This process holds the study, so a trial that runs in Optuna's eyes is one that was interrupted.
        interrupted = self.runner.interrupted()
        jobs = min(jobs, left)
        shares = share_machine(self.runner.budget.options.device, jobs)
        self.events.planned(left, jobs, str(shares))
        why, heard = "complete", 0
        try:
            while True:
                if (asked := stops()) > heard:
                    heard, why = asked, "stopped"
                    self._drain(at_once=asked > 1)
                elif until is not None and not self.draining and time.monotonic() >= until:
                    why = "timeout"
                    self._drain(at_once=False)
                while not self.draining and len(self.active) < jobs and self._wanted(trials):
                    trial = reopen(self.study, interrupted.pop(0)) if interrupted else self.study.ask()
                    device = shares.device([running.device for running in self.active])
                    began = self.runner.begin(trial, trials, device, shares)
                    self.active += [] if began is None else [began]
                self.active = [running for running in self.active if not self.runner.ended(running, self.draining)]
                if not self.draining and self._failing():
                    why = "failing"
                    self._drain(at_once=False)
                if not self.active and (self.draining or not self._wanted(trials)):
                    return why
                time.sleep(TICK_SECONDS)
        finally:
            for running in self.active:
                self.runner.cancel(running, wait=False)
            for running in self.active:
                self.runner.cancel(running, wait=True)

    def _wanted(self, trials: int) -> bool:
        """Whether trials are lacking, those that run counted."""
        return len(self.runner.finished()) + len(self.active) < trials

    def _failing(self) -> bool:
        """Whether trials fail for a reason that will stay: the newest have all failed, or none has ever done else."""
        finished = self.runner.finished()
        newest = [result for result in finished if result.trial not in self.before][-MOST_FAILED:]
        if not newest or any(result.state != "failed" for result in newest):
            return False
        return len(newest) == MOST_FAILED or not any(result.state in ("done", "pruned") for result in finished)

    def _drain(self, *, at_once: bool) -> None:
        """Have the trials that run stop; they go on when the study does."""
        self.draining = True
        if self.active:
            self.events.stopping(len(self.active), at_once)
        for running in self.active:
            self.runner.stop(running, at_once=at_once)


def _check_data(project: "Project", parent: "Experiment", budget: Budget) -> None:
    """Raise `IchxError` where a fold has none of the patients that trials shall have."""
    if budget.subset < 1:
        version = project.store.version_by_id(parent.version_id)
        slices = load_version(project.workspace, version).slices
        subset_folds(
            slices, load_folds(project.workspace, version, version.fold_set(parent.fold_set), slices), budget.subset
        )


def _note_start(
    workspace: "Workspace", parent: "Experiment", recipe: Recipe, budget: Budget, events: TuneEvents
) -> None:
    """Tell where trials start from other weights than the folds of `parent` did."""
    path = workspace.experiment_files(parent.number).start
    if not path.exists():
        return
    did, asked = json.loads(path.read_text(encoding="utf-8"))["kind"], budget.options
    pretrained = recipe.model.pretrained if asked.pretrained is None else asked.pretrained
    will = "file" if asked.weights is not None else "pretrained" if pretrained else "random"
    if will != did:
        words = {"file": "a file's weights", "pretrained": "pretrained weights", "random": "random weights"}
        events.note(
            f"the folds of experiment {parent.number} started from {words[did]}, its trials start from {words[will]}: "
            "--weights, --pretrained or --no-pretrained has them start alike"
        )


def _own(space: Space, recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's own values as far as the space holds them."""
    values = settable(recipe)
    held = {dimension.name: dimension.holds(values[dimension.name]) for dimension in space}
    return {name: value for name, value in held.items() if value is not None}


def _setup(parent: "Experiment", space: Space, budget: Budget, limits: Limits) -> dict[str, Any]:
    """Return what all trials of a study have in common, as plain JSON by what it is."""
    options = budget.options
    return {
        "search space": sorted(map(str, space)),
        "recipe": parent.recipe_digest,
        "labels": parent.label_digest,
        "folds": parent.fold_digest,
        "fold": budget.fold,
        "subset": budget.subset,
        "length": budget.length,
        "start (pretrained)": options.pretrained,
        "start (weights)": None if options.weights is None else str(options.weights.resolve()),
        "limits": limits.given(),
    }


def _problems(
    parent: "Experiment",
    trials: int,
    jobs: int,
    budget: Budget,
    limits: Limits,
    sampler: str,
    pruner: str,
    timeout: float | None,
) -> list[str]:
    problems = [f"--{name} must be 1 or more" for name, n in (("trials", trials), ("jobs", jobs)) if n < 1]
    if not 0 <= budget.fold < parent.folds:
        problems.append(f"experiment {parent.number} has no fold {budget.fold}; its folds are 0 to {parent.folds - 1}")
    problems += budget.problems()
    problems += [f"{OPTIONS[name]} must be above 0" for name, bound in limits.given().items() if not bound > 0]
    if sampler not in SAMPLERS:
        problems.append(f"--sampler {sampler}: must be one of {', '.join(SAMPLERS)}")
    if pruner not in PRUNERS:
        problems.append(f"--pruner {pruner}: must be one of {', '.join(PRUNERS)}")
    if timeout is not None and timeout <= 0:
        problems.append("--timeout must be above 0")
    if parent.kind == "trial":
        problems.append(f"experiment {parent.number} is itself a trial: `ichx exp promote {parent.number}` comes first")
    if parent.trashed is not None:
        problems.append(f"experiment {parent.number} is in the trash: `ichx exp restore {parent.number}` takes it out")
    return problems
