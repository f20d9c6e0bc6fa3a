"""Pixels of slices as bytes, for the viewer: of one slice, or of several in one response.

A slice is int16 little-endian HU, row by row. With `stored=1` the server sends it as its cache stores it, if the viewer
can decode that: reading takes a fraction of decoding, and there are fewer bytes to send.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ichx.cache.hu_cache import Cache
from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError
from ichx.web.browser_chunks import can_decode
from ichx.web.shown_errors import without_paths
from ichx.web.site import FOR_GOOD
from ichx.web.sources import Source, pixel_version, source_of

MOST_SLICES: Final = 16
"""Slices of one response."""


@dataclass(frozen=True)
class Sent:
    """A slice as it is sent."""

    body: bytes
    stored: bool
    """Whether `body` is a chunk of the cache."""
    shape: tuple[int, int]
    spacing: str
    """Spacing of rows and columns in mm; empty if it is unknown."""
    centre: str


@without_paths
def pixels(request: Request) -> Response:
    """Return a slice. `X-Chunks` has the length of a stored chunk; it is missing if the slice was decoded."""
    source = source_of(request)
    row = source.slice(request.path_params["slice"])
    cache, size = _cache(request, source)
    sent = _read(request, source, cache, row, size)
    headers = {"X-Rows": str(sent.shape[0]), "X-Columns": str(sent.shape[1]), "X-Centre": sent.centre}
    if sent.spacing:
        headers["X-Spacing"] = sent.spacing
    if sent.stored:
        headers["X-Chunks"] = str(len(sent.body))
    return _bytes(request, source, sent.body, headers)


@without_paths
def block(request: Request) -> Response:
    """Return several slices of a cache, one after the other, as `pixels` returns each.

    Slices that the cache could not decode have no pixels: `X-Missing` has their places in the request. `X-Spacing` has
    the spacings of all slices, empty where it is unknown, and `X-Chunks` the lengths of chunks, empty where the slice
    was decoded.
    """
    source = source_of(request)
    names = request.query_params.getlist("slice")
    if not 1 <= len(names) <= MOST_SLICES:
        raise InvalidInputError(f"{len(names)} slices were requested.", f"Request 1 to {MOST_SLICES}.")
    rows = source.cached_slices(names)
    cache, size = _cache(request, source)
    if cache is None:
        raise NotFoundError("There is no cache.", "Request one slice at a time.")
    sent: list[Sent | None] = []
    for row in rows:
        try:
            sent.append(_read(request, source, cache, row, size))
        except CorruptFileError:  # a request of this slice alone has the reason
            sent.append(None)
    edge = str(cache.spec.size)
    headers = {
        "X-Rows": edge,
        "X-Columns": edge,
        "X-Spacing": ";".join("" if one is None else one.spacing for one in sent),
        "X-Missing": ",".join(str(place) for place, one in enumerate(sent) if one is None),
        "X-Chunks": ",".join("" if one is None or not one.stored else str(len(one.body)) for one in sent),
    }
    return _bytes(request, source, b"".join(one.body for one in sent if one is not None), headers)


def _read(request: Request, source: Source, cache: Cache | None, row: Mapping[str, Any], size: int | None) -> Sent:
    from ichx.cache.display import read_displayed, read_stored

    if cache is not None and request.query_params.get("stored") == "1":
        found = read_stored(cache, row)
        if can_decode(found.chunk):
            edge = cache.spec.size
            return Sent(found.chunk, True, (edge, edge), _spacing(found.spacing), found.centre)
    shown = read_displayed(cache, source.path, row, size)
    shape = shown.hu.shape[0], shown.hu.shape[1]
    return Sent(shown.hu.astype("<i2", copy=False).tobytes(), False, shape, _spacing(shown.spacing), shown.centre)


def _cache(request: Request, source: Source) -> tuple[Cache | None, int | None]:
    """Return the cache of the requested size and this size; None for both without any cache and size."""
    from ichx.cache.display import check_size

    size = check_size(request.query_params.get("size"))
    cache = source.caches.of(size)
    if cache is None and (sizes := list(source.caches.by_size())):
        raise NotFoundError(
            f"There is no cache of {size} px.", f"Use one of {', '.join(map(str, sizes))}, or build it."
        )
    return cache, size


def _spacing(spacing: tuple[float, float] | None) -> str:
    return "" if spacing is None else f"{spacing[0]:.6g},{spacing[1]:.6g}"


def _bytes(request: Request, source: Source, body: bytes, headers: dict[str, str]) -> Response:
    """Return a response that a browser keeps if the URL names the version of the pixels."""
    of_version = request.query_params.get("v") == pixel_version(source)
    headers["Cache-Control"] = FOR_GOOD if of_version else "no-store"
    return Response(body, 200, headers, "application/octet-stream")


ROUTES = (
    Route("/api/pixels/{source}", block),
    Route("/api/pixels/{source}/{slice:path}", pixels),
)
"""Of a slice and of several."""
