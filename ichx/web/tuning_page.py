"""Optuna studies: the list, and the results of one while its trials arrive. Their figures are those of the report."""

import shlex
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ichx.errors import NotFoundError
from ichx.evaluation.choices import CALIBRATED
from ichx.store import Selection
from ichx.tuning import database_path, may_have_studies, studies_url
from ichx.web.events import KEEP_ALIVE_SECONDS, RETRY, STREAM
from ichx.web.experiment_live import event
from ichx.web.numbers import path_number
from ichx.web.site import Site, site_of
from ichx.web.waiting import SharedResults

if TYPE_CHECKING:
    from ichx.tuning.results import StudyView
    from ichx.web.feeds import Feeds

MAX_TRIALS: Final = 200
"""Trials in the table, the newest ones; the figures have all."""
KEPT: Final = 8
"""Studies whose results are kept, for all pages that show them."""
DASHBOARD: Final = "optuna-dashboard"


def studies(request: Request) -> Response:
    """List the Optuna studies."""
    site = site_of(request)
    found = []
    if may_have_studies(site.workspace):
        from ichx.tuning.results import list_studies  # imports Optuna

        found = list_studies(site.workspace)
    numbers = {one.experiment for one in found}
    tuned = Selection(kind=None, archived=None, trashed=None, numbers=tuple(numbers))
    names = {one.number: one.name for one in site.project.store.experiments(tuned, limit=None)} if numbers else {}
    return site.render(
        request, "tuning.html.j2", title="Tuning", studies=found, names=names, **_dashboard(site), number=None
    )


def study_page(request: Request) -> Response:
    """Show a study of an experiment."""
    site, number = site_of(request), path_number(request)
    experiment = site.project.store.experiment(number)
    names, name = _names(request)
    return site.render(
        request,
        "tuning_study.html.j2",
        title=f"Tuning of {number}: {experiment.name}",
        number=number,
        names=names,
        name=name,
        page={"number": number, "study": name, "version": _signature(site, number)},
        results=_results(site, number, name),
        **_dashboard(site),
    )


def study_part(request: Request) -> Response:
    """Return the results of a study as a part of the page."""
    site, number = site_of(request), path_number(request)
    site.project.store.experiment(number)
    return Response(_results(site, number, _names(request)[1]), media_type="text/html")


async def events(request: Request) -> Response:
    """Stream the version of an experiment's studies, which changes with each trial and each epoch of one."""
    site, number = site_of(request), path_number(request)
    await run_in_threadpool(site.project.store.experiment, number)
    stream = _versions(request.app.state.feeds, site, number)
    return StreamingResponse(stream, media_type="text/event-stream", headers=STREAM)


async def _versions(feeds: "Feeds", site: Site, number: int) -> AsyncIterator[str]:
    yield RETRY

    def read(before: str | None) -> str:
        return _signature(site, number)

    async with feeds.follow(("tuning", number), read) as feed:
        seen = 0
        while not feed.closed:
            version, seen = feed.value, feed.version
            if version is not None:
                yield event("version", version, version)
            while not await feed.changed(seen, KEEP_ALIVE_SECONDS):
                yield ": \n\n"


def _signature(site: Site, number: int) -> str:
    """Return a text that changes when a trial of experiment `number` starts, ends or records an epoch."""
    trials = site.project.store.experiments(Selection(kind="trial", parent=number, archived=None), limit=None)
    facts: list[Any] = [(one.number, one.state, one.stage, one.seconds) for one in trials]
    path = database_path(site.workspace)
    for file in (path, path.with_name(f"{path.name}-wal")):
        with suppress(FileNotFoundError):
            state = file.stat()
            facts.append((state.st_mtime_ns, state.st_size))
    return f"{zlib.crc32(repr(facts).encode()):08x}"


def _names(request: Request) -> tuple[list[str], str]:
    """Return the names of the studies of an experiment, and the one that the request wants."""
    from ichx.tuning.results import study_names

    site, number = site_of(request), path_number(request)
    names = study_names(site.workspace, number) if may_have_studies(site.workspace) else []
    wanted = request.query_params.get("study", names[0] if names else "")
    if not names:
        raise NotFoundError(f"Experiment {number} has no study.", f"Create one: `ichx tune {number}`.")
    if wanted not in names:
        raise NotFoundError(f"Experiment {number} has no study {wanted[:80]!r}.", "The page Tuning lists the studies.")
    return names, wanted


def _results(site: Site, number: int, name: str) -> Markup:
    """Return the figures and tables of a study."""
    key = (site.workspace.root, number, name, _signature(site, number))
    return _rendered.get(key, lambda: _render(site, number, name))


_rendered = SharedResults[Markup](KEPT)


def _render(site: Site, number: int, name: str) -> Markup:
    from ichx.report.tuning_section import TuningSection, study_figures
    from ichx.tuning.describe import format_good, format_range, format_searched
    from ichx.tuning.results import read_study

    view = read_study(site.project, number, name)
    shown = (view,) if view.trials else ()
    section = TuningSection(shown, None, tuple(p.problem.splitlines()[0] for p in view.promoted if p.problem))
    return site.part(
        "tuning_results.html.j2",
        view=view,
        tuning=section,
        figures=study_figures(section),
        trials=_newest(view),
        calibrated=view.objective == CALIBRATED,
        format_good=format_good,
        format_range=format_range,
        format_searched=format_searched,
    )


def _newest(view: "StudyView") -> list[dict[str, Any]]:
    """Return the newest trials with the best score until then."""
    best, rows = None, []
    for trial in view.trials:
        if trial.eligible and trial.score is not None:
            best = trial.score if best is None else min(best, trial.score)
        rows.append({"trial": trial, "best": best})
    return rows[: -MAX_TRIALS - 1 : -1]


def _dashboard(site: Site) -> dict[str, Any]:
    """Return the command that opens Optuna's own dashboard on the same storage.

    It is shown and not run: the dashboard has no access control, and can delete studies.
    """
    url = studies_url(site.workspace).render_as_string(hide_password=True)
    command = f"{DASHBOARD} --host 127.0.0.1 {shlex.quote(url)}"
    return {"dashboard": command, "has_dashboard": find_spec("optuna_dashboard") is not None}


ROUTES = (
    Route("/tuning", studies),
    Route("/tuning/{number:number}", study_page),
    Route("/api/tuning/{number:number}/study", study_part),
    Route("/api/tuning/{number:number}/events", events),
)
