"""The list of sources and their studies."""

from typing import Any, Final
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.errors import InvalidInputError, NotReadyError
from ichx.labels import LABELS
from ichx.web.numbers import page_number, query_number
from ichx.web.shown_errors import shown_error, without_paths
from ichx.web.site import site_of
from ichx.web.sources import FILES, PAGE_SECONDS, Source, sources_of
from ichx.web.studies_api import study_url

PAGE: Final = 100
"""Studies of a page."""


@without_paths
def studies(request: Request) -> Response:
    """Show the studies of a source, filtered, by pages; `of` selects whose predictions the viewer shows."""
    site, sources = site_of(request), sources_of(request)
    names = sources.names()
    query = request.query_params
    name = query.get("source") or (names[0] if names else "")
    context: dict[str, Any] = {"title": "Studies", "names": names, "name": name, "query": query, "files": FILES}
    if not names:
        return site.render(request, "studies.html.j2", **context, source=None, waiting=None)
    try:
        source = sources.get(name, PAGE_SECONDS)
    except NotReadyError as error:
        return site.render(request, "studies.html.j2", **context, source=None, waiting=shown_error(error, site))
    found = select_studies(source, query)
    shown = [("of", of) for of in query.getlist("of")[:2]]
    if query.get("open") == "first" and len(found):
        first = source.index.studies["study"][int(found[0])].as_py()
        return RedirectResponse(study_url(source.name, first, shown), 303)
    pages = max(1, -(-len(found) // PAGE))
    page = page_number(query.get("page"), pages)
    rows = [source.index.studies.slice(int(row), 1).to_pylist()[0] for row in found[(page - 1) * PAGE : page * PAGE]]

    def link(**changes: str | int) -> str:
        return "/studies?" + urlencode({**query, **({"of": [of for _, of in shown]} if shown else {}), **changes}, True)

    return site.render(
        request,
        "studies.html.j2",
        **context,
        source=source,
        waiting=None,
        rows=rows,
        total=len(found),
        page=page,
        pages=pages,
        link=link,
        study_url=lambda study: study_url(source.name, study, shown),
        shown=shown,
        masked=any(source.index.studies["masks"].to_pylist()),
        choices=_choices(source),
    )


def select_studies(source: Source, query: QueryParams) -> Any:
    """Return the rows of the studies that `label`, `fold`, `scanner`, `flag` and `study` select, `(n,)`.

    Raises:
        InvalidInputError: A value is unknown.
    """
    import numpy as np

    from ichx.datasets.arrow_columns import column_values
    from ichx.datasets.study_index import SOME_POSITIVE

    table = source.index.studies
    keep = np.ones(len(table), bool)
    label, scanner, flag = (query.get(name, "") for name in ("label", "scanner", "flag"))
    if label:
        negative = label.startswith("no ")
        column = label.removeprefix("no ")
        if column not in LABELS:
            raise InvalidInputError(f"Unknown label: {label[:40]!r}.", f"Use one of {', '.join(LABELS)}.")
        counts = column_values(table[column])
        keep &= counts == 0 if negative else (counts > 0) | (counts == SOME_POSITIVE)
    fold = TRAIN_ONLY if query.get("fold") == str(TRAIN_ONLY) else query_number(query, "fold")
    if fold is not None:
        keep &= column_values(table["fold"]) == fold
    if scanner:
        keep &= np.array([text == scanner for text in table["scanner"].to_pylist()], bool)
    if flag:
        keep &= np.array([flag in text.split() for text in table["flags"].to_pylist()], bool)
    if begin := query.get("study", ""):
        keep &= np.array([text.startswith(begin) for text in table["study"].to_pylist()], bool)
    return np.flatnonzero(keep)


def _choices(source: Source) -> dict[str, list[str]]:
    """Return the values that filters can have."""
    from ichx.datasets.study_index import UNKNOWN_COUNT

    table = source.index.studies
    folds = sorted({fold for fold in table["fold"].to_pylist() if fold >= TRAIN_ONLY})
    flags = sorted({flag for text in set(table["flags"].to_pylist()) for flag in text.split()})
    return {
        "label": [*LABELS, "no any"] if set(table["any"].to_pylist()) - {UNKNOWN_COUNT} else [],
        "fold": [str(fold) for fold in folds],
        "scanner": sorted(set(table["scanner"].to_pylist())),
        "flag": flags,
    }


ROUTES: Final = (Route("/studies", studies),)
