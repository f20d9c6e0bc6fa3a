"""Requests that wait for long work: they share it, and their number is bounded."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from running_programs import wait_until

from ichx.errors import NotReadyError
from ichx.web.waiting import SharedResults, WaitingRoom


def test_requests_that_want_the_same_share_its_computation() -> None:
    results: SharedResults[object] = SharedResults(4)
    begun, go, calls = threading.Event(), threading.Event(), []

    def compute() -> object:
        calls.append(1)
        begun.set()
        assert go.wait(60)
        return object()

    with ThreadPoolExecutor(6) as pool:
        wanted = [pool.submit(results.get, "key", compute) for _ in range(6)]
        assert begun.wait(60)
        go.set()
        found = {one.result(60) for one in wanted}
    assert (len(found), len(calls)) == (1, 1)
    assert {results.get("key", compute)} == found


def test_the_newest_requests_wait_and_older_ones_are_refused() -> None:
    results: SharedResults[int] = SharedResults(100, places=3)
    begun, go = threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        assert go.wait(60)
        return 0

    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(results.get, 0, slow)
        assert begun.wait(60)
        others = []
        for number in range(1, 7):  # one after the other, so that their order is known
            others.append(pool.submit(results.get, number, _constant(number)))
            wait_until(lambda: len(results._requests) + sum(one.done() for one in others) == len(others) + 1)
        wait_until(lambda: sum(one.done() for one in others) == 3)
        refused = [one for one in others if one.done()]
        assert refused == others[:3]
        for one in refused:
            with pytest.raises(NotReadyError):
                one.result()
        go.set()
        assert first.result(60) == 0
        assert [one.result(60) for one in others[3:]] == [4, 5, 6]


def _constant(number: int) -> Callable[[], int]:
    return lambda: number


def test_a_failed_computation_is_repeated_and_the_latest_results_are_kept() -> None:
    results: SharedResults[int] = SharedResults(5, weight=float)
    with pytest.raises(ZeroDivisionError):
        results.get("a", lambda: 1 // 0)
    assert results.get("a", lambda: 2) == 2
    assert results.get("b", lambda: 3) == 3
    assert results.get("a", lambda: -1) == 2  # used last
    assert results.get("c", lambda: 1) == 1
    assert [results.get("a", lambda: -1), results.get("b", lambda: 0)] == [2, 0]


def test_a_full_waiting_room_refuses_at_once() -> None:
    room, never, done = WaitingRoom(2), Future[int](), Future[int]()
    done.set_result(7)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(room.result, never, 60) for _ in range(2)]
        wait_until(lambda: room._places._value == 0)
        with pytest.raises(TimeoutError):
            room.result(never, 60)
        assert room.result(done, 60) == 7
        never.set_result(1)
        assert [one.result(60) for one in waiting] == [1, 1]
    with pytest.raises(TimeoutError):
        room.result(Future(), 0.01)
