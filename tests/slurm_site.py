"""Slurm for tests: a one-node cluster that these tests start themselves, or the cluster of this machine.

`ICHX_TEST_SLURM` names a folder with unpacked Debian packages of Slurm; CONTRIBUTING.md describes how to get it.
Without it, the tests use the default partition of the cluster that `sbatch` on the path talks to. They are skipped if
there is neither.
"""

import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CONFIGURATION = """
ClusterName=ichx
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=300
MaxArraySize=6
KillWait=5
InactiveLimit=0
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=test Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=2
"""


@dataclass
class SlurmSite:
    """A cluster, and the daemons if these tests have started them."""

    environment: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The commands that start the daemons."""
    daemons: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    @property
    def is_private(self) -> bool:
        """Whether the tests may stop its daemons, and know its limits."""
        return bool(self.programs)

    def start(self, name: str) -> None:
        """Start the daemon `name` and wait until the node is ready."""
        environment = {**os.environ, **self.environment}
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.daemons[name] = subprocess.Popen(self.programs[name], env=environment, **quiet)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon `name` by a signal."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        daemon.wait(30)

    def call(self, *command: str) -> str:
        """Return the output of a command of Slurm, empty if it fails."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def wait_until(self, wanted: str, *command: str) -> None:
        """Wait until the output of a command contains `wanted`."""
        deadline = time.monotonic() + 60
        while wanted not in (output := self.call(*command)):
            assert time.monotonic() < deadline, f"{command} printed {output!r} instead of {wanted!r}"
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _unpacked(root: Path, folder: Path) -> SlurmSite:
    """Return a site of the packages in `root` with its files in `folder`."""
    library = root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    controller, daemon = _free_ports(2)
    host = socket.gethostname().split(".")[0]
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    values = {"host": host, "user": getpass.getuser(), "plugins": library / "slurm-wlm", "folder": folder}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**values, controller=controller, daemon=daemon).lstrip())
    programs = {name: str(root / "usr" / "sbin" / f"{name}-wlm") for name in ("slurmctld", "slurmd", "slurmstepd")}
    return SlurmSite(
        environment={
            "SLURM_CONF": str(configuration),
            "LD_LIBRARY_PATH": os.pathsep.join([str(library), str(library / "slurm-wlm")]),
            "PATH": os.pathsep.join([str(root / "usr" / "bin"), os.environ["PATH"]]),
        },
        programs={
            "slurmctld": (programs["slurmctld"], "-D", "-i", "-f", str(configuration)),
            "slurmd": (programs["slurmd"], "-D", "-f", str(configuration), "-d", programs["slurmstepd"]),
        },
    )


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmSite]:
    """Yield a running cluster."""
    root = os.environ.get("ICHX_TEST_SLURM")
    if root is None:
        if shutil.which("sbatch") is None or not SlurmSite().call("sinfo", "-h"):
            pytest.skip("there is neither a Slurm cluster nor ICHX_TEST_SLURM")
        yield SlurmSite()
        return
    folder = Path(tempfile.mkdtemp(prefix="ichx-slurm-", dir="/tmp"))
    site = _unpacked(Path(root), folder)
    try:
        site.start("slurmctld")
        site.wait_until("is UP", "scontrol", "ping")
        site.start("slurmd")
        site.wait_until("idle", "sinfo", "-h", "-o", "%T")
        yield site
    finally:
        if "slurmctld" in site.daemons:
            site.call("scancel", f"--user={getpass.getuser()}")
            deadline = time.monotonic() + 20
            while site.call("squeue", "-h").strip() and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in list(site.daemons):
            site.stop(name)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(slurm_cluster: SlurmSite, monkeypatch: pytest.MonkeyPatch) -> SlurmSite:
    """Return a running cluster whose commands are on the path."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    return slurm_cluster
