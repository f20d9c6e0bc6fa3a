"""The files of an experiment: the list, downloads, logs, and its report.

Only files of fixed kinds below the experiment's folder are served, as downloads. Symbolic links are not followed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ichx.errors import InvalidInputError, NotFoundError
from ichx.experiment_files import REPORT_FILE
from ichx.text import format_bytes
from ichx.web.log_tail import read_tail
from ichx.web.site import site_of

KINDS: Final = frozenset(
    (".csv", ".diff", ".html", ".json", ".log", ".npy", ".onnx", ".parquet", ".pt2", ".safetensors", ".toml")
)
"""Suffixes of files that can be downloaded. Checkpoints (`.pt`) are of no use outside their workspace."""
MAX_FILES: Final = 1000
"""Files in a list."""
REPORT_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""CSP of a report, which has inline scripts and may come from somebody else's archive. In the sandbox it has an origin
that nothing else has, without the cookie: its scripts can neither read pages of this server nor send requests to it."""


@dataclass(frozen=True)
class ListedFile:
    """A file in the folder of an experiment."""

    name: str
    """Path within the folder."""
    size: str
    served: bool
    """Whether it can be downloaded."""


def list_files(folder: Path) -> list[ListedFile]:
    """Return the first `MAX_FILES` files in `folder`, sorted by path."""
    found: list[ListedFile] = []
    for path, entry in _walk(folder):
        if len(found) == MAX_FILES:
            break
        name = path.relative_to(folder).as_posix()
        found.append(ListedFile(name, format_bytes(entry.stat(follow_symlinks=False).st_size), _is_served(name)))
    return found


def _walk(folder: Path) -> "Iterator[tuple[Path, os.DirEntry[str]]]":
    """Yield the regular files below `folder`; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: (entry.is_dir(follow_symlinks=False), entry.name))
    except OSError:
        return
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path), entry


def _is_served(name: str) -> bool:
    parts = name.split("/")
    return Path(name).suffix in KINDS and not any(part.startswith(".") for part in parts) and name.isprintable()


def served_path(folder: Path, name: str) -> Path:
    """Return the path of the file `name` in `folder`.

    Raises:
        NotFoundError: There is none, it is not of a kind that is served, or a link leads to it.
    """
    path = folder / name
    plain = _is_served(name) and not name.startswith("/") and all(part not in ("", "..") for part in name.split("/"))
    if not plain or "\\" in name or not path.is_file() or path.resolve() != folder.resolve() / name:
        raise NotFoundError(f"There is no file {name!r} to download.", "The page of the experiment lists its files.")
    return path


def download(request: Request) -> Response:
    """Send a file of an experiment."""
    site, number = site_of(request), int(request.path_params["number"])
    site.project.store.experiment(number)
    path = served_path(site.workspace.experiment_dir(number), request.path_params["name"])
    name = f"experiment-{number}-{request.path_params['name'].replace('/', '-')}"
    return FileResponse(path, media_type="application/octet-stream", filename=name)


def report(request: Request) -> Response:
    """Show the report of an experiment, if it has one, in a sandbox."""
    site, number = site_of(request), int(request.path_params["number"])
    site.project.store.experiment(number)
    path = served_path(site.workspace.experiment_dir(number), REPORT_FILE)
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


def log(request: Request) -> Response:
    """Return the end of a fold's log, or what was added after the byte `from`."""
    site, number = site_of(request), int(request.path_params["number"])
    experiment = site.project.store.experiment(number)
    fold, start = number_of(request, "fold"), number_of(request, "from")
    experiment.check_folds([fold or 0])
    folder = site.workspace.experiment_dir(number)
    path = site.workspace.experiment_files(number).fold(fold or 0).log
    if path.exists():
        path = served_path(folder, path.relative_to(folder).as_posix())
    return JSONResponse(read_tail(path, start))


def number_of(request: Request, name: str) -> int | None:
    """Return a number of the query; None if it is missing."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise InvalidInputError(f"Invalid {name}: {text[:40]!r}.", "Use a number from 0.")
    return int(text)


ROUTES = (
    Route("/experiments/{number:int}/files/{name:path}", download),
    Route("/experiments/{number:int}/report", report),
    Route("/api/experiments/{number:int}/log", log),
)
