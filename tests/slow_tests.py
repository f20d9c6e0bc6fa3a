"""A pytest plugin: marks the tests listed in `slow_tests.txt` as `slow`; `nox -s slow` measures and rewrites that list.

A test function is slow if one of its cases takes more than `LIMIT` seconds of processor time, child processes included.
"""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("slow_tests.txt")
LIMIT = 0.3
RECORD = "RECORD_SLOW_TESTS"
"""Environment variable: a run of the complete suite with it rewrites the list."""


class Recorder:
    """Measures each test and writes the list at the end of the run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        began = _processor_time()
        result = yield
        name = _function(item)
        self.seconds[name] = max(self.seconds.get(name, 0.0), _processor_time() - began)
        return result

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK:
            slow = sorted(name for name, seconds in self.seconds.items() if seconds > LIMIT)
            LIST.write_text("".join(f"{name}\n" for name in slow), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Measure if the environment requests it."""
    if RECORD in os.environ:
        config.pluginmanager.register(Recorder())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the listed tests."""
    slow = set(LIST.read_text(encoding="utf-8").split("\n"))
    for item in items:
        if _function(item) in slow:
            item.add_marker(pytest.mark.slow)


def _function(item: pytest.Item) -> str:
    """Return the node id of the test function without parameters."""
    return item.nodeid.partition("[")[0]


def _processor_time() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
