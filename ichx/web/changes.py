"""Requests that change something: their JSON is checked before a handler sees it."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ichx.errors import InvalidInputError
from ichx.text import parse_json

Change = Callable[[Request, dict[str, Any]], Response]
"""A plain function that receives the request and the object in its body."""


def change(handler: Change) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a route with `methods=["POST"]` that calls `handler` in a thread.

    The endpoint answers with an error unless the body is a JSON object whose texts every store can save.
    """

    async def endpoint(request: Request) -> Response:
        body = _parse(request.headers.get("content-type", ""), await request.body())
        return await run_in_threadpool(handler, request, body)

    return endpoint


def _parse(kind: str, content: bytes) -> dict[str, Any]:
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise InvalidInputError(f"The request has the type {kind!r}.", "Send application/json.")
    try:
        body = parse_json(content)
    except ValueError as error:
        raise InvalidInputError(f"The request is not JSON: {error}.", "Send a JSON object.") from error
    if not isinstance(body, dict):
        raise InvalidInputError(f"The request is {type(body).__name__}, not an object.", "Send a JSON object.")
    _check_texts(body)
    return body


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
