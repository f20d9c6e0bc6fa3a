"""`ichx exp show`, `history` and `log`: look closely at one experiment."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.formatting import format_duration, format_interval, format_score, format_value, marks_of
from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import Number
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import IchxError
from ichx.text import format_bytes, format_count

if TYPE_CHECKING:
    from ichx.store import EpochRecord, Experiment, Run, Store, Tuned

TICKS = "▁▂▃▄▅▆▇█"
MOST_TICKS = 40
"""Ticks in a row: of more epochs, as many are shown, evenly spread, the first and the last among them."""
FOLLOW_SECONDS = 0.5
"""How often a log that is followed is looked at."""
Histories = Mapping[int, Sequence["EpochRecord"]]


def show(
    number: Number,
    toml: Annotated[bool, typer.Option("--toml", help="Only its recipe, as TOML.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Show an experiment: what it is pinned to, its folds and their attempts, history, files, notes and recipe.

    Example: `ichx exp show 6`
    """
    with session() as project:
        experiment = project.store.experiment(number)
        version = project.store.version_by_id(experiment.version_id)
        runs = project.store.runs(number)
        history = {fold: project.store.history(number, fold) for fold in sorted({run.fold for run in runs})}
        notes = project.store.notes(number)
        blends = project.store.blended_in([number]).get(number, [])
    if toml:
        console.print(experiment.recipe, end="", markup=False)
        return
    files = project.workspace.experiment_files(number).sizes()
    if as_json:
        found = {"experiment": experiment, "runs": runs, "history": history, "notes": notes}
        print_json(found | {"files": files, "ensembles": blends})
        return
    console.print(f"experiment {number}: {experiment.name} ({experiment.state})", markup=False, style="bold")
    facts = _facts(experiment, version.fold_set(experiment.fold_set).leaking_patients)
    if blends:
        facts.append(("blended", "in ensemble " + ", ".join(map(str, blends))))
    facts.append(("files", f"{project.workspace.experiment_dir(number)}, {format_bytes(sum(files.values()))}"))
    for name, value in facts:
        console.print(f"  {name:<10} {value}", markup=False)
    if runs:
        heads = ("fold", "try", "state", "epochs", "score", "time", "started")
        print_table("runs", heads, [_run_row(run, experiment, history) for run in runs])
        for run in runs:
            if run.error:
                info(f"fold {run.fold}, try {run.attempt}: {run.error}")
    _print_curves(history)
    if files:
        print_table("files", ("file", "size"), [(name, format_bytes(size)) for name, size in files.items()])
    for written in notes:
        console.print(f"{format_value(written.created)}: {written.text}", markup=False)
    console.print(experiment.recipe, end="", markup=False, soft_wrap=True)


def history(
    number: Number,
    folds: Annotated[list[int] | None, typer.Option("--fold", help="Only this fold, from 0; repeatable.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output, with every metric.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Print the metrics of every epoch of every fold.

    Example: `ichx exp history 6 --csv`
    """
    with session() as project:
        experiment = project.store.experiment(number)
        for fold in folds or ():
            if not 0 <= fold < experiment.folds:
                raise IchxError(f"experiment {number} has no fold {fold}", f"its folds are 0 to {experiment.folds - 1}")
        wanted = folds or range(experiment.folds)
        found = {fold: records for fold in wanted if (records := project.store.history(number, fold))}
    if as_json:
        print_json(found)
        return
    if as_csv:
        import csv
        import sys

        names = list(dict.fromkeys(name for records in found.values() for r in records for name in r.values))
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["fold", "stage", "epoch", *names])
        for fold, records in found.items():
            for r in records:
                writer.writerow([fold, r.stage, r.epoch, *(r.values.get(name, "") for name in names)])
        return
    if not found:
        info(f"no epoch of experiment {number} is trained yet: `ichx run {number}`")
        return
    rows = [
        (
            fold,
            r.stage,
            r.epoch,
            r.values.get("loss"),
            r.values.get("score"),
            f"{r.values['lr']:.1e}" if "lr" in r.values else None,
            format_duration(r.values["seconds"]) if "seconds" in r.values else None,
        )
        for fold, records in found.items()
        for r in records
    ]
    print_table("", ("fold", "stage", "epoch", "loss", "score", "lr", "time"), rows)


def log(
    number: Number,
    fold: Annotated[int | None, typer.Option("--fold", help="Of this fold; default: the newest run's.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing what is added, until Ctrl-C.")] = False,
) -> None:
    """Print what an experiment's runs said. With -f and without --fold, it goes on with each fold that begins.

    Example: `ichx exp log 6 -f`
    """
    with session() as project:
        experiment = project.store.experiment(number)
        if fold is not None and not 0 <= fold < experiment.folds:
            raise IchxError(f"experiment {number} has no fold {fold}", f"its folds are 0 to {experiment.folds - 1}")
        shown = _newest_fold(project.store, number) if fold is None else fold
        files = project.workspace.experiment_files(number)
        path = files.fold(shown).log
        if not path.exists():
            raise IchxError(f"fold {shown} of experiment {number} has no log", f"`ichx run {number}` writes one")
        place = 0
        while True:
            with path.open(encoding="utf-8", errors="replace") as handle:
                handle.seek(place)
                text = handle.read()
                place = handle.tell()
            console.print(text, end="", markup=False, soft_wrap=True)
            if not follow:
                return
            time.sleep(FOLLOW_SECONDS)
            newest = shown if fold is not None else _newest_fold(project.store, number)
            if newest != shown and not text and files.fold(newest).log.exists():
                shown, path, place = newest, files.fold(newest).log, 0


def _newest_fold(store: "Store", number: int) -> int:
    """Return the fold of the newest run; the first where there is none."""
    runs = store.runs(number)
    return max(runs, key=lambda run: run.id).fold if runs else 0


def _run_row(run: "Run", experiment: "Experiment", history: Histories) -> tuple[object, ...]:
    records = history[run.fold]
    reached = [i for i, r in enumerate(records, 1) if (r.stage, r.epoch) == (run.stage, run.epoch)]
    last = [r for r in records[: max(reached, default=0)] if "score" in r.values]
    end = run.heartbeat if run.ended is None else run.ended
    return (
        run.fold,
        run.attempt,
        run.state,
        f"{run.epochs_done}/{experiment.epochs}",
        last[-1].values["score"] if last else None,
        format_duration((end - run.started).total_seconds()),
        run.started,
    )


def _print_curves(history: Histories) -> None:
    """Print the loss and the score of each fold as rows of ticks, from the first epoch to the last."""
    for fold, records in history.items():
        for name in ("loss", "score"):
            values = [r.values[name] for r in records if name in r.values]
            if values:
                ends = f"{format_value(values[0])} to {format_value(values[-1])}"
                line = f"  fold {fold} {name:<5} {sparkline(values)}  {ends}"
                console.print(line, markup=False)


def sparkline(values: Sequence[float]) -> str:
    """Return a tick for each of `values`, or of `MOST_TICKS` of them, by its height; a blank for what is no number."""
    if len(values) > MOST_TICKS:
        values = [values[place * (len(values) - 1) // (MOST_TICKS - 1)] for place in range(MOST_TICKS)]
    known = [value for value in values if value == value]
    if not known:
        return " " * len(values)
    low, span = min(known), max(known) - min(known)
    steps = len(TICKS) - 1
    return "".join(
        " " if value != value else TICKS[round((value - low) / span * steps) if span else steps // 2]
        for value in values
    )


def _facts(e: "Experiment", leaking: int) -> list[tuple[str, str]]:
    leaks = f"; {format_count(leaking, 'patient')} in more than one" if leaking else ""
    facts = [
        ("dataset", f"{e.dataset} version {e.dataset_version}, labels {e.label_digest[:12]}"),
        ("folds", f"{e.folds_done} of {e.folds} done, {e.fold_set}, digest {e.fold_digest[:12]}{leaks}"),
        ("OOF score", _with_interval(format_score(e), e.score_low, e.score_high)),
        ("recipe", e.recipe_digest),
        ("created", format_value(e.created)),
    ]
    if e.score_tta is not None:
        flipped = _with_interval(format_value(e.score_tta) + marks_of(e), e.score_tta_low, e.score_tta_high)
        facts.insert(3, ("with hflip", flipped))
    if e.seconds is not None:
        facts.append(("time", format_duration(e.seconds)))
    if e.tags:
        facts.append(("tags", ", ".join(e.tags)))
    if e.parent is not None:
        facts.append(("made from", f"experiment {e.parent}"))
    if e.tuned is not None:
        facts.append(("tuning", _tuned_told(e.kind, e.tuned)))
    if e.origin is not None:
        facts.append(("imported", f"it was experiment {e.origin['number']} in {e.origin['workspace']}"))
    if e.archived:
        facts.append(("archived", "yes: it is in no list and no `--top`"))
    if e.trashed is not None:
        facts.append(("trash", f"since {format_value(e.trashed)}: `ichx exp restore {e.number}` takes it out"))
    return facts


def _tuned_told(kind: str, tuned: "Tuned") -> str:
    """Return what a trial is one of and trains, or what chose an experiment that was promoted from one."""
    study = f"{tuned.study}, trial {tuned.trial + 1}"
    if kind != "trial":
        return f"promoted from {study}, which had {format_value(tuned.score)} on fold {tuned.fold} [selected]"
    part = [f"fold {tuned.fold}"]
    part += [f"{tuned.subset:.3g} of the patients"] if tuned.subset < 1 else []
    part += [f"{tuned.length:.3g} of each stage's epochs"] if tuned.length < 1 else []
    return f"{study}: {', '.join(part)}"


def _with_interval(score: str, low: float | None, high: float | None) -> str:
    """Return a score with its interval over patients, where it has one."""
    bounds = format_interval(low, high)
    return f"{score}, 95 % interval over patients {bounds}" if bounds else score
