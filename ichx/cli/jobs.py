"""`ichx jobs`: the jobs of clusters, reconciled with their schedulers."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, cast, get_args

import typer

from ichx.cli.confirmation import confirmed
from ichx.cli.output import console, info, notice, print_json, print_labelled, warn
from ichx.cli.parameters import AsJson, complete_number
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import NotFoundError
from ichx.formatting import format_duration, format_value
from ichx.store import JobRecordState
from ichx.store.jobs import ACTIVE
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import JobRecord

LIMIT = 50
"""Jobs in a list unless `--limit` or `--all` is given. Active jobs are always listed."""
MAX_DIGITS: Final = 19
"""Digits of the largest number of an experiment."""
POLL_SECONDS = 5.0
"""Time between two questions to the schedulers with `--follow`."""

STATES: Final = get_args(JobRecordState)

app = typer.Typer()


def parse_state(text: str) -> JobRecordState:
    """Return `text` if it is the state of a job.

    Raises:
        typer.BadParameter: It is not.
    """
    if text not in STATES:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, STATES))}.")
    return cast("JobRecordState", text)


@app.callback(invoke_without_command=True)
def jobs(
    experiment: Annotated[
        int | None, typer.Argument(metavar="[NUMBER]", min=1, help="Only jobs of this experiment.")
    ] = None,
    states: Annotated[
        list[str] | None,
        typer.Option("--state", parser=parse_state, metavar="STATE", help="Only in this state, e.g. lost; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number; default: 50.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="List all instead of the newest 50.")] = False,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Print changes until all jobs have ended, or Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the jobs on clusters, the newest first.

    Asks the schedulers for the state of the active jobs first. Jobs on this machine are not listed, because they end
    with their command.

    Example: `ichx jobs --state running --state queued`

    Example: `ichx jobs 6`
    """
    with session() as project:
        if experiment is not None:
            project.store.experiment(experiment)
        only = None if experiment is None else [experiment]
        newest = None if everything else limit or LIMIT
        _reconcile(project, only)
        wanted = cast("list[JobRecordState] | None", states or None)
        found = project.store.jobs(wanted, experiments=only, newest=newest)
        if as_json:
            print_json(list(reversed(found)))
            return
        _print_jobs(found)
        if newest is not None and len(found) == newest:
            info(f"The newest {newest} jobs are listed; --all lists all.")
        if follow:
            _follow(project, only)


@app.command("show")
def show(handle: Annotated[str, typer.Argument(help="Handle of a job.")], as_json: AsJson = False) -> None:
    """Show a job: state, exit code, log.

    Example: `ichx jobs show slurm:123456_4`
    """
    with session() as project:
        _reconcile(project, None)
        found = _find(project, [handle])
    if len(found) != 1:
        raise NotFoundError(
            f"{handle} names {format_count(len(found), 'job')}.", "Use the handle of one job; `ichx jobs` lists them."
        )
    (record,) = found
    if as_json:
        print_json(record)
        return
    facts: list[tuple[str, Any]] = [
        ("job", record.handle or record.submission),
        ("name", record.name),
        ("state", f"{record.state}{f' ({record.reason})' if record.reason else ''}"),
        ("exit code", record.exit_code),
        ("submitted", record.submitted),
        ("ended", record.ended),
        ("log", project.workspace.root / record.log),
        ("files", project.workspace.jobs_dir / record.submission),
    ]
    for name, value in facts:
        if value is not None:
            print_labelled(f"{name:<10}", format_value(value), to=console)


@app.command("cancel")
def cancel(
    which: Annotated[
        list[str],
        typer.Argument(metavar="JOB", autocompletion=complete_number, help="Handles or experiment numbers."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Cancel without confirmation.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what would be cancelled as JSON; cancel nothing.")
    ] = False,
) -> None:
    """Cancel active jobs: those named, or all of an experiment and its trials.

    A running fold writes a checkpoint first. `ichx run` resumes it.

    Example: `ichx jobs cancel slurm:123456_4`

    Example: `ichx jobs cancel 6 --yes`
    """
    with session() as project:
        _reconcile(project, None)
        found = [record for record in _find(project, which) if record.state in ACTIVE]
        if as_json:
            print_json(found)
            return
        if not found:
            info("None of these jobs is active.")
            return
        _print_jobs(found)
        command = f"ichx jobs cancel {' '.join(which)}"
        if not confirmed(f"Cancel {format_count(len(found), 'job')}?", command, yes=yes, verb="cancel"):
            return
        if _cancel(project, found):
            raise typer.Exit(1)


def _cancel(project: "Project", records: "Sequence[JobRecord]") -> bool:
    """Cancel jobs; return whether one is left that could not be cancelled."""
    from ichx.jobs.cancel import cancel_jobs

    report = cancel_jobs(project.workspace, records)
    if report.submitting:
        waiting = format_count(report.submitting, "job")
        warn(f"{waiting} being submitted: repeat this when `ichx jobs` shows its handle.")
    for problem in report.problems:
        warn(problem)
    for name, count in report.asked.items():
        info(f"Asked {name} to cancel {format_count(count, 'job')}. `ichx jobs` shows when they have ended.")
    return not report.complete


def _reconcile(project: "Project", experiments: list[int] | None) -> None:
    from ichx.jobs.reconcile import reconcile

    for problem in reconcile(project.workspace, project.store, experiments=experiments):
        notice(f"The last known states are shown. {problem}")


def _find(project: "Project", which: "Sequence[str]") -> "list[JobRecord]":
    """Return the jobs that handles, and numbers of experiments, name.

    Raises:
        NotFoundError: A handle, submission or experiment is unknown.
    """
    found: dict[int, JobRecord] = {}
    numbers = {name for name in which if name.isdecimal() and len(name) <= MAX_DIGITS}
    every = project.store.jobs() if not numbers.issuperset(which) else []
    for name in which:
        if name in numbers:
            from ichx.store import Selection

            number = int(name)
            project.store.experiment(number)
            children = project.store.experiments(Selection(kind="trial", parent=number, archived=None), limit=None)
            records = project.store.jobs(experiments=[number, *(child.number for child in children)])
        else:
            records = [r for r in every if name in (r.handle, r.submission)]
            if not records:
                raise NotFoundError(f"No job {name!r}.", "`ichx jobs` lists the jobs.")
        found |= {record.id: record for record in records}
    return list(found.values())


def _print_jobs(records: "Sequence[JobRecord]") -> None:
    if not records:
        info("No jobs. Submit folds with `ichx run NUMBER --on slurm`.")
        return
    rows = [
        (
            record.handle or record.submission,
            record.name,
            record.state,
            record.reason or (f"exit code {record.exit_code}" if record.state == "failed" else None),
            None if record.seconds is None else format_duration(record.seconds),
            record.submitted,
        )
        for record in reversed(records)
    ]
    heads = ("job", "name", "state", "reason", "time", "submitted")
    caption = ", ".join(f"{count} {state}" for state, count in Counter(record.state for record in records).items())
    print_table("jobs", heads, rows, caption=caption, drop=("submitted", "time"), cut={"name": 20, "job": 12})


def _follow(project: "Project", only: list[int] | None) -> None:
    """Print changes of the active jobs until all have ended."""
    known = {record.id: record.state for record in project.store.jobs(ACTIVE, experiments=only)}
    while known:
        time.sleep(POLL_SECONDS)
        _reconcile(project, only)
        for record in project.store.jobs(experiments=only):
            if record.id in known and record.state != known[record.id]:
                reason = f" ({record.reason})" if record.reason else ""
                info(f"{record.handle or record.submission}, {record.name}: {record.state}{reason}")
                known[record.id] = record.state
        known = {id_: state for id_, state in known.items() if state in ACTIVE}
