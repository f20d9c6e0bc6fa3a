"""Ctrl-C while a command works and while it imports."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Program, clean_environment

from ichx.cli.interrupts import imports_end_at_once
from ichx.workspace import init_workspace


def test_interrupted_exits_with_130(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "workspace").root
    process = subprocess.Popen(
        [sys.executable, "-m", "ichx", "data", "phantom", str(tmp_path / "files"), "--patients", "500", "--size", "64"],
        cwd=workspace,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 900
    while not list(tmp_path.rglob("*.dcm")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "files").exists(), "nothing half-written"


SWALLOWS = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    pass  # as callbacks and some libraries do
raise ImportError("incomplete module")
"""


@pytest.mark.parametrize("command", [("scores", 1), ("exp", "diff", 1, 2)])
def test_an_interruption_during_imports_is_not_lost(
    command: tuple[object, ...], trained_root: Path, tmp_path: Path, ichx_process: Program
) -> None:
    (tmp_path / "pandas.py").write_text(SWALLOWS, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = ichx_process(*command, cwd=trained_root, PYTHONPATH=path)
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")


def test_an_interruption_outside_command_imports_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So does one during an import that is not part of a command's imports."""
    (tmp_path / "interrupts_itself.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for begun in (lambda: os.kill(os.getpid(), signal.SIGINT), lambda: importlib.import_module("interrupts_itself")):
        with pytest.raises(KeyboardInterrupt), imports_end_at_once():
            begun()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with imports_end_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "shells ignore Ctrl-C in background jobs"
    finally:
        signal.signal(signal.SIGINT, before)
