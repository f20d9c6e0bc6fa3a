"""The files of an experiment: the list, downloads, logs, and its report.

Only files of fixed kinds below the experiment's folder are served, as downloads. Symbolic links are not followed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ichx.errors import NotFoundError
from ichx.experiment_files import REPORT_FILE
from ichx.text import format_bytes
from ichx.web.log_tail import BYTE_DIGITS, read_tail
from ichx.web.numbers import path_number, query_number
from ichx.web.served_files import FileContent, open_inside
from ichx.web.site import attachment, site_of

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


def open_served(folder: Path, name: str) -> BinaryIO:
    """Open the file `name` in `folder`.

    Raises:
        NotFoundError: There is none, it is not of a kind that is served, or a link leads to it.
    """
    try:
        if _is_served(name):
            return open_inside(folder, name)
    except OSError as error:
        raise _missing(name) from error
    raise _missing(name)


def _missing(name: str) -> NotFoundError:
    return NotFoundError(f"There is no file {name[:200]!r} to download.", "The page of the experiment lists its files.")


def download(request: Request) -> Response:
    """Send a file of an experiment."""
    site, number, name = site_of(request), path_number(request), request.path_params["name"]
    site.project.store.experiment(number)
    handle = open_served(site.workspace.experiment_dir(number), name)
    saved_as = attachment(f"experiment-{number}-{name.replace('/', '-')}")
    return FileContent(handle, "application/octet-stream", saved_as)


def report(request: Request) -> Response:
    """Show the report of an experiment, if it has one, in a sandbox."""
    site, number = site_of(request), path_number(request)
    site.project.store.experiment(number)
    return served_report(site.workspace.experiment_dir(number))


def served_report(folder: Path) -> FileContent:
    """Return the report in the `folder` of an experiment or ensemble, to be shown in a sandbox."""
    return FileContent(open_served(folder, REPORT_FILE), "text/html", {"Content-Security-Policy": REPORT_POLICY})


def log(request: Request) -> Response:
    """Return the end of a fold's log, or what was added after the byte `from`."""
    site, query = site_of(request), request.query_params
    experiment = site.project.store.experiment(path_number(request))
    fold, start = query_number(query, "fold") or 0, query_number(query, "from", BYTE_DIGITS)
    experiment.check_folds([fold])
    files = site.workspace.experiment_files(experiment.number)
    return JSONResponse(read_tail(files.folder, files.fold(fold).log.relative_to(files.folder).as_posix(), start))


ROUTES = (
    Route("/experiments/{number:number}/files/{name:path}", download),
    Route("/experiments/{number:number}/report", report),
    Route("/api/experiments/{number:number}/log", log),
)
