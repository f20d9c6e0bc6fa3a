"""The page of a study: its slices in a viewer, with predictions and overlays. `studies_api` serves what it shows."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ichx.ct.named_windows import WINDOWS
from ichx.web.site import site_of


def study(request: Request) -> Response:
    """Show the viewer of a study."""
    shown = {
        "source": request.path_params["source"],
        "study": request.path_params["study"],
        "windows": [{"name": name, "centre": centre, "width": width} for name, (centre, width) in WINDOWS.items()],
    }
    return site_of(request).render(request, "study.html.j2", title=f"Study {shown['study']}", shown=shown)


ROUTES = (Route("/studies/{source}/{study:path}", study),)
