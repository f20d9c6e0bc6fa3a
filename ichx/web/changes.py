"""Endpoints of requests that change something."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ichx.errors import InvalidInputError
from ichx.text import parse_json

Change = Callable[[Request, dict[str, Any]], Response]
"""A plain function that receives the request and the object in its body."""
BODY_SECONDS: Final = 30.0
"""Time in which a body must arrive."""


def change(handler: Change) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a route with `methods=["POST"]` that passes the JSON in the body to `handler`.

    No thread waits for the body.
    """

    def handle(request: Request, body: bytes) -> Response:
        return handler(request, _object(request, body))

    async def endpoint(request: Request) -> Response:
        try:
            body = await asyncio.wait_for(request.body(), BODY_SECONDS)
        except TimeoutError:
            raise HTTPException(408, "The request is incomplete", {"Connection": "close"}) from None
        return await run_in_threadpool(handle, request, body)

    return endpoint


def _object(request: Request, body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` is.

    Raises:
        InvalidInputError: The body is something else, or has texts that not every store can save.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise InvalidInputError(f"The request has the type {kind!r}.", "Send application/json.")
    try:
        found = parse_json(body)
    except ValueError as error:
        raise InvalidInputError(f"The request is not JSON: {error}.", "Send a JSON object.") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"The request is a {type(found).__name__}.", "Send a JSON object.")
    _check_texts(found)
    return found


def _check_texts(body: dict[str, Any]) -> None:
    """Raise `InvalidInputError` for characters that UTF-8 or PostgreSQL does not have."""
    values: list[Any] = [body]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            raise InvalidInputError(f"Invalid text: {value[:100]!r}.", "Remove NUL and surrogate characters.")
