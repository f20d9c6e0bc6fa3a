"""The web application: routes of all pages, static files and errors."""

import mimetypes

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ichx.errors import (
    ChangedDataError,
    ConflictError,
    CorruptFileError,
    IchxError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    UnsupportedError,
    as_user_error,
)
from ichx.web import annotations_api, experiments_page
from ichx.web.security import Guard, Security
from ichx.web.site import Site, site_of, static_file

PAGES = (annotations_api, experiments_page)
"""Modules with a tuple `ROUTES`."""
STATUS: dict[type[IchxError], int] = {
    InvalidInputError: 400,
    NotFoundError: 404,
    ConflictError: 409,
    NotReadyError: 409,
    UnsupportedError: 409,
    CorruptFileError: 500,
    ChangedDataError: 500,
}
"""HTTP status by error; 503 for others, e.g. a database that is away."""
FOR_GOOD = "private, max-age=31536000, immutable"


def create_app(site: Site, guard: Guard) -> Starlette:
    """Return the ASGI application that serves `site` to browsers that `guard` admits."""
    routes: list[BaseRoute] = [Route("/", _home), Route("/static/{name:path}", _static)]
    for module in PAGES:
        routes += module.ROUTES
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Security, guard=guard)],
        exception_handlers={IchxError: _expected, OSError: _operating_system, HTTPException: _http},
    )
    app.state.site = site
    app.state.guard = guard
    return app


async def _home(request: Request) -> Response:
    return RedirectResponse("/experiments", 303)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    file = static_file(name)
    if ".." in name.split("/") or "\\" in name or name.startswith("/") or not file.is_file():
        raise HTTPException(404)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    caching = FOR_GOOD if "v" in request.query_params else "no-cache"
    return Response(file.read_bytes(), media_type=kind, headers={"Cache-Control": caching})


async def _expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, IchxError)
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 503)
    return await _error(request, status, error)


async def _operating_system(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    return await _error(request, 503, as_user_error(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = "There is no such page." if error.status_code == 404 else f"{error.detail}."
    return await _error(request, error.status_code, NotFoundError(problem, "Use the links at the top of the page."))


async def _error(request: Request, status: int, error: IchxError) -> Response:
    """Return `error` as JSON below `/api/`, else as a page."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": error.to_dict()}, status)
    return await run_in_threadpool(
        site_of(request).render, request, "error.html.j2", status=status, error=error, title="Error"
    )
