"""One reader per value, shared by all that follow it, and none without followers."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ichx.errors import StoreError
from ichx.web import feeds as module
from ichx.web.feeds import Feed, Feeds


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `scenario` in a thread: browser tests leave a running event loop in that of pytest."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(scenario())).result()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_followers_share_a_reader_that_ends_with_the_last() -> None:
    async def scenario() -> None:
        feeds, reads = Feeds(), []

        def read(before: int | None) -> int:
            reads.append(before)
            return len(reads) // 5

        async with feeds.follow("a", read) as first:
            async with feeds.follow("a", read) as second:
                assert first is second
                await until(lambda: first.version >= 3)
            assert len(feeds) == 1
        assert len(feeds) == 0
        assert reads[:2] == [None, 0]
        await asyncio.sleep(0)
        count = len(reads)
        await asyncio.sleep(0.1)
        assert len(reads) <= count + 1  # a read that had begun
        async with feeds.follow("a", read) as again:
            assert again is not first

    run(scenario)


def test_a_follower_waits_for_a_change_or_the_timeout() -> None:
    async def scenario() -> None:
        feeds, value = Feeds(), [1]
        async with feeds.follow("a", lambda before: value[0]) as feed:
            assert await feed.changed(0, 20)
            assert not await feed.changed(1, 0.05)
            value[0] = 2
            assert await feed.changed(1, 20)
            assert (feed.value, feed.version) == (2, 2)

    run(scenario)


def test_a_reader_that_fails_ends_its_followers() -> None:
    async def scenario() -> None:
        def fail(before: object) -> int:
            raise ValueError("broken")

        async with Feeds().follow("a", fail) as feed:
            assert await feed.changed(0, 20)
            assert feed.closed
            assert isinstance(feed, Feed)

    run(scenario)


@pytest.mark.parametrize(("error", "logged"), [(StoreError("Away.", "Wait."), 0), (RuntimeError("bug \x1b[2J"), 1)])
def test_a_reader_that_fails_ends_its_feed_and_a_bug_is_logged(
    error: Exception, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    def read(before: int | None) -> int:
        raise error

    async def scenario() -> None:
        async with Feeds().follow("a", read) as feed:
            assert await feed.changed(0, 20)
            assert feed.closed

    run(scenario)
    assert caplog.text.count("Traceback") == logged
    assert "\x1b" not in caplog.text
