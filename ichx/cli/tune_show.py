"""`ichx tune show`: the results of an Optuna study, and the scores of promoted trials on the other folds."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import info, print_csv, print_json, warn
from ichx.cli.parameters import AsCsv, AsJson, Number
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import NotFoundError
from ichx.evaluation.choices import CALIBRATED
from ichx.formatting import format_duration, format_marks, format_value
from ichx.text import format_count
from ichx.tuning.describe import (
    format_exceeded,
    format_good,
    format_range,
    format_searched,
    format_verdict,
    short_names,
)

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment
    from ichx.tuning.results import StudyView
    from ichx.tuning.trial_view import TrialView

MAX_ROWS = 10
"""Trials and recipe values in a table."""
MAX_VALUES = 4
"""Recipe values in the table of trials, the most important ones; `--json` and `--csv` have all."""
STATES = ("done", "pruned", "failed", "running")
STATE_NAMES = {"running": "unfinished"}
"""Printed names of states: a started trial may run now or resume with the next `ichx tune`."""


def show(
    number: Number,
    study: Annotated[
        str | None, typer.Option("--study", help="Name of the study; default: the unnamed or only one.")
    ] = None,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """Show the best trials, important values and promoted trials, and whether a trial is better than the recipe.

    Works during a study, too. Trials were chosen by their scores, so these are optimistic. The scores of promoted
    trials on the other folds are not.

    Example: `ichx tune show 6`
    """
    if as_json and as_csv:
        raise typer.BadParameter("Use either --json or --csv.")
    with session() as project:
        experiment = project.store.experiment(number)  # report an unknown number before Optuna is imported
        from ichx.tuning.results import read_study, study_names

        names = study_names(project.workspace, number)
        if not names and experiment.tuned is not None:
            raise _without_study(project, experiment)
        found = read_study(project, number, study)
    if as_json:
        print_json(numbered(found))
    elif as_csv:
        _print_csv(found)
    else:
        print_study(found, project.workspace.root)
        others = [f"`--study {name}`" if name else "unnamed" for name in names if name != found.name]
        if others:
            info(f"other studies of experiment {number}: {', '.join(others)}")


def numbered(view: "StudyView") -> "StudyView":
    """Return `view` with trial numbers from 1, as in all output; Optuna's start at 0."""
    trials = tuple(replace(trial, trial=trial.trial + 1) for trial in view.trials)
    best = None if view.best is None else replace(view.best, trial=view.best.trial + 1)
    return replace(view, trials=trials, best=best)


def study_option(study: str, experiment: int) -> str:
    """Return ` --study NAME` for the full name of a study of `experiment`; an empty string for the unnamed one."""
    name = study.removeprefix(f"experiment-{experiment}").removeprefix("-")
    return f" --study {name}" if name else ""


def _without_study(project: "Project", experiment: "Experiment") -> NotFoundError:
    """Return the error for a trial or promoted trial without a study; it names the study that the trial is part of."""
    tuned, trial = experiment.tuned, experiment
    is_trial = experiment.kind == "trial"
    if not is_trial and experiment.parent is not None:
        trial = project.store.experiment(experiment.parent)
    assert tuned is not None
    remedies = []
    if trial.parent is not None:
        remedies.append(f"Show that study: `ichx tune show {trial.parent}{study_option(tuned.study, trial.parent)}`.")
    if not is_trial:
        remedies.append(f"Start a study: `ichx tune {experiment.number}`.")
    kind = "a trial" if is_trial else "a promoted trial"
    problem = f"Experiment {experiment.number} has no study. It is {kind} of the study {tuned.study}."
    return NotFoundError(problem, " ".join(remedies))


def print_study(view: "StudyView", root: Path) -> None:
    """Print the results of a study; `root` is the workspace, to which paths of logs are relative."""
    marks = format_marks(view.marks)
    _print_head(view)
    _print_trials(view, marks)
    _print_values(view)
    _print_over_limits(view, marks)
    _print_saved(view)
    failed = [t for t in view.trials if t.state == "failed"]
    for trial in failed[-MAX_ROWS:]:
        experiment = f", experiment {trial.experiment}," if trial.experiment is not None else ""
        log = f"; log: {root / trial.log}" if trial.log else ""
        warn(f"trial {trial.trial + 1}{experiment} failed: {trial.error}{log}")
    if len(failed) > MAX_ROWS:
        warn(f"{format_count(len(failed) - MAX_ROWS, 'earlier trial')} failed; --json has the reasons.")
    for trial in view.trials:
        if trial.warm_start:
            info(f"warm start: trial {trial.trial + 1} has the values of {trial.warm_start}")
    if view.best is not None and view.baseline in failed:
        warn("The trial with the unchanged recipe failed, so the study lacks a baseline. A larger --trials retries it.")
    _print_promoted(view, marks)
    if verdict := format_verdict(view):
        info(verdict)
    if step := next_step(view):
        info(step)


def _print_over_limits(view: "StudyView", marks: str) -> None:
    found = sorted((t for t in view.trials if t.state == "done" and t.exceeded), key=lambda t: t.score or 0.0)
    if found:
        best = found[0]
        score = f"{format_value(best.score)}{marks}, {format_exceeded(best.exceeded)}"
        info(f"{format_count(len(found), 'done trial')} over a limit, best: experiment {best.experiment}, {score}")


def _print_saved(view: "StudyView") -> None:
    if view.saved.epochs:
        planned = format_count(sum(t.planned or 0 for t in view.trials), "epoch")
        time = f", about {format_duration(view.saved.seconds)}" if view.saved.seconds else ""
        info(f"pruning {format_count(view.saved.trials, 'trial')} saved {view.saved.epochs:,} of {planned}{time}")


def next_step(view: "StudyView") -> str:
    """Return what the user should do next; an empty string if nothing is left to do."""
    best = view.best
    if best is None:
        limits = " within the limits" if view.limits else ""
        return f"No trial{limits} is done yet. Rerun `ichx tune`, with a larger --trials if all have ended."
    if best.baseline:
        return "Next: try more trials or another search space."
    promoted = next((p for p in view.promoted if p.trial == best.experiment), None)
    if promoted is None and best.deleted:
        return f"The best trial's experiment {best.experiment} was deleted. `ichx tune show --csv` has its values."
    if promoted is None:
        return f"Next: `ichx exp promote {best.experiment}`, to score the best trial's values on the other folds"
    if len(promoted.folds) < promoted.others:
        return f"Next: `ichx run {promoted.experiment}`, to score it on the other folds"
    if promoted.parent_score is None and promoted.parent is not None:
        return f"Next: `ichx run {promoted.parent}`, to compare on the same folds"
    return ""


def _print_head(view: "StudyView") -> None:
    states = [f"{view.count(state)} {STATE_NAMES.get(state, state)}" for state in STATES]
    counts = ", ".join(state for state in states if not state.startswith("0 "))
    name = f"study {view.name} of " if view.name else ""
    budget = ", ".join([f"fold {view.fold}", *_budget(view)])
    info(f"{name}experiment {view.experiment}, {budget}: {format_count(len(view.trials), 'trial')}: {counts}")


def _budget(view: "StudyView") -> list[str]:
    part = [f"{100 * view.subset:.3g} % of the patients"] if view.subset < 1 else []
    return part + ([f"{100 * view.length:.3g} % of the epochs"] if view.length < 1 else [])


def _print_trials(view: "StudyView", marks: str) -> None:
    scored = [t for t in view.trials if t.score is not None and t.state != "failed"]
    if not scored:
        return
    ranked = sorted(scored, key=lambda t: (not t.eligible, t.state != "done", t.score, t.trial))
    shown = ranked[:MAX_ROWS]
    baseline = view.baseline
    if baseline in scored and baseline not in shown:
        shown.append(baseline)
    names = [learned.name for learned in view.learned][:MAX_VALUES]
    heads = short_names(names, [learned.name for learned in view.learned])
    calibrated = view.objective == CALIBRATED
    rows = [
        (
            t.experiment,
            t.score,
            *([t.raw_score] if calibrated else []),
            _state(t),
            *(format_searched(t.values.get(name)) for name in names),
        )
        for t in shown
    ]
    left = len(view.learned) - len(names)
    selection = "most important values" if view.importances else "some of the values"
    caption = f"{selection}; {format_count(left, 'other')} in --json" if left else ""
    print_table(
        f"best trials, {_kind(view)}scores on fold {view.fold}{marks}",
        ("exp", "score", *(["raw"] if calibrated else []), "state", *heads),
        rows,
        caption=caption,
        drop=heads[:1:-1],
        cut=dict.fromkeys(heads, 6),
    )


def _kind(view: "StudyView") -> str:
    """Return `calibrated ` if the scores of the study are."""
    return "calibrated " if view.objective == CALIBRATED else ""


def _state(trial: "TrialView") -> str:
    if trial.exceeded:
        return format_exceeded(trial.exceeded)
    if trial.warm_start and trial.state == "done":
        return "warm start"
    return "baseline" if trial.baseline else STATE_NAMES.get(trial.state, trial.state)


def _print_values(view: "StudyView") -> None:
    if view.best is None:
        return
    if view.importances is None:
        from ichx.tuning.importance import MIN_TRIALS

        done = view.count("done")
        if done < MIN_TRIALS:
            info(f"Importances need {MIN_TRIALS} done trials; {done} so far.")
        else:
            info("The done trials vary too little for importances.")
    else:
        rows = [
            (
                learned.name,
                f"{100 * (learned.importance or 0):.0f} %",
                format_searched(learned.as_is),
                format_searched(learned.best),
                format_good(learned),
                format_range(learned),
            )
            for learned in view.learned[:MAX_ROWS]
        ]
        left = len(view.learned) - len(rows)
        caption = f"{format_count(left, 'less important value')} in --json" if left else ""
        heads = ("value", "importance", "baseline", "best", "best quarter", "search space")
        print_table("values", heads, rows, caption=caption, drop=("search space",), cut={"value": 16})
    if not view.best.baseline:
        info(f"Changes of the best trial: `ichx exp diff {view.experiment} {view.best.experiment}`")


def _print_promoted(view: "StudyView", marks: str) -> None:
    promoted = view.promoted
    if not promoted:
        return
    fold, parent = promoted[0].fold, promoted[0].parent
    rows = [
        (
            p.experiment,
            p.trial,
            p.chosen,
            p.compared.score,
            p.compared.parent_score,
            None if p.compared.better_by is None else f"{p.compared.better_by:+.5f}",
            f"{len(p.folds)} of {p.others}",
        )
        for p in promoted
    ]
    heads = ("exp", "trial's exp", f"fold {fold}", "other folds", f"exp {parent} there", "gain", "folds done")
    also = format_marks(sorted({mark for p in promoted for mark in p.marks}))
    caption = f"Trials were chosen on fold {fold}{marks}, not on the other folds, whose scores are pooled{also}."
    if budget := _budget(view):
        caption += f" Scores of fold {fold} are of trials with {' and '.join(budget)}: compare them with trials only."
    print_table(
        f"promoted trials, {_kind(view)}scores", heads, rows, caption=caption, drop=("folds done", "trial's exp")
    )
    for p in promoted:
        found = p.compared
        if found.better_by is not None and found.low is not None:
            bounds = f"95 % interval over patients {found.low:+.5f} to {found.high:+.5f}"
            info(f"experiment {p.experiment}: gain {found.better_by:+.5f}, {bounds}{format_marks(p.marks)}")
        if p.calibrated is not None and p.better_by is not None:
            bounds = "" if p.better_low is None else f", {p.better_low:+.5f} to {p.better_high:+.5f}"
            info(f"experiment {p.experiment} without calibration: gain {p.better_by:+.5f}{bounds}")
        if p.problem:
            warn(f"experiment {p.experiment} cannot be compared: {p.problem.splitlines()[0]}")


def _print_csv(view: "StudyView") -> None:
    names = [text.partition("=")[0] for text in view.space]
    measured = ("score", "raw_score", "epochs", "planned", "seconds")
    facts = ("trial", "experiment", "state", "baseline", *measured, "exceeded", "error")
    rows = []
    for trial in numbered(view).trials:
        values = {fact: getattr(trial, fact) for fact in facts}
        values |= {"exceeded": " ".join(trial.exceeded), "baseline": "yes" if trial.baseline else "no"}
        rows.append([*values.values(), *(trial.values.get(name) for name in names)])
    print_csv([*facts, *names], rows)
