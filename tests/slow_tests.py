"""A pytest plugin: marks the tests listed in `slow_tests.txt` as `slow`; `nox -s slow` measures and rewrites that list.

The list leaves tests of at most `BUDGET` seconds of processor time, child processes included: the quickest functions of
the suite, all cases of each counted, and of these none with a case over `LIMIT`.
"""

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

LIST: Final = Path(__file__).with_name("slow_tests.txt")
BUDGET: Final = 200.0
LIMIT: Final = 1.0
RECORD: Final = "RECORD_SLOW_TESTS"
"""Environment variable: a run of the complete suite with it rewrites the list."""

PROPERTY: Final = "processor_seconds"
"""Property of a test's last report, which pytest-xdist sends from the worker to the process that writes the list."""

_BEGAN: Final = pytest.StashKey[float]()


class Recorder:
    """Measures each test and writes the list at the end of the run."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        item.stash[_BEGAN] = _processor_time()
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if call.when == "teardown":
            item.user_properties.append((PROPERTY, _processor_time() - item.stash[_BEGAN]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self.seconds[_function(report.nodeid)].append(float(str(dict(report.user_properties)[PROPERTY])))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and not hasattr(session.config, "workerinput"):
            LIST.write_text("".join(f"{name}\n" for name in slow_functions(self.seconds)), encoding="utf-8")


def slow_functions(seconds: dict[str, list[float]]) -> list[str]:
    """Return the names of the slow functions, given the processor time of each case of each function."""
    total, slow = 0.0, []
    for name in sorted(seconds, key=lambda name: sum(seconds[name])):
        total += sum(seconds[name])
        if total > BUDGET or max(seconds[name]) > LIMIT:
            slow.append(name)
    return sorted(slow)


def pytest_configure(config: pytest.Config) -> None:
    """Measure if the environment requests it."""
    if RECORD in os.environ:
        config.pluginmanager.register(Recorder())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the listed tests."""
    slow = set(LIST.read_text(encoding="utf-8").split("\n"))
    for item in items:
        if _function(item.nodeid) in slow:
            item.add_marker(pytest.mark.slow)


def _function(test: str) -> str:
    """Return the node id of the test function without parameters."""
    return test.partition("[")[0]


def _processor_time() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
