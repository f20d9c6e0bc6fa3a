"""The open project of a command."""

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ichx.cli.output import warn

if TYPE_CHECKING:
    from ichx.project import Project


@contextlib.contextmanager
def session(*, tied: bool = True, writes: bool = False) -> Iterator["Project"]:
    """Yield the project of the current workspace; it warns of unusable plugins when its registry is loaded.

    Without `tied`, the store may belong to another workspace. With `writes`, a store that can only be read is refused
    before the work.
    """
    with _collection_paused():
        from ichx.project import Project
        from ichx.store import open_store
        from ichx.workspace import find_workspace

        workspace = find_workspace()
        opened = open_store(workspace, tied=tied)
    with opened as store:
        if writes:
            store.check_writable()
        store.note = warn
        project = Project(workspace, store, warn=warn)
        if store.newly_tied and workspace.used_numbers("experiment"):
            from ichx.experiments.folder_record import describe_all

            describe_all(project)  # folders of an older version
        yield project
        if store.changed:
            from ichx.experiments.folder_record import describe_again

            describe_again(project, store.changed)


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """Pause garbage collection during imports: scanning the new modules takes as long as importing some of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # together they move all objects to the oldest generation without a scan
        if enabled:
            gc.enable()
