"""Children of a process that is killed: they stop, or are killed with their group after the grace period."""

import subprocess
import sys
from pathlib import Path

import pytest
from running_programs import wait_until

from ichx.process_identity import is_process_alive, process_identity

CHILD = """
import os, signal, subprocess, sys, time
from ichx.child_processes import PARENT, end_with_parent, watch_parent
what = sys.argv[1]
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif what == "tidy":
    signal.signal(signal.SIGTERM, lambda *_: (print("tidy", flush=True), os._exit(0)))
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) if what == "stubborn" else None
if what == "tidy":
    watch_parent()
    assert PARENT not in os.environ
else:
    end_with_parent(int(os.environ[PARENT]), 0.2 if what == "stubborn" else None)
print(os.getpid(), grandchild.pid if grandchild else os.getpid(), flush=True)
time.sleep(600)
"""

PARENT_CODE = """
import os, subprocess, sys, time
from ichx.child_processes import child_environment
subprocess.Popen(sys.argv[1:], env=os.environ | child_environment(), process_group=0)
time.sleep(600)
"""


@pytest.mark.parametrize(("kind", "output"), [("tidy", "tidy\n"), ("stubborn", ""), ("worker", "")])
def test_a_child_ends_with_its_killed_parent(kind: str, output: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        command = [sys.executable, "-c", PARENT_CODE, sys.executable, "-c", CHILD, kind]
        parent = subprocess.Popen(command, stdout=file)
    wait_until(lambda: log.read_text().endswith("\n"))
    text = log.read_text()
    marks = {pid: process_identity(pid) for pid in map(int, text.split())}
    assert all(is_process_alive(pid, mark) for pid, mark in marks.items())
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(is_process_alive(pid, mark) for pid, mark in marks.items()))
    assert log.read_text() == text + output
