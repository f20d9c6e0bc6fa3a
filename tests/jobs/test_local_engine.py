"""Jobs as subprocesses."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from open_files import open_files

from ichx.jobs import LocalEngine
from ichx.jobs.testing import TIMEOUT, EngineContract, python_job
from ichx.process_identity import is_process_alive, process_identity


class TestLocalEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Iterator[LocalEngine]:
        with closing(LocalEngine(2)) as engine:
            yield engine


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + TIMEOUT
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} was never written"
        time.sleep(0.01)
    return path.read_text()


def test_a_job_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with closing(LocalEngine(1, grace=0.2)) as engine:
        handle = engine.submit([python_job(tmp_path / "log", code)])[0]
        child = int(wait_for(tmp_path / "log"))
        mark = process_identity(child)
        assert is_process_alive(child, mark)
        engine.cancel(handle)
        result = engine.wait(handle, TIMEOUT)
        assert result is not None
        assert result.exit_code == -9
    deadline = time.monotonic() + TIMEOUT
    while is_process_alive(child, mark) and time.monotonic() < deadline:
        time.sleep(0.01)  # a killed process exists for a moment longer
    assert not is_process_alive(child, mark)


def test_a_cancelled_job_has_time_to_clean_up(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('tidy'), sys.exit(7)))\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    with closing(LocalEngine(1, grace=TIMEOUT)) as engine:
        handle = engine.submit([python_job(tmp_path / "log", code)])[0]
        wait_for(tmp_path / "log")
        engine.close()
        result = engine.poll(handle)
    assert result is not None
    assert result.exit_code == 7
    assert (tmp_path / "log").read_text() == "ready\ntidy\n"


OWNER = """
import sys, time
from pathlib import Path
from ichx.jobs import Job, LocalEngine
code = (
    "import os, signal, sys, time; from ichx.child_processes import watch_parent; watch_parent()\\n"
    "if sys.argv[1] == 'tidy': signal.signal(signal.SIGTERM, lambda *_: (print('tidy', flush=True), os._exit(0)))\\n"
    "print(os.getpid(), 'ICHX_PARENT' in os.environ, flush=True); time.sleep(600)"
)
engine = LocalEngine(2)
for name in ("tidy", "plain"):
    engine.submit([Job((sys.executable, "-c", code, name), Path(sys.argv[1]) / name, name)])
time.sleep(600)
"""


def test_jobs_end_with_an_engine_that_was_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)])
    lines = [wait_for(tmp_path / name).split() for name in ("tidy", "plain")]
    assert [inherited for _, inherited in lines] == ["False"] * 2
    jobs = [(int(pid), process_identity(int(pid))) for pid, _ in lines]
    assert all(is_process_alive(pid, mark) for pid, mark in jobs)
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + TIMEOUT
    while any(is_process_alive(pid, mark) for pid, mark in jobs) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(is_process_alive(pid, mark) for pid, mark in jobs)
    assert (tmp_path / "tidy").read_text().endswith("False\ntidy\n")


def test_a_closed_engine_leaves_no_file_open(tmp_path: Path) -> None:
    before = open_files()
    for _ in range(3):
        with closing(LocalEngine(1)) as engine:
            engine.wait(engine.submit([python_job(tmp_path / "log", "")])[0], TIMEOUT)
    assert open_files() == before


def test_an_engine_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="max_workers"):
        LocalEngine(0)
