"""Results of a helper process that several requests show: computed once, and kept until what they depend on changes."""

import json
from collections.abc import Mapping
from typing import Any, Final

from ichx.errors import NotReadyError
from ichx.web.sources import Sources
from ichx.web.waiting import BackgroundResults

KEPT: Final = 64
"""Results in memory. Each has kilobytes."""
COMPUTE_SECONDS: Final = 900.0


class StillComputingError(NotReadyError):
    """A result is not there yet; the page shows this and reloads itself."""


class Computed:
    """Results of tasks of the helper of `sources`. Threads may share it; use `sources.part(Computed)`."""

    def __init__(self, sources: Sources) -> None:
        """Compute nothing yet."""
        self._sources = sources
        self._results = BackgroundResults[Any]("ichx-computed", KEPT)
        sources.closing.callback(self._results.close)

    def get(self, task: str, arguments: Mapping[str, Any], state: object, seconds: float) -> Any:
        """Return the result of `task`; one that failed is computed again.

        Args:
            task: A key of `helper_tasks.TASKS`.
            arguments: Its arguments.
            state: What the result depends on besides its arguments, e.g. a digest; its text identifies it.
            seconds: Time to wait.

        Raises:
            StillComputingError: The result is not there after `seconds`, or too many requests wait.
            IchxError: The task failed.
        """
        key = json.dumps([task, dict(arguments), repr(state)])

        def compute() -> Any:
            return self._sources.data.call(task, dict(arguments), seconds=COMPUTE_SECONDS)

        try:
            return self._results.get(key, compute, max(seconds, 0.0))
        except TimeoutError:
            raise StillComputingError("This is being computed.", "Wait a moment.") from None
