"""`ichx exp show`, `history` and `log`: one experiment in detail."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, notice, print_csv, print_json, print_labelled
from ichx.cli.parameters import AsCsv, AsJson, Number
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import NotReadyError
from ichx.evaluation.choices import CALIBRATED
from ichx.formatting import (
    format_duration,
    format_interval,
    format_recipe_value,
    format_score,
    format_value,
    marks_of,
)
from ichx.text import format_bytes, format_count, format_folds
from ichx.views import with_views

if TYPE_CHECKING:
    from ichx.experiments.recipe_values import RecipeValue
    from ichx.project import Project
    from ichx.store import EpochRecord, Experiment, JobRecord, Run, Store, TuningInfo

TICKS = "▁▂▃▄▅▆▇█"
MAX_TICKS = 40
"""Ticks in a sparkline. Of more epochs, so many evenly spaced ones are shown, including the first and last."""
POLL_SECONDS = 0.5
"""Poll interval of a followed log."""
QUIET_POLLS = 10
"""A followed log ends after so many polls without an active run or job: the folds of a run start one by one."""
RECONCILE_POLLS = 20
"""Polls between two questions to the schedulers whether the active jobs have ended."""
Histories = Mapping[int, Sequence["EpochRecord"]]


def show(
    number: Number,
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Show all recipe values instead of the changed ones.")
    ] = False,
    toml: Annotated[bool, typer.Option("--toml", help="Print only the recipe, as TOML.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show an experiment: data, scores, runs, history, files, recipe.

    The recipe table has the values that differ from the plugin's default recipe.

    Example: `ichx exp show 6`
    """
    with session() as project:
        experiment = project.store.experiment(number)
        if toml:
            from ichx.store import require_network

            require_network(experiment, "show its recipe")
            console.print(experiment.recipe, end="", markup=False)
            return
        version = project.store.version_by_id(experiment.version_id)
        runs = project.store.runs(number)
        history = {fold: project.store.history(number, fold) for fold in sorted({run.fold for run in runs})}
        notes = project.store.notes(number)
        blends = project.store.ensembles_containing([number]).get(number, [])
        readers = project.store.sequences_of([number]).get(number, [])
        names = {member: project.store.experiment(member).name for member in experiment.members}
        from ichx.experiments.recipe_values import recipe_values

        values = recipe_values(project, experiment)
    files = project.workspace.experiment_files(number).sizes()
    changes = None if values is None else {name: v for name, v in values.items() if v.changed}
    if as_json:
        found = {"experiment": experiment, "runs": runs, "history": history, "notes": notes}
        others = {"ensembles": blends, "members": experiment.members, "read_by": readers}
        print_json(found | {"files": files, **others, "recipe_changes": changes})
        return
    console.print(f"experiment {number}: {experiment.name} ({experiment.state})", markup=False, style="bold")
    facts = _facts(experiment, version.fold_set(experiment.fold_set).leaking_patients)
    if version.part_names:
        facts.insert(1, ("mixture of", version.source))
    if names:
        facts.append(("members", ", ".join(f"{member} ({name})" for member, name in names.items())))
    if readers:
        facts.append(("read by", f"experiment {', '.join(map(str, readers))}"))
    if blends:
        facts.append(("ensembles", ", ".join(map(str, blends))))
    facts += [("run on", line) for line in _machines(runs)]
    facts.append(("files", f"{project.workspace.experiment_dir(number)}, {format_bytes(sum(files.values()))}"))
    for name, value in facts:
        print_labelled(f"  {name:<10}", value, to=console)
    if runs:
        heads = ("fold", "run", "state", "epochs", "score", "time", "started")
        print_table("runs", heads, [_run_row(run, experiment, history) for run in runs])
        for run in runs:
            if run.job is not None:
                info(f"fold {run.fold}, run {run.attempt}: job {run.job}")
            if run.error:
                info(f"fold {run.fold}, run {run.attempt}: {run.error}")
    _print_curves(history)
    if files:
        print_table("files", ("file", "size"), [(name, format_bytes(size)) for name, size in files.items()])
    for entry in notes:
        console.print(f"{format_value(entry.created)}: {entry.text}", markup=False)
    if experiment.external:
        info("Another tool made the predictions: there is no recipe, and no network.")
    elif values is None or changes is None:
        info(f"The plugin {experiment.plugin} is not installed, so the recipe has no default to compare with.")
        console.print(experiment.recipe, end="", markup=False, soft_wrap=True)
    else:
        _print_recipe(experiment.plugin, values if recipe else changes, len(values))


def history(
    number: Number,
    folds: Annotated[list[int] | None, typer.Option("--fold", help="Only this fold, from 0; repeatable.")] = None,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """Print the metrics of all epochs.

    Example: `ichx exp history 6 --csv`
    """
    with session() as project:
        experiment = project.store.experiment(number)
        experiment.check_folds(folds or ())
        selected = folds or range(experiment.folds)
        found = {fold: records for fold in selected if (records := project.store.history(number, fold))}
    if as_json:
        print_json(found)
        return
    if as_csv:
        names = list(dict.fromkeys(name for records in found.values() for r in records for name in r.values))
        rows = [
            (fold, r.stage, r.epoch, *(r.values.get(name) for name in names))
            for fold, records in found.items()
            for r in records
        ]
        print_csv(["fold", "stage", "epoch", *names], rows)
        return
    if not found:
        info(f"Experiment {number} has no finished epoch yet. Next: `ichx run {number}`")
        return
    cells = [
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
    print_table("", ("fold", "stage", "epoch", "loss", "score", "lr", "time"), cells)


def log(
    number: Number,
    fold: Annotated[int | None, typer.Option("--fold", help="Fold; default: that of the newest run.")] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Print new lines until all runs have ended, or Ctrl-C.")
    ] = False,
) -> None:
    """Print the log of a fold.

    With -f and without --fold, switches to each fold that starts.

    Example: `ichx exp log 6 -f`
    """
    with session() as project:
        experiment = project.store.experiment(number)
        experiment.check_folds([] if fold is None else [fold])
        shown = _newest_fold(project.store, number) if fold is None else fold
        files = project.workspace.experiment_files(number)
        path = files.fold(shown).log
        if not path.exists():
            queued = _queued_job(project.store, number, fold) if follow else None
            if queued is not None:
                info(f"Job {queued} is queued; waiting for its first line. Ctrl-C stops waiting.")
            polls = 0
            while not path.exists():
                if queued is None or not _is_active(project, number, fold, polls):
                    raise NotReadyError(
                        f"Fold {shown} of experiment {number} has no log.", f"Start it: `ichx run {number}`."
                    )
                time.sleep(POLL_SECONDS)
                polls += 1
                shown = _newest_fold(project.store, number) if fold is None else fold
                path = files.fold(shown).log
        position = polls = quiet = 0
        while True:
            with path.open(encoding="utf-8", errors="replace") as handle:
                handle.seek(position)
                text = handle.read()
                position = handle.tell()
            console.print(text, end="", markup=False, soft_wrap=True)
            if not follow:
                return
            if text or _is_active(project, number, fold, polls):
                quiet = 0
            else:
                quiet += 1
                if quiet > QUIET_POLLS or project.store.experiment(number).state == "done":
                    info(f"Experiment {number} is not running.")
                    return
            time.sleep(POLL_SECONDS)
            polls += 1
            newest = shown if fold is not None else _newest_fold(project.store, number)
            if newest != shown and not text and files.fold(newest).log.exists():
                shown, path, position = newest, files.fold(newest).log, 0


def _newest_fold(store: "Store", number: int) -> int:
    """Return the fold of the newest run; 0 if there is none."""
    runs = store.runs(number)
    return max(runs, key=lambda run: run.id).fold if runs else 0


def _queued_job(store: "Store", number: int, fold: int | None) -> str | None:
    """Return the handle of an active job of the experiment (of one fold)."""
    return next((job.handle for job in _active_jobs(store, number, fold) if job.handle), None)


def _is_active(project: "Project", number: int, fold: int | None, polls: int) -> bool:
    """Return whether a run or a job of the experiment (of one fold) is active; asks the schedulers at some polls."""
    store = project.store
    if any(fold in (None, run.fold) for run in store.live_runs([number])):
        return True
    if _active_jobs(store, number, fold) and polls % RECONCILE_POLLS == 0:
        from ichx.jobs.reconcile import reconcile

        for problem in reconcile(project.workspace, store, experiments=[number]):
            if polls == 0:
                notice(problem)
    return bool(_active_jobs(store, number, fold))


def _active_jobs(store: "Store", number: int, fold: int | None) -> "list[JobRecord]":
    from ichx.store.jobs import ACTIVE

    return [job for job in store.jobs(ACTIVE, experiments=[number]) if fold in (None, job.fold)]


def _print_recipe(plugin: str, values: "Mapping[str, RecipeValue]", total: int) -> None:
    rows = [(name, format_recipe_value(v.recipe), format_recipe_value(v.default)) for name, v in values.items()]
    if rows:
        print_table(f"recipe of {plugin}", ("value", "recipe", "default"), rows)
    if others := total - len(values):
        text = (
            "All recipe values are"
            if not rows
            else f"{format_count(others, 'other value')} {'is' if others == 1 else 'are'}"
        )
        info(f"{text} the defaults of {plugin}. Show all with --recipe.")


def _run_row(run: "Run", experiment: "Experiment", history: Histories) -> tuple[object, ...]:
    records = history[run.fold]
    reached = [i for i, r in enumerate(records, 1) if (r.stage, r.epoch) == (run.stage, run.epoch)]
    scored = [r for r in records[: max(reached, default=0)] if "score" in r.values]
    end = run.heartbeat if run.ended is None else run.ended
    return (
        run.fold,
        run.attempt,
        run.state,
        f"{run.epochs_done}/{experiment.epochs}",
        scored[-1].values["score"] if scored else None,
        format_duration((end - run.started).total_seconds()),
        run.started,
    )


def _machines(runs: "Sequence[Run]") -> list[str]:
    """Return a line for each machine and device, with the folds that ran there."""
    folds: dict[str, list[int]] = {}
    for run in runs:
        folds.setdefault(f"{run.host}, {run.device}", []).append(run.fold)
    return [f"{place}: {format_folds(sorted(set(found)))}" for place, found in folds.items()]


def _print_curves(history: Histories) -> None:
    """Print loss and score of each fold as sparklines over the epochs."""
    for fold, records in history.items():
        for name in ("loss", "score"):
            values = [r.values[name] for r in records if name in r.values]
            if values:
                ends = f"{format_value(values[0])} to {format_value(values[-1])}"
                console.print(f"  fold {fold} {name:<5} {sparkline(values)}  {ends}", markup=False)


def sparkline(values: Sequence[float]) -> str:
    """Return at most `MAX_TICKS` ticks whose heights show `values`; NaN is a blank."""
    if len(values) > MAX_TICKS:
        values = [values[index * (len(values) - 1) // (MAX_TICKS - 1)] for index in range(MAX_TICKS)]
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
        mean = _with_interval(format_value(e.score_tta) + marks_of(e), e.score_tta_low, e.score_tta_high)
        facts.insert(3, (with_views(e.views), mean))
    if e.seconds is not None:
        facts.append(("time", format_duration(e.seconds)))
    if e.tags:
        facts.append(("tags", ", ".join(e.tags)))
    if e.parent is not None:
        facts.append(("parent", f"experiment {e.parent}"))
    if e.tuned is not None:
        facts.append(("tuning", _format_tuned(e.kind, e.tuned)))
    if e.origin is not None:
        facts.append(("imported", f"from experiment {e.origin['number']} of {e.origin['workspace']}"))
    if e.archived:
        facts.append(("archived", "yes, hidden from lists and `--top`"))
    if e.trashed is not None:
        facts.append(("trash", f"since {format_value(e.trashed)}; undo with `ichx exp restore {e.number}`"))
    return facts


def _format_tuned(kind: str, tuned: "TuningInfo") -> str:
    """Return the study and budget of a trial, or the trial from which an experiment was promoted."""
    trial = f"{tuned.study}, trial {tuned.trial + 1}"
    if kind != "trial":
        kind = "calibrated " if tuned.objective == CALIBRATED else ""
        return f"promoted from {trial}, {kind}score {format_value(tuned.score)} on fold {tuned.fold} [selected]"
    budget = [f"fold {tuned.fold}"]
    budget += [f"{tuned.subset:.3g} of the patients"] if tuned.subset < 1 else []
    budget += [f"{tuned.length:.3g} of each stage's epochs"] if tuned.length < 1 else []
    return f"{trial}: {', '.join(budget)}"


def _with_interval(score: str, low: float | None, high: float | None) -> str:
    bounds = format_interval(low, high)
    return f"{score}, 95 % interval over patients {bounds}" if bounds else score
