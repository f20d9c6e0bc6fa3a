"""The open project: workspace paths, store and plugin registry in one object. Functions above the store take it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichx.plugins import Registry
    from ichx.store import Store
    from ichx.workspace import Workspace


class Project:
    """An open workspace. The registry is loaded on first use: reading the store imports no plugin."""

    def __init__(
        self,
        workspace: "Workspace",
        store: "Store",
        registry: "Registry | None" = None,
        *,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Combine an open `store` with its `workspace`.

        Args:
            workspace: Paths and settings.
            store: The open store of that workspace.
            registry: Plugins to use instead of the installed ones.
            warn: Receives lines for the user, e.g. about installed plugins that cannot be used.
        """
        self.workspace = workspace
        self.store = store
        self._warn = warn
        if registry is not None:
            self.registry = registry

    def warn(self, message: str) -> None:
        """Pass a line for the user on."""
        if self._warn is not None:
            self._warn(message)

    @cached_property
    def registry(self) -> "Registry":
        """The built-in plugins and those of installed packages."""
        from ichx.plugins import load_registry

        registry = load_registry()
        for warning in registry.warnings:
            self.warn(warning)
        return registry


@contextmanager
def open_project(start: Path | None = None) -> Iterator[Project]:
    """Yield the project of the workspace at or above `start` (the current directory); its store closes at the end.

    Raises:
        NotFoundError: There is no workspace.
        StoreError: Its store cannot be opened.
    """
    from ichx.store import open_store
    from ichx.workspace import find_workspace

    workspace = find_workspace(start)
    with open_store(workspace) as store:
        yield Project(workspace, store)
