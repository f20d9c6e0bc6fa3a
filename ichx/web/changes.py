"""Endpoints of requests that change something."""

from collections.abc import Callable
from typing import Any

import anyio.from_thread
from starlette.requests import Request
from starlette.responses import Response

from ichx.errors import InvalidInputError
from ichx.text import parse_json

Change = Callable[[Request, dict[str, Any]], Response]
"""A plain function that receives the request and the object in its body."""


def change(handler: Change) -> Callable[[Request], Response]:
    """Return the endpoint of a route with `methods=["POST"]` that passes the JSON in the body to `handler`."""

    def endpoint(request: Request) -> Response:
        return handler(request, _json_body(request))

    return endpoint


def _json_body(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body of `request`.

    Raises:
        InvalidInputError: The body is something else, or has texts that not every store can save.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise InvalidInputError(f"The request has the type {kind!r}.", "Send application/json.")
    try:
        found = parse_json(anyio.from_thread.run(request.body))
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
