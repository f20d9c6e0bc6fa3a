"""`ichx tune show`: what a study has found, and what its best trial is worth on the folds that did not choose it."""

import csv
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.formatting import format_duration, format_value
from ichx.cli.output import info, print_json, warn
from ichx.cli.parameters import Number
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import IchxError
from ichx.text import format_count
from ichx.tuning.describe import format_exceeded, format_good, format_range, format_searched, short_names

if TYPE_CHECKING:
    from ichx.store import Experiment, Store
    from ichx.tuning.promoted import Promoted
    from ichx.tuning.results import StudyView, TrialView

SHOWN = 10
STATES = ("done", "pruned", "failed", "running")
UNFINISHED = {"running": "unfinished"}
"""What begun trials are called: whether they run now or go on with the next `ichx tune` is not known here."""
VALUES = 4
"""How many values the table of trials has, those that matter most; `--json` and `--csv` have all."""


def show(
    number: Number,
    study: Annotated[
        str | None, typer.Option("--study", help="The study of that name; default: the first, or the only one.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="All trials as CSV on standard output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Show what tuning has found: the best trials, what mattered, and what promoted ones score on the other folds.

    Also while it runs. Scores of trials chose the best ones, so they flatter; those over the other folds do not.

    Example: `ichx tune show 6`
    """
    if as_json and as_csv:
        raise typer.BadParameter("give one of --json and --csv")
    with session() as project:
        experiment = project.store.experiment(number)  # report an unknown number before Optuna is imported
        from ichx.tuning.results import read_study, study_names

        others = study_names(project.workspace, number)
        if not others and experiment.tuned is not None:
            raise _of_another(project.store, experiment)
        found = read_study(project, number, study)
    if as_json:
        print_json(numbered(found))
    elif as_csv:
        _write_csv(found)
    else:
        print_study(found, project.workspace.root)
        called = [f"`--study {name}`" if name else "the first" for name in others if name != found.name]
        if called:
            info(f"other studies of experiment {number}: {', '.join(called)}")


def numbered(view: "StudyView") -> "StudyView":
    """Return `view` with trials counted from 1, as everything that is shown of them is; Optuna counts from 0."""
    trials = tuple(replace(trial, trial=trial.trial + 1) for trial in view.trials)
    best = None if view.best is None else replace(view.best, trial=view.best.trial + 1)
    return replace(view, trials=trials, best=best)


def named(study: str, experiment: int) -> str:
    """Return ` --study NAME` for the full name of a study of `experiment`, nothing for the first."""
    name = study.removeprefix(f"experiment-{experiment}").removeprefix("-")
    return f" --study {name}" if name else ""


def _of_another(store: "Store", experiment: "Experiment") -> IchxError:
    """Return the error for a trial, or what was promoted from one, that was not tuned itself: where to look."""
    tuned, at = experiment.tuned, experiment
    if experiment.kind != "trial" and experiment.parent is not None:
        at = store.experiment(experiment.parent)
    assert tuned is not None
    of = "a trial" if experiment.kind == "trial" else "promoted from a trial"
    shown = "" if at.parent is None else f"`ichx tune show {at.parent}{named(tuned.study, at.parent)}` shows that; "
    remedy = shown + ("" if experiment.kind == "trial" else f"`ichx tune {experiment.number}` makes one")
    return IchxError(
        f"experiment {experiment.number} has no study: it is {of} of {tuned.study}", remedy.removesuffix("; ")
    )


def print_study(view: "StudyView", root: Path) -> None:
    """Print what a study has found; logs are told from the workspace's `root`."""
    marked = f"[{', '.join(view.marks)}]"
    _print_head(view)
    _print_trials(view, marked)
    _print_learned(view)
    for line in (*beyond(view, marked), *saved(view)):
        info(line)
    failed = [t for t in view.trials if t.state == "failed"]
    for trial in failed[-SHOWN:]:
        which = f", experiment {trial.experiment}," if trial.experiment is not None else ""
        log = f"; its log: {root / trial.log}" if trial.log else ""
        warn(f"trial {trial.trial + 1}{which} failed: {trial.error}{log}")
    if len(failed) > SHOWN:
        warn(f"{format_count(len(failed) - SHOWN, 'earlier trial')} failed, too; --json tells why")
    if view.best is not None and view.baseline in failed:
        warn(
            "the recipe as it is has failed, so that nothing here says whether the best trial is better; a larger "
            "--trials tries it again"
        )
    _print_promoted(view, marked)
    for line in following(view):
        info(line)


def beyond(view: "StudyView", marked: str) -> list[str]:
    """Return what is to be said of done trials that a limit rules out."""
    found = sorted((t for t in view.trials if t.state == "done" and t.exceeded), key=lambda t: t.score or 0.0)
    if not found:
        return []
    best = found[0]
    return [
        f"{format_count(len(found), 'done trial')} over a limit, the best one experiment {best.experiment}: "
        f"{format_value(best.score)} {marked}, {format_exceeded(best.exceeded)}"
    ]


def saved(view: "StudyView") -> list[str]:
    """Return what is to be said of the epochs that pruning spared."""
    if not view.saved.epochs:
        return []
    planned = sum(t.planned or 0 for t in view.trials)
    time = f", about {format_duration(view.saved.seconds)}" if view.saved.seconds else ""
    return [
        f"ending {format_count(view.saved.trials, 'trial')} early spared {view.saved.epochs:,} of "
        f"{format_count(planned, 'epoch')}{time}"
    ]


def following(view: "StudyView") -> list[str]:
    """Return what is to be done next."""
    best = view.best
    if best is None:
        why = "" if view.limits == {} else " within the limits"
        return [f"no trial is done{why} yet: the same `ichx tune` goes on, with a larger --trials where all have ended"]
    taken = next((p for p in view.promoted if p.trial == best.experiment), None)
    if best.baseline:
        return ["no trial is better than the recipe as it is: more trials or another space may find one"]
    if taken is None and best.deleted:
        return [f"experiment {best.experiment}, the best trial, was deleted: `ichx tune show --csv` has its values"]
    if taken is None:
        return [
            f"next: `ichx exp promote {best.experiment}` makes the best trial an experiment, whose other folds tell "
            "what it is worth"
        ]
    if len(taken.folds) < taken.others:
        return [f"next: `ichx run {taken.experiment}` runs the folds that did not choose it"]
    if taken.parent_score is None and taken.parent is not None:
        return [f"next: `ichx run {taken.parent}`, to compare on the same folds"]
    return []


def _print_head(view: "StudyView") -> None:
    states = [f"{view.count(state)} {UNFINISHED.get(state, state)}" for state in STATES]
    present = ", ".join(state for state in states if not state.startswith("0 "))
    called = f"study {view.name} of " if view.name else ""
    part = [f"fold {view.fold}", *_budget(view)]
    info(
        f"{called}experiment {view.experiment}, {', '.join(part)}: {format_count(len(view.trials), 'trial')}: {present}"
    )


def _budget(view: "StudyView") -> list[str]:
    part = [f"{100 * view.subset:.3g} % of the patients"] if view.subset < 1 else []
    return part + ([f"{100 * view.length:.3g} % of the epochs"] if view.length < 1 else [])


def _print_trials(view: "StudyView", marked: str) -> None:
    scored = [t for t in view.trials if t.score is not None and t.state != "failed"]
    if not scored:
        return
    ranked = sorted(scored, key=lambda t: (not t.eligible, t.state != "done", t.score, t.trial))
    shown = ranked[:SHOWN]
    baseline = view.baseline
    if baseline in scored and baseline not in shown:
        shown.append(baseline)
    names = [learned.name for learned in view.learned][:VALUES]
    heads = short_names(names, [learned.name for learned in view.learned])
    rows = [(t.experiment, t.score, _state(t), *(format_searched(t.values.get(name)) for name in names)) for t in shown]
    title = f"best trials, scores of fold {view.fold} {marked}"
    left = len(view.learned) - len(names)
    which = "values that matter most" if view.importances else "some of the values"
    caption = f"{which}; {format_count(left, 'other')} in --json" if left else ""
    print_table(
        title, ("exp", "score", "state", *heads), rows, caption=caption, drop=heads[:1:-1], cut=dict.fromkeys(heads, 6)
    )


def _state(trial: "TrialView") -> str:
    if trial.exceeded:
        return format_exceeded(trial.exceeded)
    return "as it is" if trial.baseline else UNFINISHED.get(trial.state, trial.state)


def _print_learned(view: "StudyView") -> None:
    if view.best is None:
        return
    if view.importances is None:
        from ichx.tuning.importance import MIN_TRIALS

        done = view.count("done")
        if done < MIN_TRIALS:
            info(f"{format_count(done, 'done trial')}: what matters is told from {MIN_TRIALS} on")
        else:
            info("too little varies in the done trials to tell what matters")
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
            for learned in view.learned[:SHOWN]
        ]
        left = len(view.learned) - len(rows)
        caption = f"{format_count(left, 'other')}, which matter less, in --json" if left else ""
        heads = ("value", "matters", "as it is", "best", "best quarter", "searched")
        print_table("what was learned", heads, rows, caption=caption, drop=("searched",), cut={"value": 16})
    if not view.best.baseline:
        info(f"`ichx exp diff {view.experiment} {view.best.experiment}` shows what the best trial changes")


def _print_promoted(view: "StudyView", marked: str) -> None:
    promoted = view.promoted
    if not promoted:
        return
    fold, parent = promoted[0].fold, promoted[0].parent
    rows = [
        (p.experiment, p.trial, p.chosen, p.score, p.parent_score, _difference(p), f"{len(p.folds)} of {p.others}")
        for p in promoted
    ]
    heads = ("exp", "from exp", f"fold {fold}", "other folds", f"exp {parent} there", "better by", "folds run")
    marks = sorted({mark for p in promoted for mark in p.marks})
    also = f", but see their marks [{', '.join(marks)}]" if marks else ""
    caption = f"fold {fold} chose them {marked}; the other folds did not{also}. Scores are pooled over these."
    if part := _budget(view):
        caption += f" Fold {fold}'s is a trial's, with {' and '.join(part)}, and compares with trials only."
    print_table("promoted trials", heads, rows, caption=caption, drop=("folds run", "from exp"))
    for p in promoted:
        if p.better_by is not None and p.better_low is not None and p.better_high is not None:
            bounds = f"{p.better_low:+.5f} to {p.better_high:+.5f}"
            info(
                f"experiment {p.experiment} gains {p.better_by:+.5f}, 95 % interval over patients {bounds}{_marked(p)}"
            )
        if p.problem:
            warn(f"experiment {p.experiment} cannot be compared: {p.problem.splitlines()[0]}")


def _marked(promoted: "Promoted") -> str:
    return f" [{', '.join(promoted.marks)}]" if promoted.marks else ""


def _difference(promoted: "Promoted") -> str | None:
    return None if promoted.better_by is None else f"{promoted.better_by:+.5f}"


def _write_csv(view: "StudyView") -> None:
    names = [text.partition("=")[0] for text in view.space]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    facts = ("trial", "experiment", "state", "baseline", "score", "epochs", "planned", "seconds", "exceeded", "error")
    writer.writerow([*facts, *names])
    for trial in numbered(view).trials:
        told_of: Mapping[str, object] = {fact: getattr(trial, fact) for fact in facts}
        row = {**told_of, "exceeded": " ".join(trial.exceeded), "baseline": "yes" if trial.baseline else "no"}
        writer.writerow(["" if v is None else v for v in row.values()] + [trial.values.get(n, "") for n in names])
