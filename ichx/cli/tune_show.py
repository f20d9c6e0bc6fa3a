"""`ichx tune show`: what a study has found, and what its best trial is worth on the folds that did not choose it."""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.numbers import Number
from ichx.cli.render import cell, duration, print_json, say, session, table, warn
from ichx.data.wording import counted
from ichx.tuning.wording import good, headers, searched, told

if TYPE_CHECKING:
    from ichx.tuning.promoted import Promoted
    from ichx.tuning.results import StudyView, TrialView

SHOWN = 10
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
    with session() as (workspace, store):
        store.experiment(number)  # an unknown number is told before Optuna is imported, which takes a second
        from ichx.tuning.results import read_study

        found = read_study(workspace, store, number, study)
    if as_json:
        print_json(found)
    elif as_csv:
        _write_csv(found)
    else:
        print_study(found, workspace.root)


def print_study(view: "StudyView", root: Path) -> None:
    """Print what a study has found; logs are told from the workspace's `root`."""
    marked = f"[{', '.join(view.marks)}]"
    _print_head(view)
    _print_trials(view, marked)
    _print_learned(view)
    for line in (*over(view, marked), *saved(view)):
        say(line)
    failed = [t for t in view.trials if t.state == "failed"]
    for trial in failed[-SHOWN:]:
        which = f", experiment {trial.experiment}," if trial.experiment is not None else ""
        log = f"; its log: {root / trial.log}" if trial.log else ""
        warn(f"trial {trial.trial + 1}{which} failed: {trial.error}{log}")
    if len(failed) > SHOWN:
        warn(f"{counted(len(failed) - SHOWN, 'earlier trial')} failed, too; --json tells why")
    _print_promoted(view.promoted, marked)
    for line in following(view):
        say(line)


def over(view: "StudyView", marked: str) -> list[str]:
    """Return what is to be said of done trials that a limit rules out."""
    found = sorted((t for t in view.trials if t.state == "done" and t.exceeded), key=lambda t: t.score or 0.0)
    if not found:
        return []
    best = found[0]
    return [
        f"{counted(len(found), 'done trial')} over a limit, the best one experiment {best.experiment}: "
        f"{cell(best.score)} {marked}, over {', '.join(best.exceeded)}"
    ]


def saved(view: "StudyView") -> list[str]:
    """Return what is to be said of the epochs that pruning spared."""
    if not view.saved.epochs:
        return []
    planned = sum(t.planned or 0 for t in view.trials)
    time = f", about {duration(view.saved.seconds)}" if view.saved.seconds else ""
    return [
        f"pruning {counted(view.saved.trials, 'trial')} spared {view.saved.epochs:,} of "
        f"{counted(planned, 'epoch')}{time}"
    ]


def following(view: "StudyView") -> list[str]:
    """Return what is to be done next."""
    best, named = view.best, f" --study {view.name}" if view.name else ""
    if best is None:
        return [f"no trial is done within the limits yet: `ichx tune {view.experiment}{named}` goes on"]
    taken = next((p for p in view.promoted if p.trial == best.experiment), None)
    if best.baseline:
        return ["no trial is better than the recipe as it is: more trials or another space may find one"]
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
    states = [f"{view.counted(state)} {state}" for state in ("done", "pruned", "failed", "running")]
    present = ", ".join(state for state in states if not state.startswith("0 "))
    called = f"study {view.name} of " if view.name else ""
    part = [f"fold {view.fold}"]
    part += [f"{100 * view.subset:.3g} % of the patients"] if view.subset < 1 else []
    part += [f"{100 * view.length:.3g} % of the epochs"] if view.length < 1 else []
    say(f"{called}experiment {view.experiment}, {', '.join(part)}: {counted(len(view.trials), 'trial')}: {present}")


def _print_trials(view: "StudyView", marked: str) -> None:
    scored = [t for t in view.trials if t.score is not None and t.state != "failed"]
    if not scored:
        return
    ranked = sorted(scored, key=lambda t: (not t.chosen_from, t.state != "done", t.score, t.trial))
    shown = ranked[:SHOWN]
    baseline = view.baseline
    if baseline in scored and baseline not in shown:
        shown.append(baseline)
    names = [learned.name for learned in view.learned][:VALUES]
    heads = headers(names, [learned.name for learned in view.learned])
    rows = [(t.experiment, t.score, _state(t), *(told(t.values.get(name)) for name in names)) for t in shown]
    title = f"best trials, scores of fold {view.fold} {marked}"
    left = len(view.learned) - len(names)
    which = "values that matter most" if view.importances else "some of the values"
    caption = f"{which}; {counted(left, 'other')} in --json" if left else ""
    table(
        title, ("exp", "score", "state", *heads), rows, caption=caption, drop=heads[:1:-1], cut=dict.fromkeys(heads, 6)
    )


def _state(trial: "TrialView") -> str:
    if trial.exceeded:
        return f"over {', '.join(trial.exceeded)}"
    return "as it is" if trial.baseline else trial.state


def _print_learned(view: "StudyView") -> None:
    if view.best is None:
        return
    if view.importances is None:
        say("too few trials are done, or too little varies, to tell what matters")
    else:
        rows = [
            (
                learned.name,
                f"{100 * (learned.importance or 0):.0f} %",
                told(learned.as_is),
                told(learned.best),
                good(learned),
                searched(learned),
            )
            for learned in view.learned[:SHOWN]
        ]
        left = len(view.learned) - len(rows)
        caption = f"{counted(left, 'other')}, which matter less, in --json" if left else ""
        heads = ("value", "matters", "as it is", "best", "best quarter", "searched")
        table("what was learned", heads, rows, caption=caption, drop=("searched",), cut={"value": 16})
    if not view.best.baseline:
        say(f"`ichx exp diff {view.experiment} {view.best.experiment}` shows what the best trial changes")


def _print_promoted(promoted: "Sequence[Promoted]", marked: str) -> None:
    if not promoted:
        return
    fold, parent = promoted[0].fold, promoted[0].parent
    rows = [
        (p.experiment, p.trial, p.chosen, p.score, p.parent_score, _difference(p), f"{len(p.folds)} of {p.others}")
        for p in promoted
    ]
    heads = ("exp", "trial", f"fold {fold}", "other folds", f"exp {parent} there", "better by", "folds run")
    marks = sorted({mark for p in promoted for mark in p.marks})
    also = f", but see their marks [{', '.join(marks)}]" if marks else ""
    caption = f"fold {fold} chose them {marked}; the other folds did not{also}. Scores are pooled over these."
    table("promoted trials", heads, rows, caption=caption, drop=("folds run", "trial"))
    for p in promoted:
        if p.problem:
            warn(f"experiment {p.experiment} cannot be compared: {p.problem.splitlines()[0]}")


def _difference(promoted: "Promoted") -> str | None:
    return None if promoted.better_by is None else f"{promoted.better_by:+.5f}"


def _write_csv(view: "StudyView") -> None:
    names = [text.partition("=")[0] for text in view.space]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    facts = ("trial", "experiment", "state", "baseline", "score", "epochs", "planned", "seconds", "exceeded", "error")
    writer.writerow([*facts, *names])
    for trial in view.trials:
        told_of: Mapping[str, object] = {fact: getattr(trial, fact) for fact in facts}
        row = {**told_of, "exceeded": " ".join(trial.exceeded), "baseline": "yes" if trial.baseline else "no"}
        writer.writerow(["" if v is None else v for v in row.values()] + [trial.values.get(n, "") for n in names])
