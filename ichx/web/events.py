"""Server-sent events: what changes in an experiment while its page is open."""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ichx.web.experiment_live import Client, LiveState, event, read_live
from ichx.web.numbers import path_number
from ichx.web.site import site_of

if TYPE_CHECKING:
    from ichx.web.feeds import Feeds

KEEP_ALIVE_SECONDS: Final = 15.0
"""Time after which an idle stream sends a comment, which finds out whether the browser is still there."""
RETRY: Final = "retry: 2000\n\n"
"""Lets a browser that lost the connection retry after two seconds."""
STREAM: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def experiment_events(request: Request) -> Response:
    """Stream the updates of an experiment; the browser's `Last-Event-ID`, or `since`, names what it has."""
    site, number = site_of(request), path_number(request)
    await run_in_threadpool(site.project.store.experiment, number)  # an unknown one is an error, not a stream
    cursor = request.headers.get("last-event-id") or request.query_params.get("since", "")

    def read(before: LiveState | None) -> LiveState:
        return read_live(lambda: site.project, number, before)

    stream = _updates(request.app.state.feeds, number, read, Client.at(cursor))
    return StreamingResponse(stream, media_type="text/event-stream", headers=STREAM)


async def _updates(
    feeds: "Feeds", number: int, read: Callable[[LiveState | None], LiveState], client: Client
) -> AsyncIterator[str]:
    yield RETRY
    async with feeds.follow(("experiment", number), read) as feed:
        seen = 0
        while not feed.closed:
            state, seen = feed.value, feed.version
            if state is not None:
                for update in client.updates(state):
                    yield event("update", client.cursor, update)
                if state.over:
                    yield event("end", client.cursor, {})
                    return
            if not await feed.changed(seen, KEEP_ALIVE_SECONDS):
                yield ": \n\n"


ROUTES = (Route("/api/experiments/{number:number}/events", experiment_events),)
