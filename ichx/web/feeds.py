"""Values that are read again and again for open pages: one reader per value, shared by all pages that follow it."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar

from starlette.concurrency import run_in_threadpool

from ichx.errors import IchxError
from ichx.text import escape

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
POLL_SECONDS: Final = 1.0
"""Time between two reads. What a run records is on the screen within about one of them."""


class Feed(Generic[T]):
    """The newest value of `read`, which gets the value before and runs in a thread while somebody follows."""

    def __init__(self, read: Callable[[T | None], T]) -> None:
        self._read = read
        self._turn = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._followers = 0
        self.value: T | None = None
        self.version = 0
        """Number of different values so far."""
        self.closed = False

    async def changed(self, seen: int, timeout: float) -> bool:
        """Wait until there is a version after `seen`, or the feed is closed; return False after `timeout` seconds."""
        if self.version != seen or self.closed:
            return True
        try:
            await asyncio.wait_for(self._turn.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Let all followers end."""
        self.closed = True
        self._wake()

    def join(self) -> None:
        """Add a follower; the first one starts the reader."""
        self._followers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._poll())

    def leave(self) -> bool:
        """Remove a follower; the last one stops the reader, and True is returned."""
        self._followers -= 1
        if self._followers == 0 and self._task is not None:
            self._task.cancel()
        return self._followers == 0

    async def _poll(self) -> None:
        try:
            while not self.closed:
                value = await run_in_threadpool(self._read, self.value)
                if value != self.value:
                    self.value, self.version = value, self.version + 1
                    self._wake()
                await asyncio.sleep(POLL_SECONDS)
        except (IchxError, OSError):
            pass  # the pages reconnect, and the answer to that reports the problem
        except Exception:
            _LOG.error("%s\nAn open page cannot be updated. Report this bug.", escape(traceback.format_exc()))
        finally:
            self.close()

    def _wake(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()


class Feeds:
    """The feeds of an app by key. All methods belong to its event loop."""

    def __init__(self) -> None:
        self._feeds: dict[Hashable, Feed[Any]] = {}

    @asynccontextmanager
    async def follow(self, key: Hashable, read: Callable[[T | None], T]) -> AsyncIterator[Feed[T]]:
        """Yield the feed `key`, which is read while one of its followers is in this block."""
        feed: Feed[T] | None = self._feeds.get(key)
        if feed is None or feed.closed:
            feed = self._feeds[key] = Feed(read)
        feed.join()
        try:
            yield feed
        finally:
            if feed.leave() and self._feeds.get(key) is feed:
                del self._feeds[key]

    def __len__(self) -> int:
        return len(self._feeds)
