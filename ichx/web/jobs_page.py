"""The jobs of clusters, as the store knows them. A scheduler is asked only if the user wants it."""

from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ichx.errors import InvalidInputError, NotFoundError
from ichx.store import JobRecordState
from ichx.store.jobs import ACTIVE
from ichx.web.changes import change
from ichx.web.log_tail import BYTE_DIGITS, read_tail
from ichx.web.numbers import path_number, query_number
from ichx.web.site import Site, site_of

if TYPE_CHECKING:
    from ichx.store import JobRecord

PAGE: Final = 100
"""Jobs in a list before the user wants more."""
MAX_CANCELLED: Final = 1000
"""Jobs that one request can cancel."""
STATES: Final = get_args(JobRecordState)


def jobs(request: Request) -> Response:
    """List the jobs, the newest first."""
    site = site_of(request)
    states = [state for state in request.query_params.getlist("state") if state]
    for state in states:
        if state not in STATES:
            raise InvalidInputError(f"Unknown state: {state[:40]!r}.", f"Use one of {', '.join(STATES)}.")
    number = query_number(request.query_params, "experiment")
    if number is not None:
        site.project.store.experiment(number)
    limit = max(PAGE, min(query_number(request.query_params, "limit") or PAGE, 100_000))
    wanted = cast("list[JobRecordState] | None", states or None)
    only = None if number is None else [number]
    found = site.project.store.jobs(wanted, experiments=only, newest=limit + 1)
    shown = found[-limit:][::-1]
    return site.render(
        request,
        "jobs.html.j2",
        title="Jobs",
        jobs=shown,
        more=len(found) > limit,
        next_limit=limit + PAGE,
        counts=Counter(job.state for job in shown),
        states=STATES,
        chosen=states,
        number=number,
        active=ACTIVE,
        link_to=_link,
    )


def job_page(request: Request) -> Response:
    """Show a job."""
    site, record = site_of(request), _record(request)
    return site.render(
        request,
        "job.html.j2",
        title=f"Job {record.handle or record.submission}",
        job=record,
        active=record.state in ACTIVE,
        has_log=_log_name(site, record) is not None,
        link=_link(record),
        files=site.workspace.jobs_dir / record.submission,
    )


def log(request: Request) -> Response:
    """Return the end of a job's log, or what was added after the byte `from`, and the job's recorded state."""
    site, record = site_of(request), _record(request)
    name = _log_name(site, record)
    if name is None:
        raise NotFoundError(f"The log of job {record.handle or record.submission} is elsewhere.", "Open it there.")
    start = query_number(request.query_params, "from", BYTE_DIGITS)
    return JSONResponse({**read_tail(site.workspace.root, name, start), "state": record.state})


def refresh(request: Request) -> Response:
    """Ask the schedulers for the states of the active jobs, and record them."""
    from ichx.jobs.reconcile import reconcile

    site = site_of(request)
    with site.changing() as project:
        problems = reconcile(site.workspace, project.store)
    return JSONResponse({"problems": problems})


def cancel(request: Request, body: dict[str, Any]) -> Response:
    """Cancel the active ones of the jobs whose `[submission, position]` are in the body."""
    from ichx.jobs.cancel import cancel_jobs
    from ichx.jobs.reconcile import reconcile

    site, named = site_of(request), body.get("jobs")
    if not isinstance(named, list) or not all(
        isinstance(one, list) and [type(part) for part in one] == [str, int] for one in named
    ):
        raise InvalidInputError("The request names no jobs.", "Send `jobs`, a list of submissions with positions.")
    if len(named) > MAX_CANCELLED:
        raise InvalidInputError(f"{len(named):,} jobs are too many.", f"Cancel at most {MAX_CANCELLED:,} at once.")
    with site.changing() as project:
        problems = reconcile(site.workspace, project.store)
        records = [_find(site, submission, position) for submission, position in named]
        report = cancel_jobs(site.workspace, [record for record in records if record.state in ACTIVE])
    return JSONResponse(
        {
            "asked": sum(report.asked.values()),
            "submitting": report.submitting,
            "problems": [*problems, *report.problems],
        }
    )


def _record(request: Request) -> "JobRecord":
    return _find(site_of(request), request.path_params["submission"], path_number(request, "position"))


def _find(site: Site, submission: str, position: int) -> "JobRecord":
    for record in site.project.store.jobs(submission=submission):
        if record.position == position:
            return record
    raise NotFoundError(f"There is no job {submission[:80]!r}, {position}.", "The page Jobs lists them.")


def _link(record: "JobRecord") -> str:
    return f"/jobs/{record.submission}/{record.position}"


def _log_name(site: Site, record: "JobRecord") -> str | None:
    """Return the path of a job's log within the workspace; None if it is elsewhere."""
    root, path = site.workspace.root, PurePosixPath(record.log)
    for above in (root, root.resolve()):
        if path.is_relative_to(above):
            path = path.relative_to(above)
    return None if path.is_absolute() or ".." in path.parts else str(path)


ROUTES = (
    Route("/jobs", jobs),
    Route("/jobs/{submission}/{position:number}", job_page),
    Route("/api/jobs/{submission}/{position:number}/log", log),
    Route("/api/jobs/refresh", refresh, methods=["POST"]),
    Route("/api/jobs/cancel", change(cancel), methods=["POST"]),
)
