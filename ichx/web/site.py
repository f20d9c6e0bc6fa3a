"""What all request handlers share: the open project, the templates, and whether changes are allowed."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from ichx import formatting
from ichx.errors import UnsupportedError
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import open_store
from ichx.text import escape
from ichx.workspace import SETTINGS_FILE, Workspace, open_workspace

if TYPE_CHECKING:
    from ichx.inference.predicted_files import Probabilities

FOR_GOOD = "private, max-age=31536000, immutable"
"""`Cache-Control` of what never changes under its URL."""
NAVIGATION = (
    ("/experiments", "Experiments"),
    ("/studies", "Studies"),
    ("/worklist", "Worklist"),
    ("/data", "Data"),
    ("/ensembles", "Ensembles"),
    ("/tuning", "Tuning"),
    ("/jobs", "Jobs"),
)
"""The links at the top of each page."""
PATIENCE = 3.0
"""Seconds that a request waits for a store that is locked or away before it shows an error."""
SHARED_WITH_REPORTS = ("page.css", "page.js")
"""Static files that `ichx.report` has."""


class Site:
    """The workspace as the web app serves it. Handlers run in several threads."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        read_only: bool = False,
        files: Path | None = None,
        predictions: "Probabilities | None" = None,
    ) -> None:
        """Open the store of `workspace`.

        Args:
            workspace: The workspace to show.
            read_only: Refuse all changes.
            files: File, folder or zip with DICOM files in no dataset, to show as a source of studies.
            predictions: Probabilities of slices of `files` that `ichx predict` wrote.

        Raises:
            StoreError: The store cannot be opened.
        """
        self.workspace = workspace
        self.files = files
        self.predictions = predictions
        self.closing = ExitStack()
        """Closed with the site: processes and temporary folders of its pages."""
        self._refuses_changes = read_only
        self._opening = Lock()
        self._recording = Lock()
        self._settings = _modified(workspace)
        self._project = Project(workspace, open_store(workspace, patience=PATIENCE))

    @property
    def project(self) -> Project:
        """The open project; several threads may use its store. Handlers get it once per request.

        It is opened again if the store or the settings of the workspace have changed, e.g. if a backup was restored.

        Raises:
            StoreError: The store is missing or cannot be read.
            UnsupportedError: A newer ichx has upgraded it.
            ConflictError: Another store, or an older copy, is in its place.
        """
        if not self._is_current():
            with self._opening:
                if not self._is_current():  # another thread may have been faster
                    self._reopen()
        return self._project

    def _is_current(self) -> bool:
        return self._settings == _modified(self.workspace) and self._project.store.is_current()

    def _reopen(self) -> None:
        settings, workspace, old = _modified(self.workspace), open_workspace(self.workspace.root), self._project
        store = open_store(workspace, create=False, patience=PATIENCE)
        registry = vars(old).get("registry")  # unless it has been loaded, the new project will do that
        self.workspace, self._settings, self._project = workspace, settings, Project(workspace, store, registry)
        old.store.close()

    @property
    def read_only(self) -> bool:
        """Whether all changes are refused: by request, or because the store cannot be written."""
        return self._refuses_changes or not self._project.store.is_writable

    @contextmanager
    def changing(self) -> Iterator[Project]:
        """Yield the project to a handler that changes records; then write the records in the experiments' folders.

        Raises:
            UnsupportedError: The site is read-only.
            StoreError: The store cannot be written.
        """
        if self._refuses_changes:
            raise UnsupportedError("This server only reads.", "Start `ichx ui` without `--read-only`.")
        project = self.project
        project.store.check_writable()
        yield project
        with self._recording:
            changed, project.store.changed = project.store.changed, set()
            if changed:
                from ichx.experiments.folder_record import describe_again

                describe_again(project, changed)

    def close(self) -> None:
        """End what the pages have started, and close the store."""
        self.closing.close()
        self._project.store.close()

    def render(self, request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """Return the page that `templates/<template>` produces.

        Args:
            request: The request; templates use it to mark the current link of the navigation.
            template: File name of a template, e.g. `experiments.html.j2`.
            status: HTTP status.
            **context: The variables of the template.
        """
        page = self._templates.get_template(template)
        return HTMLResponse(page.render(request=request, site=self, **context), status_code=status)

    def part(self, template: str, **context: Any) -> Markup:
        """Return the part of a page that `templates/<template>` produces."""
        return Markup(self._templates.get_template(template).render(site=self, **context))

    @cached_property
    def _templates(self) -> Environment:
        environment = Environment(
            loader=FunctionLoader(_read_template),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_visible,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "value": formatting.format_value,
            "score": formatting.format_value,
            "duration": formatting.format_duration,
            "recipe_value": formatting.format_recipe_value,
            "count": "{:,}".format,
        }
        environment.globals |= {"label_names": LABELS, "navigation": NAVIGATION, "static": static_url}
        return environment


def _modified(workspace: Workspace) -> int | None:
    """Return when the settings of a workspace were changed; None if it has none."""
    try:
        return (workspace.root / SETTINGS_FILE).stat().st_mtime_ns
    except OSError:
        return None


def site_of(request: Request) -> Site:
    """Return the site of the app that handles `request`."""
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


def csv_response(name: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Response:
    """Return rows as a CSV file that the browser saves as `name`; a long file is never in memory as a whole."""
    return StreamingResponse(formatting.csv_parts(heads, rows), media_type="text/csv", headers=attachment(name))


def attachment(name: str) -> dict[str, str]:
    """Return the header that lets a browser save a response as a file `name`, which may have any characters."""
    quoted = quote(name, safe="")
    value = f'attachment; filename="{name}"' if quoted == name else f"attachment; filename*=utf-8''{quoted}"
    return {"Content-Disposition": value}


@cache
def static_files() -> dict[str, Traversable]:
    """Return the static files by name, e.g. `uplot/uPlot.js`."""
    # through `ichx`, because the package of reports imports torch
    found = {name: files("ichx").joinpath("report", name) for name in SHARED_WITH_REPORTS}
    folders = [("", _resource("static"))]
    while folders:
        above, folder = folders.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                folders.append((f"{above}{entry.name}/", entry))
            else:
                found[above + entry.name] = entry
    return found


@cache
def static_url(name: str) -> str:
    """Return the URL of a static file; it changes with the content, so that browsers may cache it for good."""
    digest = hashlib.sha256(static_files()[name].read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"


def _visible(value: object) -> object:
    """Return a text with characters that reverse or hide text as escape sequences, as in a terminal."""
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _read_template(name: str) -> str:
    """Return a template of the web app, or of the reports if its name begins with `report/`."""
    shared = name.startswith("report/")
    file = files("ichx").joinpath(*name.split("/")) if shared else _resource(f"templates/{name}")
    return file.read_text(encoding="utf-8")


def _resource(name: str) -> Traversable:
    return files("ichx.web").joinpath(*name.split("/"))
