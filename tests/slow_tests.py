"""A pytest plugin: marks the tests listed in `slow_tests.txt` as `slow`; `nox -s slow` measures and rewrites that list.

The list leaves tests of at most `BUDGET` seconds: the quickest functions of the suite, all cases of each counted, of
which none has a case over `LIMIT`.
"""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

LIST: Final = Path(__file__).with_name("slow_tests.txt")
BUDGET: Final = 240.0
"""Seconds of all workers together; fixtures that several tests share come on top when their first test is left out."""
LIMIT: Final = 1.0
RECORD: Final = "RECORD_SLOW_TESTS"
"""Environment variable: a run of the complete suite with it rewrites the list."""


class Recorder:
    """Measures each test and writes the list at the end of the run."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[_function(report.nodeid)][report.nodeid] += report.duration

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and not hasattr(session.config, "workerinput"):
            LIST.write_text("".join(f"{name}\n" for name in slow_functions(self.seconds)), encoding="utf-8")


def slow_functions(seconds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the names of the slow functions, given the time of each case of each function."""
    total, slow = 0.0, []
    for name in sorted(seconds, key=lambda name: sum(seconds[name].values())):
        total += sum(seconds[name].values())
        if total > BUDGET or max(seconds[name].values()) > LIMIT:
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
