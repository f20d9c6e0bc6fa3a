"""Results of a helper process that several requests show: computed once, and kept until what they depend on changes."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Final

from ichx.errors import NotReadyError
from ichx.web.sources import Sources
from ichx.web.waiting import WaitingRoom

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
        self._lock, self._waiting = Lock(), WaitingRoom()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ichx-computed")
        self._results: OrderedDict[str, Future[Any]] = OrderedDict()
        sources.closing.callback(self._pool.shutdown, wait=False, cancel_futures=True)

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
        with self._lock:
            future = self._results.get(key)
            if future is None or (future.done() and future.exception() is not None):
                future = self._results[key] = self._pool.submit(
                    self._sources.data.call, task, dict(arguments), seconds=COMPUTE_SECONDS
                )
            self._results.move_to_end(key)
            for old in [old for old, one in self._results.items() if one.done()][:-KEPT]:
                del self._results[old]
        try:
            return self._waiting.result(future, max(seconds, 0.0))
        except TimeoutError:
            raise StillComputingError("This is being computed.", "Wait a moment.") from None
