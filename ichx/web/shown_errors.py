"""Errors in responses, without the folders in their messages: names of files and folders may be names of patients."""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from starlette.requests import Request
from starlette.responses import Response

from ichx.errors import IchxError, as_user_error
from ichx.web.site import Site, site_of

_FOLDERS = re.compile(r"(?<![\w./-])/(?:[^/\s'\"]+/)+")
"""Folders of an absolute path in a message."""

Arguments = ParamSpec("Arguments")


def without_paths(handler: Callable[Arguments, Response]) -> Callable[Arguments, Response]:
    """Return `handler`, whose first argument is the request, with folders removed from the messages of its errors."""

    @wraps(handler)
    def handle(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Response:
        request = args[0]
        assert isinstance(request, Request)
        try:
            return handler(*args, **kwargs)
        except OSError as error:
            raise shown_error(as_user_error(error), site_of(request)) from error
        except IchxError as error:
            raise shown_error(error, site_of(request)) from error

    return handle


def shown_error(error: IchxError, site: Site) -> IchxError:
    """Return `error` without folders in its message."""
    known = [site.workspace.cache_dir, site.workspace.root] + ([site.files] if site.files is not None else [])

    def shown(text: str) -> str:
        for path in known:
            text = text.replace(f"{path}/", "").replace(str(path), "the files" if path == site.files else "the folder")
        return _FOLDERS.sub("", text)

    return type(error)(shown(error.problem), shown(error.remedy))
