"""Sources of studies: versions of datasets, and the files of `ichx ui PATH`. Each has an index, built on first use."""

import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.requests import Request

from ichx.errors import CorruptFileError, NotFoundError, NotReadyError
from ichx.files import path_of
from ichx.inference.scratch import scratch_folder
from ichx.store import DatasetVersion, Store
from ichx.web.helper import Helper
from ichx.web.numbers import parse_number
from ichx.web.site import Site, site_of
from ichx.web.waiting import WaitingRoom

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ichx.cache.display import DisplayCaches
    from ichx.datasets.study_index import StudyIndex
    from ichx.project import Project

Part = TypeVar("Part")

FILES: Final = "folder@1"
"""The source of the files of `ichx ui PATH`."""
OPEN_INDEXES: Final = 4
INDEX_SECONDS: Final = 3600.0
RECENT_SECONDS: Final = 1.0
"""Time for which a version of the store is not looked up again."""
PAGE_SECONDS: Final = 3.0
"""Time to wait for an index before a page says that it is being built."""
WAIT_SECONDS: Final = 60.0
"""Time that a request without a page waits for an index."""


@dataclass
class Source:
    """A source with its index."""

    name: str
    """The segment of its URLs."""
    path: Path
    """Folder, zip or file; never sent to a browser."""
    index: "StudyIndex"
    folder: Path
    """Where the index is."""
    cache_dir: Path
    version: DatasetVersion | None
    """None for files that are in no dataset."""
    sides: dict[tuple[str, str], dict[str, str] | None] = field(default_factory=dict)
    """Sides of the patient by study and series."""

    @cached_property
    def caches(self) -> "DisplayCaches":
        """The caches of its slices."""
        from ichx.cache.display import DisplayCaches

        return DisplayCaches(self.cache_dir, self.dataset, self.index.digest)

    @cached_property
    def masked_rows(self) -> "npt.NDArray[np.int64]":
        """Cache rows of the slices with masks, ascending."""
        return self.index.masked_rows()

    @property
    def dataset(self) -> str:
        """The name in the folders of caches."""
        return self.version.dataset if self.version is not None else "files"

    def study(self, study: str) -> dict[str, Any]:
        """Return the row of a study. Raises `NotFoundError`."""
        found = self.index.study(study)
        if found is None:
            raise NotFoundError(f"{self.name} has no such study.", "See the list of studies.")
        return found

    def slice(self, slice_id: str) -> dict[str, Any]:
        """Return the row of a slice. Raises `NotFoundError`."""
        return self._known(self.index.slice(slice_id))

    def cached_slices(self, slice_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the cached pixels of slices depend on. Raises `NotFoundError`."""
        return [self._known(one) for one in self.index.cached_slices(slice_ids)]

    def _known(self, row: dict[str, Any] | None) -> dict[str, Any]:
        if row is None:
            raise NotFoundError(f"{self.name} has no such slice.", "See the list of studies.")
        return row


@dataclass
class Build:
    """An index that is being built."""

    future: "Future[Source]"
    folder: Path
    progress: tuple[str, int, int] = ("starting", 0, 0)


class Sources:
    """All sources of a site. Threads may share it."""

    def __init__(self, site: Site) -> None:
        """Create a temporary folder for indexes and results; it is removed when the site closes."""
        self.site = site
        cache_dir = site.workspace.cache_dir
        writable = cache_dir.is_dir() and os.access(cache_dir, os.W_OK)
        self._stack = ExitStack()
        parent = cache_dir if writable else Path(tempfile.gettempdir())
        self.folder = self._stack.enter_context(scratch_folder(parent))
        self.folder.chmod(0o700)
        self._data = Helper(site.workspace.root, self.folder / "data.log")
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="ichx-index")
        self._lock, self._waiting = Lock(), WaitingRoom()
        self._builds: OrderedDict[str, Build] = OrderedDict()
        self._parts: dict[Any, Any] = {}
        self._versions: dict[str, tuple[Project, float, DatasetVersion]] = {}
        self._count = 0
        self._stack.callback(self._pool.shutdown, wait=False, cancel_futures=True)
        self._stack.callback(self._data.close)

    def close(self) -> None:
        """End the processes and remove the folder."""
        self._stack.close()

    @property
    def closing(self) -> ExitStack:
        """What is closed with the sources."""
        return self._stack

    def part(self, kind: "Callable[[Sources], Part]") -> "Part":
        """Return what `kind(sources)` returned at the first call, e.g. a helper and its results."""
        with self._lock:
            if kind not in self._parts:
                self._parts[kind] = kind(self)
            found: Part = self._parts[kind]
            return found

    @property
    def data(self) -> Helper:
        """The helper for work with pandas."""
        return self._data

    def names(self) -> list[str]:
        """Return the names of all sources: the files, then the newest version of each dataset, then older ones."""
        store = self.site.project.store
        files = [FILES] if self.site.files is not None else []
        found = [(dataset.name, store.version_numbers(dataset.name)) for dataset in store.datasets()]
        newest = [f"{name}@{numbers[-1]}" for name, numbers in found if numbers]
        older = [f"{name}@{number}" for name, numbers in found for number in reversed(numbers[:-1])]
        return files + newest + older

    def get(self, name: str, seconds: float = WAIT_SECONDS) -> Source:
        """Return the source `name`, e.g. `rsna@1`.

        Raises:
            NotFoundError: There is no such source.
            NotReadyError: Its index is not built within `seconds`, or too many requests wait for one.
            IchxError: The index cannot be built.
        """
        version = self._version(name)
        key = name if version is None else f"{name} {version.id}"
        with self._lock:
            build = self._builds.get(key)
            if build is None or (build.future.done() and build.future.exception() is not None):
                build = self._builds[key] = self._start(name, version)
            self._builds.move_to_end(key)
            self._drop_old()
        try:
            return self._waiting.result(build.future, seconds)
        except TimeoutError:
            what, done, total = build.progress
            count = f": {done:,} of {total:,}" if total else ""
            raise NotReadyError(f"The list of studies is being prepared ({what}{count}).", "Wait a moment.") from None

    def _version(self, name: str) -> DatasetVersion | None:
        """Return the version that a source is, None for the files. Raises `NotFoundError`."""
        if name == FILES and self.site.files is not None:
            return None
        # a version as the store had it a moment ago: a viewer requests many slices a second
        project, now = self.site.project, time.monotonic()
        known = self._versions.get(name)
        if known is not None and known[0] is project and now - known[1] < RECENT_SECONDS:
            return known[2]
        version = version_of(project.store, name)
        recent = {key: one for key, one in self._versions.items() if now - one[1] < RECENT_SECONDS}
        self._versions = {**recent, name: (project, now, version)}
        return version

    def _start(self, name: str, version: DatasetVersion | None) -> Build:
        self._count += 1
        folder = self.folder / f"index-{self._count}"
        build = Build(Future(), folder)

        def report(what: str, done: int, total: int) -> None:
            build.progress = what, done, total

        def work() -> Source:
            from ichx.datasets.study_index import StudyIndex

            folder.mkdir()
            if version is None:
                path = self.site.files
                assert path is not None
                task = "index_files"
                arguments: dict[str, Any] = {"source": str(path)}
            else:
                path = path_of(version.source)
                task = "index_version"
                arguments = {"dataset": version.dataset, "number": version.number}
            self._data.call(task, {**arguments, "folder": str(folder)}, seconds=INDEX_SECONDS, progress=report)
            try:
                return Source(name, path, StudyIndex(folder), folder, self.site.workspace.cache_dir, version)
            except (OSError, ValueError) as error:
                raise CorruptFileError("The index of the studies is damaged.", "Start `ichx ui` again.") from error

        build.future = self._pool.submit(work)
        return build

    def _drop_old(self) -> None:
        """Forget the sources that were not used for longest, except the files; their maps end with their last use."""
        for key in [key for key, build in self._builds.items() if build.future.done() and key != FILES][:-OPEN_INDEXES]:
            shutil.rmtree(self._builds.pop(key).folder, ignore_errors=True)


def version_of(store: Store, source: str) -> DatasetVersion:
    """Return the dataset version of a source such as `rsna@1`.

    Raises:
        NotFoundError: There is no such version.
    """
    dataset, _, text = source.rpartition("@")
    number = parse_number(text)
    if number is None or not dataset.isprintable():
        raise NotFoundError(f"Unknown source of studies: {source[:80]!r}.", "See the list of studies.")
    return store.version(dataset, number)


_CREATING = Lock()


def sources_of(request: Request) -> Sources:
    """Return the sources of the app that handles `request`."""
    state = request.app.state
    with _CREATING:
        if not hasattr(state, "sources"):
            site = site_of(request)
            state.sources = Sources(site)
            site.closing.callback(state.sources.close)
    found = state.sources
    assert isinstance(found, Sources)
    return found


def source_of(request: Request) -> Source:
    """Return the source that the path of `request` names. Raises `NotFoundError`."""
    return sources_of(request).get(request.path_params["source"])


def pixel_version(source: Source) -> str:
    """Return a text that changes with the pixels that are served for a source."""
    keys = [cache.key[:8] for cache in source.caches.by_size().values()]
    return f"{source.index.digest[:8]}{''.join(keys)}"
