"""The list of experiments."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ichx.web.site import site_of


def experiments(request: Request) -> Response:
    """Show the experiments, the newest first."""
    site = site_of(request)
    found, total = site.project.store.listing(limit=100)
    return site.render(request, "experiments.html.j2", title="Experiments", found=found, total=total)


ROUTES = (Route("/experiments", experiments),)
