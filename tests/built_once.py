"""Folders that a run of pytest builds once, also if several workers of pytest-xdist need them."""

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Built = TypeVar("Built")


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Built]) -> Built:
    """Return `build(folder)` of the first worker that needs the folder `name`; the others wait for it.

    Args:
        factory: pytest's.
        name: One for each folder in the suite.
        build: Fills the folder, which exists, and returns what the tests get; pickled for the other workers.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of the worker is in that of the run
    folder, result = base / f"shared-{name}", base / f"shared-{name}.pickle"
    with (base / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            folder.mkdir()
            result.write_bytes(pickle.dumps(build(folder)))
        found: Built = pickle.loads(result.read_bytes())
        return found
