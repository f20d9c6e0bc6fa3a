"""Programs to which the modes of files apply although the tests run as root."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

_NO_RIGHTS = 77


def _drop_override() -> None:
    """Drop CAP_DAC_OVERRIDE from the bounding set, which applies to the program that is executed next."""
    if os.getuid() == 0 and ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) != 0:
        os._exit(_NO_RIGHTS)


def run_unprivileged(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments; skip the test where root cannot give up its rights."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=clean_environment(),
        capture_output=True,
        text=True,
        preexec_fn=_drop_override,
    )
    if done.returncode == _NO_RIGHTS:
        pytest.skip("root cannot give up its rights here")
    return done


def start_unprivileged(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    """Start Python with these arguments and piped output, without root's rights."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_drop_override,
    )
