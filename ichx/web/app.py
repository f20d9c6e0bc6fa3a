"""The web application: routes of all pages, static files and errors."""

import logging
import traceback

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
from ichx.text import escape
from ichx.web import (
    annotations_api,
    compare_page,
    data_page,
    ensembles_page,
    events,
    experiment_page,
    experiments_page,
    jobs_page,
    overlays_api,
    pixels_api,
    predict_api,
    reviews_api,
    studies_api,
    studies_page,
    study_page,
    tuning_page,
    worklist_page,
)
from ichx.web.feeds import Feeds
from ichx.web.security import Guard, Security
from ichx.web.site import FOR_GOOD, Site, site_of, static_files

_LOG = logging.getLogger(__name__)

PAGES = (
    pixels_api,  # the first, because its requests are the most frequent ones
    annotations_api,
    compare_page,
    data_page,
    ensembles_page,
    events,
    experiment_page,
    experiments_page,
    jobs_page,
    overlays_api,
    predict_api,
    reviews_api,
    studies_api,
    studies_page,
    study_page,
    tuning_page,
    worklist_page,
)
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
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
"""Types of static files by suffix; independent of what the system knows. Other files are plain text."""


def create_app(site: Site, guard: Guard) -> Starlette:
    """Return the ASGI application that serves `site` to browsers that `guard` admits."""
    routes: list[BaseRoute] = [Route("/", _home), Route("/static/{name:path}", _static)]
    for module in PAGES:
        routes += module.ROUTES
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Security, guard=guard), Middleware(UnexpectedErrors)],
        exception_handlers={IchxError: _expected, OSError: _operating_system, HTTPException: _http},
    )
    app.state.site = site
    app.state.guard = guard
    app.state.feeds = Feeds()
    return app


async def _home(request: Request) -> Response:
    return RedirectResponse("/experiments", 303)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    file = static_files().get(name)
    if file is None:
        raise HTTPException(404)
    kind = TYPES.get(name.rpartition(".")[2], "text/plain")
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
    kind = NotFoundError if error.status_code == 404 else InvalidInputError
    problem = "There is no such page." if error.status_code == 404 else f"{error.detail}."
    shown = kind(problem, "Use the links at the top of the page.")
    response = await _error(request, error.status_code, shown)
    response.headers.update(error.headers or {})
    return response


async def _error(request: Request, status: int, error: IchxError) -> Response:
    """Return `error` as JSON below `/api/`, else as a page."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": error.to_dict()}, status)
    return await run_in_threadpool(
        site_of(request).render, request, "error.html.j2", status=status, error=error, title="Error"
    )


class BugError(IchxError):
    """An unexpected exception, as a page shows it: without its message and traceback, which the terminal shows."""

    code = "internal"


class UnexpectedErrors:
    """Middleware: answer 500 if a handler raises an unexpected exception, and log it to the terminal."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            pass
        except Exception as error:
            # without the query, which may be long; a path may have characters that control a terminal
            place = escape(f"{scope['method']} {scope['path']}", lines=True)
            _LOG.error("%s\n%s failed. Report this bug with the traceback.", escape(traceback.format_exc()), place)
            if not started:
                response = await _unexpected(Request(scope), error)
                await response(scope, receive, send)


async def _unexpected(request: Request, error: Exception) -> Response:
    problem = f"This page failed with an unexpected {type(error).__name__}."
    shown = BugError(problem, "Report this bug with the traceback, which the terminal of `ichx ui` shows.")
    try:
        return await _error(request, 500, shown)
    except Exception:  # the templates themselves are broken
        return PlainTextResponse(f"{shown.problem} {shown.remedy}", 500)
