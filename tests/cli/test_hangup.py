"""A terminal that closes, as it does when an ssh connection drops, and `nohup`."""

import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Program, clean_environment
from running_programs import TIMEOUT_SECONDS, wait_until

from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.plugins import load_registry
from ichx.store import open_store
from ichx.workspace import open_workspace

SETTINGS = ("batch=4", "stage.balanced.epochs=6", "stage.rebalanced.epochs=1", "stage.full.epochs=1", "precision=fp32")


class Terminal:
    """A process that leads the session of a terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process, self._master = process, master
        self.output = b""
        self._hung_up = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        os.set_blocking(self._master, False)
        while not self._hung_up.wait(0.01):
            with contextlib.suppress(OSError):
                self.output += os.read(self._master, 1 << 16)
        os.close(self._master)

    def hang_up(self) -> None:
        """Close the terminal."""
        self._hung_up.set()
        self._reader.join()


@contextmanager
def terminal(*command: object, cwd: Path) -> Iterator[Terminal]:
    """Yield a command that runs in a terminal of its own."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env=clean_environment(TERM="xterm"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    found = Terminal(process, master)
    try:
        yield found
    finally:
        found.hang_up()
        process.kill()
        process.wait()


def register(root: Path, count: int) -> None:
    with open_store(open_workspace(root)) as store:
        for _ in range(count):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))


def states(root: Path, numbers: Sequence[int]) -> list[str]:
    with open_store(open_workspace(root)) as store:
        return [store.runs(number)[-1].state for number in numbers]


def ichx_command(*arguments: object) -> list[object]:
    return [sys.executable, "-m", "ichx", *arguments]


@pytest.mark.slow
def test_a_run_whose_terminal_closes_resumes(
    dataset_copy: Path, ichx_process: Program, killed_runs: ModuleType
) -> None:
    register(dataset_copy, 2)
    arguments = ("--fold", 0, "--device", "cpu", "--workers", 2, "--checkpoint-every", "0.2s")
    folder = dataset_copy / "experiments" / "1" / "fold-0"
    with terminal(*ichx_command("run", 1, *arguments), cwd=dataset_copy) as opened:
        wait_until(lambda: any(folder.glob("checkpoint-*.pt")) or opened.process.poll() is not None)
        opened.hang_up()
        assert opened.process.wait(TIMEOUT_SECONDS) == 129, opened.output
    assert states(dataset_copy, [1]) == ["stopped"]
    for number in (1, 2):
        done = ichx_process("run", number, *arguments, cwd=dataset_copy)
        assert done.code == 0, done.err
        assert ("checkpoint after epoch" in done.err) == (number == 1)
    assert killed_runs.differences(dataset_copy, 1, 2) == []


def test_a_launch_whose_terminal_closes_stops_its_folds(dataset_copy: Path) -> None:
    register(dataset_copy, 2)
    folders = [dataset_copy / "experiments" / str(number) / "fold-0" for number in (1, 2)]
    command = ichx_command("run", 1, 2, "--fold", 0, "--jobs", 2, "--device", "cpu", "--checkpoint-every", "0.2s")
    with terminal(*command, cwd=dataset_copy) as opened:
        wait_until(lambda: all(any(f.glob("checkpoint-*.pt")) for f in folders) or opened.process.poll() is not None)
        opened.hang_up()
        assert opened.process.wait(TIMEOUT_SECONDS) == 129, opened.output
    assert states(dataset_copy, [1, 2]) == ["stopped", "stopped"]


def test_nohup_outlives_its_terminal(dataset_copy: Path) -> None:
    register(dataset_copy, 1)
    folder = dataset_copy / "experiments" / "1" / "fold-0"
    command = ichx_command("run", 1, "--fold", 0, "--device", "cpu", "--checkpoint-every", "0.2s")
    with terminal("nohup", *command, cwd=dataset_copy) as opened:
        wait_until(lambda: any(folder.glob("checkpoint-*.pt")) or opened.process.poll() is not None)
        opened.hang_up()
        assert opened.process.wait(TIMEOUT_SECONDS) == 0, opened.output
    assert states(dataset_copy, [1]) == ["done"]
    assert "experiment 1" in (dataset_copy / "nohup.out").read_text()


def test_a_command_that_is_not_a_run_ends_and_completes_when_rerun(dataset_copy: Path, ichx_process: Program) -> None:
    caching = ("data", "cache", "ph", "--size", 48, "--processes", 2)
    with terminal(*ichx_command(*caching), cwd=dataset_copy) as opened:
        wait_until(lambda: any(dataset_copy.glob("cache/*")) or opened.process.poll() is not None)
        opened.hang_up()
        assert opened.process.wait(TIMEOUT_SECONDS) in (-1, 129, 0)
    done = ichx_process(*caching, cwd=dataset_copy)
    assert done.code == 0, done.err
    done = ichx_process("data", "cache", "ph", "--verify", cwd=dataset_copy)
    assert done.code == 0, done.err
