"""Requests that wait for long work, each in a thread: what they share, and how many may wait.

The server answers with some forty threads. Without a bound, a page that is reloaded while something is computed would
occupy all of them.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore, Lock
from typing import Final, Generic, TypeVar

from ichx.errors import NotReadyError

T = TypeVar("T")
PLACES: Final = 8
"""Requests that wait in one place at a time."""
POLL_SECONDS: Final = 0.1


class WaitingRoom:
    """Lets at most `places` requests wait for futures. Threads share it."""

    def __init__(self, places: int = PLACES) -> None:
        """Prepare a room where nobody waits."""
        self._places = BoundedSemaphore(places)

    def result(self, future: "Future[T]", seconds: float | None) -> T:
        """Return the result of `future`, or raise its error.

        Raises:
            TimeoutError: It is not there after `seconds`, or too many others wait.
        """
        if future.done():
            return future.result()
        if not self._places.acquire(blocking=False):
            raise TimeoutError
        try:
            return future.result(seconds)
        finally:
            self._places.release()


class BackgroundResults(Generic[T]):
    """Results that one thread computes while requests wait; the ones used last are kept. Threads share it."""

    def __init__(self, name: str, limit: int, forget: Callable[[str], object] = lambda key: None) -> None:
        """Compute nothing yet.

        Args:
            name: Name of the thread.
            limit: Number of results that are kept.
            forget: Receives the key of a result that is not kept.
        """
        self._limit, self._forget = limit, forget
        self._lock, self._waiting = Lock(), WaitingRoom()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._results: OrderedDict[str, Future[T]] = OrderedDict()

    def get(self, key: str, compute: Callable[[], T], seconds: float) -> T:
        """Return the result `key`; one that failed is computed again.

        Raises:
            TimeoutError: It is not there after `seconds`, or too many requests wait.
            Exception: What `compute` raised.
        """
        with self._lock:
            future = self._results.get(key)
            if future is None or (future.done() and future.exception() is not None):
                future = self._results[key] = self._pool.submit(compute)
            self._results.move_to_end(key)
            for old in [old for old, one in self._results.items() if one.done()][: -self._limit]:
                del self._results[old]
                self._forget(old)
        return self._waiting.result(future, seconds)

    def close(self) -> None:
        """Start no more computations."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class SharedResults(Generic[T]):
    """Results that request threads compute, one at a time; the latest ones are kept. Threads share it."""

    def __init__(self, limit: float, weight: Callable[[T], float] = lambda _: 1, places: int = PLACES) -> None:
        """Keep nothing yet.

        Args:
            limit: Total weight of the results that are kept.
            weight: Returns the weight of a result, e.g. its bytes.
            places: Requests that compute or wait; if there are more, the oldest ones are refused: their browser has
                gone on or reloaded.
        """
        self._limit, self._weight, self._allowed = limit, weight, places
        self._known: OrderedDict[Hashable, T] = OrderedDict()
        self._turn, self._lock = Lock(), Lock()
        self._requests: list[object] = []

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the result `key`; one that failed is computed again.

        Raises:
            NotReadyError: Newer requests wait.
            Exception: What `compute` raises.
        """
        request = object()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            self._requests.append(request)
        try:
            while not self._turn.acquire(timeout=POLL_SECONDS):
                with self._lock:
                    if key in self._known:
                        return self._known[key]
                    if request not in self._requests[-self._allowed :]:
                        raise NotReadyError("Newer requests replaced this one.", "Open it again.")
            try:
                return self._computed(key, compute)
            finally:
                self._turn.release()
        finally:
            with self._lock:
                self._requests.remove(request)

    def _computed(self, key: Hashable, compute: Callable[[], T]) -> T:
        with self._lock:
            if key in self._known:  # the request before wanted it, too
                return self._known[key]
        result = compute()
        with self._lock:
            self._known[key] = result
            while sum(map(self._weight, self._known.values())) > self._limit:
                self._known.popitem(last=False)
        return result
