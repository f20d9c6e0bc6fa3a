"""Readers' reviews of slices: add, withdraw, list, and download as CSV."""

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ichx.datasets.reviews import COLUMNS, add_review, csv_rows, withdraw_review
from ichx.errors import InvalidInputError
from ichx.store import Review, ReviewDraft
from ichx.web.changes import change
from ichx.web.numbers import path_number
from ichx.web.site import csv_response, site_of
from ichx.web.sources import version_of

_TEXTS = {"source": True, "slice": True, "finding": True, "label": False, "note": False, "reader": False}
"""Keys of a request to add a review, and whether they are required."""


def add(request: Request, body: dict[str, Any]) -> Response:
    """Record a review. The body has `source`, `slice`, `finding`, and optional `label`, `note`, `reader`."""
    values: dict[str, Any] = {name: body.get(name) for name in _TEXTS}
    for name, required in _TEXTS.items():
        if not isinstance(values[name], str) and (required or values[name] is not None):
            raise InvalidInputError(f"Invalid value for `{name}`: {values[name]!r}.", "Use text.")
    with site_of(request).changing() as project:
        version = version_of(project.store, values.pop("source"))
        note = values.pop("note") or ""
        draft = ReviewDraft(version.id, note=note, **values)
        return JSONResponse({"review": as_json(add_review(project, version, draft))})


def withdraw(request: Request, _: dict[str, Any]) -> Response:
    """Withdraw a review, which stays in the history."""
    with site_of(request).changing() as project:
        return JSONResponse({"review": as_json(withdraw_review(project, path_number(request, "id")))})


def of_slice(request: Request) -> Response:
    """Return the reviews of a slice in all versions of its dataset, oldest first; `?all=1` includes withdrawn ones."""
    store = site_of(request).project.store
    version = version_of(store, request.path_params["source"])
    history = request.query_params.get("all") == "1"
    found = store.reviews(version.dataset, slices=[request.path_params["slice"]], withdrawn=history)
    return JSONResponse({"reviews": [as_json(one) for one in found]})


def download(request: Request) -> Response:
    """Return the reviews of a dataset, in all versions, as CSV; `?all=1` includes withdrawn ones."""
    store = site_of(request).project.store
    version = version_of(store, request.path_params["source"])
    found = store.reviews(version.dataset, withdrawn=request.query_params.get("all") == "1")
    return csv_response(f"{version.dataset}-reviews.csv", COLUMNS, csv_rows(found))


def as_json(review: Review) -> dict[str, Any]:
    """Return a review as JSON values."""
    values = asdict(review)
    del values["version_id"]
    dates = {"created": review.created, "withdrawn": review.withdrawn}
    return values | {name: None if when is None else when.isoformat() for name, when in dates.items()}


ROUTES = (
    Route("/api/reviews", change(add), methods=["POST"]),
    Route("/api/reviews/{id:number}/withdraw", change(withdraw), methods=["POST"]),
    Route("/api/reviews/{source}/{slice:path}", of_slice),
    Route("/data/{source}/reviews.csv", download),
)
