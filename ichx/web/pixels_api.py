"""Pixels of slices as bytes, for the viewer: of one slice, or of several in one response."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ichx.cache.hu_cache import Cache
from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError
from ichx.web.shown_errors import without_paths
from ichx.web.site import FOR_GOOD
from ichx.web.sources import Source, pixel_version, source_of

MOST_SLICES: Final = 16
"""Slices of one response."""


@without_paths
def pixels(request: Request) -> Response:
    """Return a slice as int16 little-endian HU, row by row."""
    from ichx.cache.display import read_displayed

    source = source_of(request)
    row = source.slice(request.path_params["slice"])
    cache, size = _cache(request, source)
    shown = read_displayed(cache, source.path, row, size)
    headers = {"X-Rows": str(shown.hu.shape[0]), "X-Columns": str(shown.hu.shape[1]), "X-Centre": shown.centre}
    if shown.spacing is not None:
        headers["X-Spacing"] = _spacing(shown.spacing)
    return _bytes(request, source, shown.hu.astype("<i2", copy=False).tobytes(), headers)


@without_paths
def block(request: Request) -> Response:
    """Return several slices of a cache, one after the other, as `pixels` returns each.

    Slices that the cache could not decode have no pixels: `X-Missing` has their places in the request. `X-Spacing` has
    the spacings of all slices, empty where it is unknown.
    """
    from ichx.cache.display import read_displayed

    source = source_of(request)
    names = request.query_params.getlist("slice")
    if not 1 <= len(names) <= MOST_SLICES:
        raise InvalidInputError(f"{len(names)} slices were requested.", f"Request 1 to {MOST_SLICES}.")
    rows = [source.slice(name) for name in names]
    cache, size = _cache(request, source)
    if cache is None:
        raise NotFoundError("There is no cache.", "Request one slice at a time.")
    bodies, spacings, missing = [], [], []
    for place, row in enumerate(rows):
        try:
            shown = read_displayed(cache, source.path, row, size)
        except CorruptFileError:  # a request of this slice alone has the reason
            missing.append(str(place))
            spacings.append("")
            continue
        bodies.append(shown.hu.astype("<i2", copy=False).tobytes())
        spacings.append("" if shown.spacing is None else _spacing(shown.spacing))
    edge = str(cache.spec.size)
    headers = {"X-Rows": edge, "X-Columns": edge, "X-Spacing": ";".join(spacings), "X-Missing": ",".join(missing)}
    return _bytes(request, source, b"".join(bodies), headers)


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


def _spacing(spacing: tuple[float, float]) -> str:
    return f"{spacing[0]:.6g},{spacing[1]:.6g}"


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
