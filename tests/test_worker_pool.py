"""Processes of the worker pool that die while they work or wait."""

import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from open_files import lowest_free_descriptor

from ichx.errors import ResourceError
from ichx.worker_pool import core_count, map_in_processes, worker_count


def test_death_of_an_idle_process_does_not_stop_the_others_forever(tmp_path: Path) -> None:
    """It holds the lock of the queue, for which the others wait."""
    script = tmp_path / "pool.py"
    script.write_text(
        textwrap.dedent("""
            import os, signal, sys, time
            from multiprocessing import active_children
            from pathlib import Path
            from ichx.errors import ProcessError
            from ichx.worker_pool import map_in_processes

            FOLDER = Path(__file__).parent

            def wait_for(name):
                while not (FOLDER / name).exists():
                    time.sleep(0.01)

            def work(item):
                if item == "last":
                    (FOLDER / "draft").write_text(str(os.getpid()))
                    (FOLDER / "draft").rename(FOLDER / "busy")
                    wait_for("go")
                return item

            if __name__ == "__main__":
                done = []
                try:
                    for item in map_in_processes(work, ["first", "last"], 2):
                        done.append(item)
                        if item == "first":
                            wait_for("busy")
                            busy = int((FOLDER / "busy").read_text())
                            (idle,) = [child for child in active_children() if child.pid != busy]
                            os.kill(idle.pid, signal.SIGKILL)
                            (FOLDER / "go").touch()
                except ProcessError:
                    done.append("last")
                print(*done)
        """)
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=900)
    assert (ended.returncode, ended.stdout) == (0, "first last\n"), ended.stderr


def test_processes_that_cannot_start_are_an_error() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor() + 2, hard))
    try:
        with pytest.raises(ResourceError, match="2 worker processes"):
            list(map_in_processes(int, ["1", "2", "3"], 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_processes_than_the_memory_holds_are_refused_with_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ichx.worker_pool.core_count", core_count)
    assert worker_count(10**9, 3) == 3
    assert worker_count(None, 10**9) == core_count()
    assert worker_count(2, 10**9) == 2
    with pytest.raises(ResourceError, match=r"1,000,000,000 processes take about 150,000 TB"):
        worker_count(10**9, 10**10)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SLURM_CPUS_PER_TASK", "1", 1),
        ("SLURM_CPUS_ON_NODE", "1", 1),
        ("SLURM_CPUS_PER_TASK", "100000", None),
        ("SLURM_CPUS_PER_TASK", "0", None),
        ("SLURM_CPUS_ON_NODE", "1(x2)", None),
    ],
)
def test_a_job_of_slurm_uses_its_own_cores(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: int | None
) -> None:
    cores = core_count()
    monkeypatch.setenv(variable, value)
    assert core_count() == (expected or cores)


def test_processes_do_not_execute_the_script_that_starts_them(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        textwrap.dedent("""
            import math
            from ichx.worker_pool import map_in_processes
            print("started", flush=True)
            print(sorted(map_in_processes(math.isqrt, [4, 9, 16], 2)), __file__.endswith("unguarded.py"))
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("started\n[2, 3, 4] True\n", 0), done.stderr


def test_a_function_of_the_script_runs_in_processes(tmp_path: Path) -> None:
    script = tmp_path / "guarded.py"
    script.write_text(
        textwrap.dedent("""
            from ichx.worker_pool import map_in_processes
            def double(value):
                return 2 * value
            if __name__ == "__main__":
                print(sorted(map_in_processes(double, [1, 2, 3], 2)))
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[2, 4, 6]\n", 0), done.stderr
