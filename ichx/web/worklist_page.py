"""Worklists: false calls, high losses, disagreements, uncertain and reviewed slices, to open in the viewer."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, urlencode

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.errors import IchxError, NotReadyError
from ichx.evaluation.worklist import AT_THRESHOLD, Kind, Worklist
from ichx.labels import LABELS
from ichx.store import Review
from ichx.web.numbers import page_number
from ichx.web.shown_errors import shown_error, without_paths
from ichx.web.site import FOR_GOOD, Site, csv_response, site_of
from ichx.web.slice_labels import as_number, reason_of_version, unknown_labels
from ichx.web.sources import FILES, PAGE_SECONDS, Source, pixel_version, sources_of
from ichx.web.studies_api import PLAIN_CURVES, predictors
from ichx.web.thumbnails import THUMBNAIL, thumbnail_png
from ichx.web.worklist_data import Prepared, WorklistChoice, Worklists, default_threshold, parse_choice, scanners_of

PAGE: Final = 50
"""Rows of a page."""
NAMES: Final[dict[Kind, str]] = {
    "false-positives": "False positives",
    "false-negatives": "False negatives",
    "highest-loss": "Highest loss",
    "disagreement": "Largest disagreement",
    "uncertain": "Most uncertain",
    "reviewed": "Reviewed",
}
VALUES: Final = {"highest-loss": "log loss", "disagreement": "difference", "uncertain": "entropy (bit)"}
"""Headers of the column of values, for kinds whose value is not the probability."""
NEED_LABELS: Final = (*AT_THRESHOLD, "highest-loss")
"""Kinds of lists that compare predictions with labels."""
FILTERS: Final = ("kind", "source", "of", "versus", "label", "threshold", "truth", "per", "fold", "scanner", "reviewed")
"""Parameters of a list; others are for the page."""


@dataclass(frozen=True)
class Listed:
    """A worklist with what it was made from."""

    choice: WorklistChoice
    source: Source
    prepared: list[Prepared]
    found: Worklist
    reviews: list[Review]

    @property
    def label(self) -> int:
        """The index of the label whose probability is shown."""
        return LABELS.index(self.choice.request.label if self.choice.request.label in LABELS else "any")


@without_paths
def worklist(request: Request) -> Response:
    """Show a page of a worklist."""
    site, query = site_of(request), request.query_params
    context: dict[str, Any] = {"title": "Worklist", "names": _sources(request), "kinds": NAMES, "query": query}
    context |= {"listed": None, "waiting": None, "problem": None, "choice": None, "at_threshold": AT_THRESHOLD}
    if not context["names"]:
        return site.render(request, "worklist.html.j2", **context)
    name = query.get("source") or context["names"][0]
    context["name"] = name
    try:
        source = sources_of(request).get(name, PAGE_SECONDS)
        known = predictors(site, source)
        context |= {"predictors": known, "scanners": scanners_of(source)}
        choice = parse_choice(query, name, [one["of"] for one in known])
        folds = sorted({int(fold) for fold in np.unique(source.index.column("fold")) if fold >= 0})
        context |= {"choice": choice, "folds": folds}
        listed = _list(request, source, choice, PAGE_SECONDS)
    except NotReadyError as error:
        waits = "predictors" not in context or error.remedy == "Wait a moment."
        context["waiting" if waits else "problem"] = shown_error(error, site)
        return site.render(request, "worklist.html.j2", **context)
    except IchxError as error:
        if context["choice"] is None:
            raise
        context["problem"] = shown_error(error, site)
        return site.render(request, "worklist.html.j2", **context)
    pages = max(1, -(-len(listed.found.rows) // PAGE))
    page = page_number(query.get("page"), pages)

    def link(**changes: str | int) -> str:
        return "/worklist?" + urlencode({**_filters(request), **changes})

    rows = [_row(site, listed, at, _filters(request)) for at in range((page - 1) * PAGE, page * PAGE)]
    context |= {
        "listed": listed,
        "rows": [row for row in rows if row is not None],
        "page": page,
        "pages": pages,
        "link": link,
        "value_name": _value_name(listed),
        "points": _points(listed, link),
        "unlabelled": listed.choice.request.kind in NEED_LABELS and not _has_labels(listed),
        "csv": "/worklist.csv?" + urlencode(_filters(request)),
    }
    return site.render(request, "worklist.html.j2", **context)


@without_paths
def download(request: Request) -> Response:
    """Return a complete worklist as CSV."""
    listed = _requested(request)
    name = f"{listed.source.name.replace('@', '-v')}-{listed.choice.request.kind}.csv"
    extra = ["other_probability"] if len(listed.prepared) > 1 else []
    heads = ["rank", "slice", "study", "patient", "fold", "label", "truth", "probability", *extra, "value", "reviews"]
    return csv_response(name, heads, _csv_rows(listed))


@without_paths
def neighbours(request: Request) -> Response:
    """Return the URLs before and after a slice in a list: `at` counts from 1, `slice` is the slice there.

    A slice that has left the list, e.g. because it was reviewed, is between its former neighbours.
    """
    listed = _requested(request)
    rows = listed.found.rows
    at = page_number(request.query_params.get("at")) - 1
    place = listed.source.index.place(request.query_params.get("slice", ""))
    before, after = at - 1, at + 1
    if place is not None and not (at < len(rows) and rows[at] == place):
        same = np.flatnonzero(rows == place)
        at = int(same[0]) if len(same) else at
        before, after = at - 1, at + 1 if len(same) else at
    filters = _filters(request)

    def url(position: int) -> str | None:
        return _slice_url(listed, position, filters) if 0 <= position < len(rows) else None

    page = at // PAGE + 1
    return JSONResponse(
        {
            "total": len(rows),
            "at": at + 1,
            "list": "/worklist?" + urlencode({**filters, "page": page}),
            "previous": url(before),
            "next": url(after),
        }
    )


@without_paths
def thumbnail(request: Request) -> Response:
    """Return a slice in the brain window as a small PNG."""
    from ichx.cache.display import read_displayed

    source = sources_of(request).get(request.path_params["source"])
    row = source.slice(request.path_params["slice"])
    caches = source.caches.by_size()
    size = next((size for size in caches if size >= THUMBNAIL), max(caches, default=THUMBNAIL))
    hu = read_displayed(caches.get(size), source.path, row, THUMBNAIL).hu
    immutable = request.query_params.get("v") == pixel_version(source)
    headers = {"Cache-Control": FOR_GOOD if immutable else "no-store"}
    return Response(thumbnail_png(hu), 200, headers, "image/png")


def _requested(request: Request) -> Listed:
    """Return the list of a request; wait for its predictions."""
    query = request.query_params
    names = _sources(request)
    source = sources_of(request).get(query.get("source") or (names[0] if names else ""))
    known = [one["of"] for one in predictors(site_of(request), source)]
    return _list(request, source, parse_choice(query, source.name, known), None)


def _list(request: Request, source: Source, choice: WorklistChoice, seconds: float | None) -> Listed:
    """Return the list of `choice`; wait for its predictions for `seconds`, or until they are read."""
    lists = sources_of(request).part(Worklists)
    assert source.version is not None
    reviews = site_of(request).project.store.reviews(source.version.dataset)
    wait = {} if seconds is None else {"seconds": seconds}
    kind = choice.request.kind
    if not choice.of and kind != "reviewed":
        raise NotReadyError(f"Nothing has predicted {source.name} yet.", "Run an experiment: `ichx run NUMBER`.")
    if kind == "disagreement" and not choice.versus:
        raise NotReadyError(f"Only one predictor has predicted {source.name}.", "Run another experiment.")
    used = [of for of in (choice.of, choice.versus) if of]
    prepared = [lists.prepare(source, of, **wait) for of in used]
    if prepared and choice.threshold is None:
        threshold = default_threshold(prepared[0].facts, choice.request)
        choice = replace(choice, request=replace(choice.request, threshold=threshold))
    return Listed(choice, source, prepared, lists.make(source, choice, reviews, prepared), reviews)


def _row(site: Site, listed: Listed, at: int, filters: dict[str, str]) -> dict[str, Any] | None:
    """Return what the page shows of the row `at` of a list; None beyond its end."""
    if at >= len(listed.found.rows):
        return None
    place = int(listed.found.rows[at])
    row = listed.source.index.at(place)
    source, slice_id = quote(listed.source.name, safe="@"), quote(row["slice_id"], safe="")
    truth = [label for label in LABELS if row[label] is not None and row[label] > 0.5]
    probabilities = [float(one.predicted[place, listed.label]) for one in listed.prepared]
    return {
        "at": at + 1,
        "slice": row["slice_id"],
        "study": row["study"],
        "fold": row["fold"] if row["fold"] >= TRAIN_ONLY else None,
        "of_study": [label for label in LABELS if (as_number(row.get(f"study_{label}")) or 0) > 0.5],
        "reason": next(iter(unknown_labels(row, reason_of_version(listed.source.version)).values()), ""),
        "truth": None if row["any"] is None or row["any"] != row["any"] else truth,
        "probabilities": probabilities,
        "value": float(listed.found.values[at]),
        "reviews": [review for review in listed.reviews if review.slice == row["slice_id"]],
        "url": _slice_url(listed, at, filters),
        "thumbnail": f"/api/thumbnails/{source}/{slice_id}?v={pixel_version(listed.source)}",
    }


def _slice_url(listed: Listed, at: int, filters: dict[str, str]) -> str:
    """Return the URL of a row in the viewer, which finds its neighbours with `list`, `at` and `listed`."""
    slice_id = listed.source.index.at(int(listed.found.rows[at]))["slice_id"]
    of = [("of", one) for one in (listed.choice.of, listed.choice.versus) if one]
    shown = [("curves", PLAIN_CURVES)] if of else []
    query = urlencode([*of, *shown, ("list", urlencode(filters)), ("at", at + 1), ("listed", slice_id)])
    return f"/slices/{quote(listed.source.name, safe='@')}/{quote(slice_id, safe='')}?{query}"


def _csv_rows(listed: Listed) -> Iterator[list[object]]:
    index, label = listed.source.index, listed.label
    ids, patients, folds = (index.column(name) for name in ("slice_id", "patient", "fold"))
    studies, study = index.studies["study"].to_pylist(), index.column("study")
    truth = index.column(LABELS[label])
    reviews: dict[str, list[str]] = defaultdict(list)
    for review in listed.reviews:
        reviews[review.slice].append(review.finding)
    for at, (place, value) in enumerate(zip(listed.found.rows, listed.found.values, strict=True), start=1):
        p = [round(float(one.predicted[place, label]), 6) for one in listed.prepared]
        yield [
            at,
            ids[place],
            studies[study[place]],
            patients[place],
            int(folds[place]) if folds[place] >= TRAIN_ONLY else None,
            LABELS[label],
            None if np.isnan(truth[place]) else int(truth[place] > 0.5),
            *(None if np.isnan(one) else one for one in p or [np.nan]),
            None if np.isnan(value) else round(float(value), 6),
            "; ".join(reviews[ids[place]]),
        ]


def _points(listed: Listed, link: Any) -> list[dict[str, Any]]:
    """Return the thresholds to choose from, for lists that have one."""
    request = listed.choice.request
    if request.kind not in AT_THRESHOLD or not listed.prepared:
        return []
    points = listed.prepared[0].facts["thresholds"].get(request.unit, {}).get(request.label, [])
    return [
        {**point, "url": link(threshold=f"{point['threshold']:.9g}")}
        for point in points
        if point["threshold"] is not None
    ]


def _has_labels(listed: Listed) -> bool:
    """Return whether the label of the list is known for a row."""
    label = LABELS[listed.label]
    known = ~np.isnan(listed.source.index.column(label))
    of_studies = listed.source.index.study_labels()
    if of_studies is not None and listed.choice.request.unit == "study":
        known |= ~np.isnan(of_studies[:, listed.label])
    return bool(known.any())


def _value_name(listed: Listed) -> str | None:
    """Return the header of the values; None if they are the probabilities that the rows show anyway."""
    request = listed.choice.request
    of_study = f"p({request.label}) of the study" if request.unit == "study" else None
    return VALUES.get(request.kind, of_study if request.kind in AT_THRESHOLD else None)


def _filters(request: Request) -> dict[str, str]:
    return {name: request.query_params[name] for name in FILTERS if request.query_params.get(name)}


def _sources(request: Request) -> list[str]:
    return [name for name in sources_of(request).names() if name != FILES]


ROUTES: Final = (
    Route("/worklist", worklist),
    Route("/worklist.csv", download),
    Route("/api/worklist", neighbours),
    Route("/api/thumbnails/{source}/{slice:path}", thumbnail),
)
