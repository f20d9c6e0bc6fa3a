"""Ensembles: the list, and what one consists of, what was chosen and why, its scores."""

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ichx.errors import IchxError, NotFoundError
from ichx.evaluation.subject import Subject
from ichx.experiment_files import REPORT_FILE
from ichx.formatting import format_interval, shown_marks
from ichx.store import Ensemble, Selection, marks
from ichx.web.computed import COMPUTE_SECONDS, Computed, StillComputingError
from ichx.web.experiment_files import open_served, served_report
from ichx.web.numbers import path_number
from ichx.web.operating import operating_part
from ichx.web.served_files import FileContent
from ichx.web.shown_errors import shown_error, without_paths
from ichx.web.site import Site, attachment, site_of
from ichx.web.sources import PAGE_SECONDS, sources_of

if TYPE_CHECKING:
    from ichx.store import ExperimentSummary

COMPARED: Final = 8
"""Members in the link to a comparison."""


def ensembles(request: Request) -> Response:
    """List the ensembles, the newest first."""
    site = site_of(request)
    found = site.project.store.ensembles()[::-1]
    versions = {e.version_id: site.project.store.version_by_id(e.version_id) for e in found}
    rows = [{"e": e, "version": versions[e.version_id], "marks": shown_marks(e)} for e in found]
    return site.render(request, "ensembles.html.j2", title="Ensembles", rows=rows)


@without_paths
def ensemble_page(request: Request) -> Response:
    """Show an ensemble."""
    site, number = site_of(request), path_number(request)
    store = site.project.store
    e = store.ensemble(number)
    version = store.version_by_id(e.version_id)
    found = _described(request, site, e)
    facts = found["facts"]
    numbers = [member.experiment for member in e.members] + (facts["dropped"] if facts else [])
    known = _experiments(site, numbers)
    interval = facts["interval"] if facts else None
    members = [member.experiment for member in e.members]
    return site.render(
        request,
        "ensemble.html.j2",
        title=f"Ensemble {number}" + (f": {e.name}" if e.name else ""),
        e=e,
        version=version,
        source=quote(f"{version.dataset}@{version.number}", safe="@"),
        marks=shown_marks(e),
        members=_members(e, facts, known),
        known=known,
        interval="" if interval is None else format_interval(interval["low"], interval["high"]),
        others=[o for o in reversed(store.ensembles()) if o.number != number and o.dataset == e.dataset],
        with_members=f"/compare?{urlencode([('ensemble', number), *(('exp', one) for one in members[:COMPARED])])}",
        report=_has_file(site, e, REPORT_FILE),
        **found,
    )


@without_paths
def scores(request: Request) -> Response:
    """Return the tables of scores with intervals, by fold and label, as a part of the page."""
    site, number = site_of(request), path_number(request)
    e = site.project.store.ensemble(number)
    arguments = {"number": number}
    found = dict(sources_of(request).part(Computed).get("score_ensemble", arguments, _state(e), COMPUTE_SECONDS))
    shown = [*marks(e), *([] if found.pop("nested") else ["in-sample"])]
    return site.render(request, "experiment_scores.html.j2", **found, marks=shown)


@without_paths
def subgroups(request: Request) -> Response:
    """Return the tables of subgroups as a part of the page."""
    site, number = site_of(request), path_number(request)
    e = site.project.store.ensemble(number)
    arguments = {"number": number, "ensemble": True}
    found = dict(sources_of(request).part(Computed).get("score_subgroups", arguments, _state(e), COMPUTE_SECONDS))
    command = f"evaluate --ensemble {number} --dataset NAME --by scanner"
    return site.render(request, "subgroups.html.j2", **found, marks=shown_marks(e), command=command)


@without_paths
def operating(request: Request) -> Response:
    """Return the thresholds, recalibrations and evaluations as a part of the page."""
    number = path_number(request)
    site_of(request).project.store.ensemble(number)
    return operating_part(request, Subject(number, ensemble=True))


def report(request: Request) -> Response:
    """Show the report of an ensemble, if it has one, in a sandbox."""
    site, number = site_of(request), path_number(request)
    site.project.store.ensemble(number)
    return served_report(site.workspace.ensemble_dir(number))


def submission(request: Request) -> Response:
    """Send the submission of an ensemble for a test set."""
    site, number = site_of(request), path_number(request)
    site.project.store.ensemble(number)
    name = request.path_params["name"]
    handle = open_served(site.workspace.ensemble_dir(number), f"{name}.csv")
    return FileContent(handle, "application/octet-stream", attachment(f"ensemble-{number}-{name}.csv"))


def _described(request: Request, site: Site, e: Ensemble) -> dict[str, Any]:
    """Return the `facts` of an ensemble, or why they are not there: `waiting` or `problem`."""
    found: dict[str, Any] = {"facts": None, "waiting": None, "problem": None, "files": []}
    computed = sources_of(request).part(Computed)
    try:
        arguments = {"number": e.number}
        found["facts"] = computed.get("describe_ensemble", arguments, _state(e), PAGE_SECONDS)
    except StillComputingError as error:
        found["waiting"] = shown_error(error, site)
    except IchxError as error:
        found["problem"] = shown_error(error, site)
    if found["facts"] is not None:
        found["files"] = [
            name
            for name in (one["test_set"] for one in found["facts"]["submissions"])
            if _has_file(site, e, f"{name}.csv")
        ]
    return found


def _state(e: Ensemble) -> tuple[object, ...]:
    """Return what changes when an ensemble is replaced, e.g. by one of another store."""
    return e.digest, e.created, e.selected, e.leaked


def _experiments(site: Site, numbers: list[int]) -> "dict[int, ExperimentSummary]":
    """Return the experiments that still exist by number."""
    wanted = Selection(kind=None, archived=None, trashed=None, numbers=tuple(numbers))
    return {one.number: one for one in site.project.store.experiments(wanted, limit=None)} if numbers else {}


def _members(e: Ensemble, facts: dict[str, Any] | None, known: "dict[int, ExperimentSummary]") -> list[dict[str, Any]]:
    """Return the members, the largest weight first, with the range of their weights over parts of the patients.

    Bars have their lengths and ranges in percent of the largest weight.
    """
    parts = facts["parts"] if facts else []
    rows: list[dict[str, Any]] = []
    for member in sorted(e.members, key=lambda one: -one.weight):
        over = [part["weights"].get(str(member.experiment), 0.0) for part in parts]
        rows.append({"number": member.experiment, "weight": member.weight, "score": member.score, "over": over})
    most = max([abs(value) for row in rows for value in (row["weight"], *row["over"])], default=0.0) or 1.0
    for row in rows:
        over = row.pop("over")
        experiment = known.get(row["number"])
        row["low"], row["high"] = (min(over), max(over)) if over else (None, None)
        row["bar"] = round(max(100 * row["weight"] / most, 0.0), 2)
        row["range"] = [round(100 * max(end, 0.0) / most, 2) for end in (row["low"], row["high"])] if over else None
        row["experiment"] = experiment
        row["marks"] = () if experiment is None else marks(experiment)
        row["name"] = experiment.name if experiment else (facts or {}).get("names", {}).get(str(row["number"]), "-")
    return rows


def _has_file(site: Site, e: Ensemble, name: str) -> bool:
    try:
        open_served(site.workspace.ensemble_dir(e.number), name).close()
    except NotFoundError:
        return False
    return True


ROUTES: Final = (
    Route("/ensembles", ensembles),
    Route("/ensembles/{number:number}", ensemble_page),
    Route("/ensembles/{number:number}/report", report),
    Route("/ensembles/{number:number}/submissions/{name}", submission),
    Route("/api/ensembles/{number:number}/scores", scores),
    Route("/api/ensembles/{number:number}/subgroups", subgroups),
    Route("/api/ensembles/{number:number}/operating", operating),
)
