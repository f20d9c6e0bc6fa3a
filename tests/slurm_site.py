"""Slurm for tests: a one-node cluster that these tests start themselves, or the cluster of this machine.

`ICHX_TEST_SLURM` names a folder with unpacked Debian packages of Slurm; CONTRIBUTING.md describes how to get it.
Without it, the tests use the default partition of the cluster that `sbatch` on the path talks to. They are skipped if
there is neither.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ichx.jobs.private_slurm import PrivateSlurm

LINES = """
MinJobAge=300
MaxArraySize=6
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=test Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=2
"""


@dataclass
class SlurmSite:
    """A cluster, and its daemons if these tests have started them."""

    private: PrivateSlurm | None = None
    """With daemons that the tests may stop, and limits that they know."""

    def start(self, name: str) -> None:
        """Start the daemon `name` and wait until it is ready."""
        assert self.private is not None
        self.private.start(name)

    def stop(self, name: str, number: signal.Signals) -> None:
        """End the daemon `name` by a signal."""
        assert self.private is not None
        self.private.stop(name, number)

    def call(self, *command: str) -> str:
        """Return the output of a command of Slurm, empty if it fails."""
        if self.private is not None:
            return self.private.call(*command)
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def wait_until(self, wanted: str, *command: str) -> None:
        """Wait until the output of a command contains `wanted`."""
        deadline = time.monotonic() + 60
        while wanted not in (output := self.call(*command)):
            assert time.monotonic() < deadline, f"{command} printed {output!r} instead of {wanted!r}"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmSite]:
    """Yield a running cluster."""
    root = os.environ.get("ICHX_TEST_SLURM")
    if root is None:
        if shutil.which("sbatch") is None or not SlurmSite().call("sinfo", "-h"):
            pytest.skip("there is neither a Slurm cluster nor ICHX_TEST_SLURM")
        yield SlurmSite()
        return
    folder = Path(tempfile.mkdtemp(prefix="ichx-slurm-", dir="/tmp"))  # sockets need a short path
    with closing(PrivateSlurm(Path(root).resolve(), folder, LINES, cpus=2)) as private:
        yield SlurmSite(private)


@pytest.fixture
def slurm(slurm_cluster: SlurmSite, monkeypatch: pytest.MonkeyPatch) -> SlurmSite:
    """Return a running cluster whose commands are on the path."""
    if slurm_cluster.private is not None:
        for name, value in slurm_cluster.private.environment.items():
            monkeypatch.setenv(name, value)
    return slurm_cluster
