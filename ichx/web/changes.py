"""Endpoints of requests that change something."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ichx.web.site import json_body

Change = Callable[[Request, dict[str, Any]], Response]
"""A plain function that receives the request and the object in its body."""


def change(handler: Change) -> Callable[[Request], Response]:
    """Return the endpoint of a route with `methods=["POST"]` that passes the JSON in the body to `handler`."""

    def endpoint(request: Request) -> Response:
        return handler(request, json_body(request))

    return endpoint
