"""Tuning: Optuna suggests values, trials run as jobs at the same time. A stopped tuning resumes when rerun.

A single trial is in `ichx.tuning.trial_task`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.patient_subset import subset_folds
from ichx.errors import ProcessError, raise_problems
from ichx.evaluation.choices import CALIBRATED
from ichx.experiment_files import read_start
from ichx.files import absolute_path
from ichx.jobs.engine import Engine, Resources
from ichx.jobs.scheduler import LEAVE, STOP, Scheduler
from ichx.plugins.backbones import check_backbone
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import require_network
from ichx.tuning.budget import trial_recipe
from ichx.tuning.default_space import default_space
from ichx.tuning.joint_values import searchable
from ichx.tuning.limits import Limits
from ichx.tuning.sampling import Sampler, create_sampler
from ichx.tuning.space import Space, recorded
from ichx.tuning.storage import NAME, Pruner, create_pruner, enqueue_baseline, open_study, reopen, study_name
from ichx.tuning.study_context import StudyContext
from ichx.tuning.study_setup import OPTIONS
from ichx.tuning.trial import Budget
from ichx.tuning.trial_task import TrialTask, create_task
from ichx.tuning.trial_view import TrialView
from ichx.tuning.tune_report import EndReason, TuneCallbacks, TuneReport
from ichx.tuning.warm_start import warm_start

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment

MAX_FAILURES: Final = 3
"""Number of trials that must fail in a row to end a tuning: the next one would fail for the same reason."""


@dataclass(frozen=True)
class TuneRequest:
    """A search for better values of an experiment's recipe."""

    experiment: int
    trials: int
    """Number of finished trials at the end, including those of earlier runs."""
    jobs: int = 1
    """Number of trials that run at the same time."""
    space: Space | None = None
    """None: the default space."""
    budget: Budget = field(default_factory=Budget)
    limits: Limits = field(default_factory=Limits)
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    study: str | None = None
    """Name of the Optuna study; None or empty: the first one."""
    timeout: float | None = None
    """Seconds after which the trials are stopped."""
    resources: Resources = field(default_factory=Resources)
    """What each trial needs from a scheduler."""
    warm_start: bool = True
    """Whether a new study first tries the best values of earlier studies of the same plugin."""


def tune(
    project: "Project",
    request: TuneRequest,
    engine: Engine,
    *,
    callbacks: TuneCallbacks | None = None,
    stop_level: Callable[[], int] = lambda: 0,
) -> TuneReport:
    """Run trials until the study has as many finished ones as requested. The first trial is the unchanged recipe.

    Args:
        project: The open project.
        request: What to search, and how.
        engine: Executes the jobs.
        callbacks: Receives progress and results.
        stop_level: Returns 0, or 1 to stop all trials after their step, or more to kill them. Trials on a cluster
            continue, and the next tuning follows them.

    Raises:
        NotFoundError: The experiment or the fold does not exist.
        InvalidInputError: The request is invalid.
        ConflictError: Another process runs the study, or it was created with another setup.
        ProcessError: The first trials failed, or `MAX_FAILURES` in a row, or all of them.
        IchxError: Data, weights, plugin or the study's file cannot be used.
    """
    callbacks = callbacks or TuneCallbacks()
    parent = project.store.experiment(request.experiment)
    require_network(parent, "tune it")
    recipe = from_toml(parent.recipe, source=f"the recipe of experiment {parent.number}")
    space = default_space(recipe) if request.space is None else request.space
    parent.check_folds([request.budget.fold])
    raise_problems(_problems(parent, request), "Run `ichx tune --help` for the options.")
    _check_inputs(project, parent, recipe, space, request.budget)
    _note_other_start(project, parent, recipe, request.budget, callbacks)
    own = _own_values(space, recipe)
    with open_study(
        project.workspace,
        study_name(parent.number, request.study),
        _setup(parent, space, request),
        create_pruner(request.pruner, len(recipe.stage)),
        create_sampler(request.sampler, recipe.seed),
        project.store.note,
    ) as study:
        if request.sampler == "gp" and request.pruner != "none":
            callbacks.note("gp learns from done trials only, not from pruned ones; --pruner none suits it")
        for name in sorted({dimension.name for dimension in space} - own.keys()):
            callbacks.note(f"the recipe's value of {name} is outside the search space")
        enqueue_baseline(study, recorded(space, own))
        if request.warm_start:
            for source in warm_start(study, project.store, parent, space, request.budget.fold):
                callbacks.note(f"warm start with the values of {source}; --no-warm-start leaves them out")
        context = StudyContext(
            project, parent, study, space, request.budget, request.limits, callbacks, request.resources
        )
        report = _Tuning(context, request, stop_level).run(engine)
        finished = context.finished()
    if report.reason == "complete" and not any(result.state == "done" for result in finished):
        raise ProcessError(
            f"None of {len(finished)} trials succeeded. The last one: {finished[-1].error}.",
            "Fix the cause, and continue with a larger --trials.",
        )
    return report


class _Tuning:
    def __init__(self, context: StudyContext, request: TuneRequest, stop_level: Callable[[], int]) -> None:
        self._context, self._request, self._requested_level = context, request, stop_level
        # This process has locked the study, so that trials which Optuna calls running were interrupted.
        self._interrupted = context.interrupted()
        self._before = {result.trial for result in context.finished()}
        self._deadline: float | None = None
        self._end: Literal["stopped", "timeout", "failing"] | None = None
        self._leaves = False

    def run(self, engine: Engine) -> TuneReport:
        """Run the missing trials."""
        missing = self._request.trials - len(self._before)
        if missing <= 0:
            return TuneReport(len(self._before), 0, "complete")
        if self._request.timeout is not None:
            self._deadline = time.monotonic() + self._request.timeout
        jobs = min(self._request.jobs, missing)
        self._leaves = engine.outlives_submitter
        scheduler = Scheduler(engine, self._request.budget.options.device, jobs)
        self._context.callbacks.planned(missing, jobs, scheduler.shares.describe())
        scheduler.run(self._next_task, self._stop_level, self._context.callbacks)
        finished = self._context.finished()
        if self._end == "failing":
            raise self._failure(finished)
        if self._context.left and self._end is None:
            self._end = "stopped"
        reason: EndReason = "complete" if self._end is None or len(finished) >= self._request.trials else self._end
        return TuneReport(len(finished), len(finished) - len(self._before), reason)

    def _next_task(self, running: int) -> TrialTask | None:
        study, trials = self._context.study, self._request.trials
        while len(self._context.finished()) + running + len(self._context.left) < trials:
            trial = reopen(study, self._interrupted.pop(0)) if self._interrupted else study.ask()
            if (task := create_task(self._context, trial, trials)) is not None:
                return task
        return None

    def _stop_level(self) -> int:
        if (level := self._requested_level()) > 0:
            self._end = "stopped"
            if self._leaves:
                return LEAVE
        elif self._end is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._end = "timeout"
        elif self._end is None and self._is_failing():
            self._end = "failing"
        return level or (STOP if self._end else 0)

    def _is_failing(self) -> bool:
        """Return whether the newest trials have all failed: `MAX_FAILURES` of them, or all trials of the study."""
        finished = self._context.finished()
        newest = [result for result in finished if result.trial not in self._before][-MAX_FAILURES:]
        if not newest or any(result.state != "failed" for result in newest):
            return False
        return len(newest) == MAX_FAILURES or all(result.state == "failed" for result in finished)

    def _failure(self, finished: list[TrialView]) -> ProcessError:
        last = next(result for result in reversed(finished) if result.state == "failed")
        if all(result.state == "failed" for result in finished):
            problem = f"Trial {last.trial + 1} failed before any trial succeeded: {last.error}."
        else:
            problem = f"{MAX_FAILURES} trials in a row failed. The last one, trial {last.trial + 1}: {last.error}."
        log = self._context.project.workspace.root / (last.log or "")
        return ProcessError(problem, f"Fix the cause and rerun the command to resume. Log: {log}")


def _check_inputs(project: "Project", parent: "Experiment", recipe: Recipe, space: Space, budget: Budget) -> None:
    """Raise `IchxError` if a fold loses all patients, or if the weights, the plugin or a backbone cannot be used."""
    plugin = project.registry.get(recipe.plugin)
    for dimension in space:
        if dimension.name == "model.backbone":
            for value in dimension.ends:
                check_backbone(plugin, trial_recipe(recipe, {dimension.name: value}))
    if budget.subset < 1:
        version = project.store.version_by_id(parent.version_id)
        slices = load_version(project.workspace, version).slices
        folds = load_folds(project.workspace, version, version.fold_set(parent.fold_set), slices)
        subset_folds(slices, folds, budget.subset)
    options = budget.options
    if options.weights is not None:
        from ichx.training.weights import choose_start, read_weights  # imports torch

        home = project.workspace.experiments_dir
        choose_start(home, recipe, pretrained=options.pretrained, weights=options.weights)
        read_weights(options.weights)


def _note_other_start(
    project: "Project", parent: "Experiment", recipe: Recipe, budget: Budget, callbacks: TuneCallbacks
) -> None:
    """Note that trials start from other weights than the folds of `parent` did."""
    start = read_start(project.workspace.experiment_files(parent.number).start)
    if start is None:
        return
    options = budget.options
    before = start["kind"]
    pretrained = recipe.model.pretrained if options.pretrained is None else options.pretrained
    now = "file" if options.weights is not None else "pretrained" if pretrained else "random"
    if now != before:
        names = {"file": "the weights of a file", "pretrained": "pretrained weights", "random": "random weights"}
        callbacks.note(
            f"the folds of experiment {parent.number} started from {names[before]}, but its trials start from "
            f"{names[now]}; use --weights, --pretrained or --no-pretrained to start from the same"
        )


def _own_values(space: Space, recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's values as far as the space contains them."""
    values = searchable(recipe)
    contained = {dimension.name: dimension.contained(values[dimension.name]) for dimension in space}
    return {name: value for name, value in contained.items() if value is not None}


def _setup(parent: "Experiment", space: Space, request: TuneRequest) -> dict[str, Any]:
    """Return what all trials of a study have in common, as it is stored with the study."""
    budget, options = request.budget, request.budget.options
    return {
        "objective": CALIBRATED,
        "search space": sorted(map(str, space)),
        "recipe": parent.recipe_digest,
        "labels": parent.label_digest,
        "folds": parent.fold_digest,
        "fold": budget.fold,
        "subset": budget.subset,
        "length": budget.length,
        "start (pretrained)": options.pretrained,
        "start (weights)": None if options.weights is None else str(absolute_path(options.weights)),
        "limits": request.limits.to_dict(),
    }


def _problems(parent: "Experiment", request: TuneRequest) -> list[str]:
    numbers = (("trials", request.trials), ("jobs", request.jobs))
    problems = [f"Invalid value for --{name}: {n}. It must be at least 1." for name, n in numbers if n < 1]
    problems += request.budget.problems()
    problems += [
        f"Invalid value for {OPTIONS[name]}: {bound:g}. It must be above 0."
        for name, bound in request.limits.to_dict().items()
        if not bound > 0
    ]
    if request.study and not NAME.fullmatch(request.study):
        problems.append(
            f"Invalid value for --study: {request.study!r}. It must have up to 64 letters, digits, '.', '_' and '-', "
            "and start with a letter or digit."
        )
    if request.timeout is not None and request.timeout <= 0:
        problems.append(f"Invalid value for --timeout: {request.timeout:g}. It must be above 0.")
    if parent.kind == "trial":
        problems.append(
            f"Experiment {parent.number} is a trial. Promote it with `ichx exp promote {parent.number}` and tune that."
        )
    if parent.trashed is not None:
        problems.append(
            f"Experiment {parent.number} is in the trash. Restore it with `ichx exp restore {parent.number}`."
        )
    return problems
