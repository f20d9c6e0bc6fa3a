"""A Slurm cluster of one node that tests and benchmarks start for themselves, from installed or unpacked programs."""

import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

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
InactiveLimit=0
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
"""


class PrivateSlurm:
    """A running cluster; `close` ends it.

    Args:
        root: `/`, or a folder with unpacked Debian packages of Slurm.
        folder: Configuration, state and logs of the daemons; it exists.
        lines: Lines of `slurm.conf` with at least one partition.
        cpus: Of the node.
    """

    def __init__(self, root: Path, folder: Path, lines: str, cpus: int) -> None:
        library = root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
        host = socket.gethostname().split(".")[0]
        controller, daemon = _free_ports(2)
        values = {"host": host, "user": getpass.getuser(), "plugins": library / "slurm-wlm", "folder": folder}
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        configuration = folder / "slurm.conf"
        text = CONFIGURATION.format(**values, controller=controller, daemon=daemon, cpus=cpus) + lines
        configuration.write_text(text.lstrip(), encoding="utf-8")
        libraries = [str(library), str(library / "slurm-wlm"), os.environ.get("LD_LIBRARY_PATH", "")]
        self.environment = {
            "SLURM_CONF": str(configuration),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "PATH": os.pathsep.join([str(root / "usr" / "bin"), os.environ.get("PATH", "")]),
        }
        """What the commands of Slurm need in addition to the environment of this process."""
        programs = {name: str(root / "usr" / "sbin" / f"{name}-wlm") for name in ("slurmctld", "slurmd", "slurmstepd")}
        self._commands = {
            "slurmctld": (programs["slurmctld"], "-D", "-i", "-f", str(configuration)),
            "slurmd": (programs["slurmd"], "-D", "-f", str(configuration), "-d", programs["slurmstepd"]),
        }
        self._folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        with ExitStack() as unless_ready:
            unless_ready.callback(self.close)
            self.start("slurmctld")
            self.start("slurmd")
            unless_ready.pop_all()

    @staticmethod
    def is_in(root: Path) -> bool:
        """Return whether `root` has the programs of Slurm."""
        return (root / "usr" / "sbin" / "slurmctld-wlm").exists()

    def start(self, name: str) -> None:
        """Start the daemon `name` and wait until it is ready."""
        quiet = subprocess.DEVNULL
        environment = {**os.environ, **self.environment}
        self._daemons[name] = subprocess.Popen(
            self._commands[name], env=environment, stdin=quiet, stdout=quiet, stderr=quiet
        )
        if name == "slurmctld":
            self.wait(lambda: "is UP" in self.call("scontrol", "ping"))
        else:
            self.wait(self._has_node)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon `name` by a signal."""
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        daemon.wait(30)

    def call(self, *command: str) -> str:
        """Return the output of a command of Slurm, empty if it fails."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def wait(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait for a state of the cluster.

        Raises:
            TimeoutError: It does not come about.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Slurm does not get ready; its logs are in {self._folder}.")
            time.sleep(0.1)

    def _has_node(self) -> bool:
        (state, *_) = self.call("sinfo", "-h", "-o", "%T").split() or [""]
        return state.isalpha() and state not in {"down", "unknown"}  # `idle*` does not respond

    def close(self) -> None:
        """Cancel all jobs, end the daemons and remove their files."""
        if "slurmctld" in self._daemons:
            user = f"--user={getpass.getuser()}"
            self.call("scancel", "--signal=KILL", "--full", "--state=RUNNING", user)
            self.call("scancel", user)
            deadline = time.monotonic() + 20
            while self.call("squeue", "-h").strip() and time.monotonic() < deadline:
                time.sleep(0.1)
        for name in list(self._daemons):
            self.stop(name)
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
