"""The list of experiments: filter, sort, choose columns, download, and states while something runs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ichx.errors import InvalidInputError, StorageError
from ichx.experiments.listing import (
    DEFAULT_COLUMNS,
    cell,
    check_columns,
    differing_columns,
    head_of,
    is_sortable,
    other_values,
    plain_table,
    recipe_columns,
    save_columns,
    saved_columns,
)
from ichx.formatting import format_value
from ichx.store import ExperimentSummary, Selection, Store
from ichx.store.runs import LIVE_STATES
from ichx.store.selection import FIELD_TYPES, OTHER_VALUES, STATES
from ichx.text import escape, format_count
from ichx.web.changes import change
from ichx.web.list_query import PAGE, PLACES, ListQuery
from ichx.web.numbers import parse_number
from ichx.web.site import csv_response, site_of

STAGES = ("balanced", "rebalanced", "full")
"""Stages of the reference recipes; the chooser of columns offers their values."""
LIVE_COLUMNS = (
    "folds_done",
    "state",
    "stage",
    "seconds",
    "score",
    "spread",
    "score_tta",
    "spread_tta",
    "host",
    "device",
)
"""Columns whose values change while an experiment runs."""
MAX_LIVE = 2 * PAGE
"""Experiments whose values a request can ask for."""


def experiments(request: Request) -> Response:
    """Show one page of the list; an invalid filter is reported next to its control."""
    site = site_of(request)
    store, query = site.project.store, ListQuery.of(request.query_params)
    problems = query.problems(store)
    found: list[ExperimentSummary] = []
    total, columns = 0, saved_columns(store) if not query.columns or "columns" in problems else query.columns
    shown = chosen = ("number", *(name for name in dict.fromkeys(columns) if name != "number"))
    if not problems:
        try:
            found, total, query = _page(store, query)
        except InvalidInputError as error:  # a condition on values of different types
            problems["where"] = error
    if query.differing and found:
        shown = differing_columns(store, found, chosen)
    others = other_values(store, found, shown)
    rows = [
        (e, [cell(e, name, others, folds_shown="folds_done" in shown) for name in shown], e.state in LIVE_STATES)
        for e in found
    ]
    return site.render(
        request,
        "experiments.html.j2",
        status=400 if problems else 200,
        title="Experiments",
        query=query,
        problems=problems,
        rows=rows,
        total=total,
        pages=max(1, -(-total // PAGE)),
        first=(query.page - 1) * PAGE + 1,
        shown=shown,
        chosen=chosen,
        groups=_column_groups(chosen),
        numeric={name for name in shown if FIELD_TYPES.get(name) is float},
        head_of=head_of,
        is_sortable=is_sortable,
        datasets=[dataset.name for dataset in store.datasets()],
        tags=store.tags(),
        states=STATES,
        places=PLACES,
        fields=[name for name in FIELD_TYPES if name not in ("kind", "archived")],
        default_columns=DEFAULT_COLUMNS,
        is_empty=not total and not problems and not store.listing(Selection(kind=None, trashed=None), limit=1)[1],
        live={"newest": _newest(store), "columns": [name for name in shown if name in LIVE_COLUMNS]},
    )


def _page(store: Store, query: ListQuery) -> tuple[list[ExperimentSummary], int, ListQuery]:
    """Return the experiments of a page, the number of all, and the query: after the end it is that of the last page."""
    selection = query.selection()
    found, total = store.listing(selection, limit=PAGE, offset=(query.page - 1) * PAGE)
    if not found and total:
        query = replace(query, page=-(-total // PAGE))
        found, total = store.listing(selection, limit=PAGE, offset=(query.page - 1) * PAGE)
    return found, total, query


def _column_groups(chosen: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns that are not `chosen` by heading."""
    stages = dict.fromkeys(name.split(".")[1] for name in chosen if name.startswith("stage."))
    groups: dict[str, list[str]] = {"Experiment": [*FIELD_TYPES, *OTHER_VALUES]}
    for name in recipe_columns(dict.fromkeys((*STAGES, *stages))):
        *path, _ = name.split(".")
        groups.setdefault(" ".join(path) or "recipe", []).append(name)
    return {heading: [name for name in names if name not in chosen] for heading, names in groups.items()}


def _newest(store: Store) -> int:
    newest = store.experiments(Selection(), limit=1)
    return newest[0].number if newest else 0


def download(request: Request) -> Response:
    """Return all experiments of the list, on all pages, as CSV."""
    store, query = site_of(request).project.store, ListQuery.of(request.query_params)
    for error in query.problems(store).values():
        raise error
    found = store.experiments(query.selection(), limit=None)
    columns = query.columns or saved_columns(store)
    shown = differing_columns(store, found, columns) if query.differing else columns
    return csv_response("experiments.csv", *plain_table(store, found, shown))


def live(request: Request) -> Response:
    """Return the present cells of experiments, whether any of them is running, and the newest number.

    The query has `exp`, repeatable, and `columns`.
    """
    store = site_of(request).project.store
    wanted = map(parse_number, request.query_params.getlist("exp"))
    numbers = [number for number in wanted if number is not None]
    if len(numbers) > MAX_LIVE:
        raise InvalidInputError(f"The request has {format_count(len(numbers), 'experiment')}.", f"Use {MAX_LIVE}.")
    columns = [name for name in request.query_params.get("columns", "").split(",") if name in LIVE_COLUMNS]
    selection = Selection(kind=None, trashed=None, numbers=tuple(numbers))
    found = store.experiments(selection, limit=None) if numbers else []
    others = other_values(store, found, columns)
    folds_shown = "folds_done" in columns
    return JSONResponse(
        {
            "cells": {
                e.number: {name: _as_json(e, name, others, folds_shown=folds_shown) for name in columns} for e in found
            },
            "states": {e.number: e.state for e in found},
            "running": [e.number for e in found if e.state in LIVE_STATES],
            "newest": _newest(store),
        }
    )


def _as_json(e: ExperimentSummary, name: str, others: Any, *, folds_shown: bool) -> dict[str, Any]:
    found = cell(e, name, others, folds_shown=folds_shown)
    return {"text": escape(format_value(found.value)), "marks": found.marks}


def remember_columns(request: Request, body: dict[str, Any]) -> Response:
    """Save the columns of all further lists of this user, here and in the terminal."""
    names = body.get("columns")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"Invalid value for `columns`: {names!r}.", "Use a list of names.")
    columns = check_columns(names)
    try:
        with site_of(request).changing():
            save_columns(columns)
    except StorageError as error:
        return JSONResponse({"columns": columns, "problem": f"{error.problem} The columns apply to this list only."})
    return JSONResponse({"columns": columns, "problem": None})


ROUTES = (
    Route("/experiments", experiments),
    Route("/experiments.csv", download),
    Route("/api/experiments/live", live),
    Route("/api/experiments/columns", change(remember_columns), methods=["POST"]),
)
