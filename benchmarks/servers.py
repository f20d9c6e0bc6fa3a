"""Servers that benchmarks start for themselves. A function yields None, with a printed reason, where it cannot."""

import os
import platform
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgres_server() -> Iterator[str | None]:
    """Yield the URL of an empty database of a new PostgreSQL server with default settings, on a socket."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    initdb, control = (shutil.which(name, path=path) for name in ("initdb", "pg_ctl"))
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
    if initdb is None or control is None or (user and user not in {entry.pw_name for entry in pwd.getpwall()}):
        print("PostgreSQL: skipped. Install a server (initdb, pg_ctl), or pass --postgres URL.", flush=True)
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ichx-pg-", ignore_cleanup_errors=True) as name:
        if user:
            shutil.chown(name, user)

        def call(*command: str) -> None:
            subprocess.run(
                command, user=user, cwd=name, check=True, stdout=subprocess.DEVNULL, env={"LC_ALL": "C.UTF-8"}
            )

        call(initdb, "-D", f"{name}/data", "-U", "ichx", "-A", "trust", "-E", "UTF8")
        call(
            control, "-D", f"{name}/data", "-o", f"-k {name} -c listen_addresses=''", "-l", f"{name}/log", "-w", "start"
        )
        try:
            yield f"postgresql+psycopg://ichx@/postgres?host={name}"
        finally:
            call(control, "-D", f"{name}/data", "-m", "immediate", "-w", "stop")


SLURM_CONF = """
ClusterName=ichx
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
AuthInfo=cred_expire=5
KillWait=30
SlurmctldPort={port}
SlurmdPort={next_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=120 State=UP
"""


class SlurmServer:
    """A one-node Slurm. `environment` is that of its commands."""

    def __init__(self, folder: Path, root: Path, port: int) -> None:
        host = platform.node().partition(".")[0]
        plugins = next(root.glob("usr/lib/*/slurm-wlm"))
        self.conf = folder / "slurm.conf"
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        values = {"host": host, "plugins": plugins, "folder": folder, "port": port, "next_port": port + 1}
        self.conf.write_text(SLURM_CONF.format(**values, cpus=os.cpu_count()))
        libraries = os.pathsep.join(filter(None, [f"{plugins.parent}:{plugins}", os.environ.get("LD_LIBRARY_PATH")]))
        path = os.pathsep.join([str(root / "usr/bin"), os.environ.get("PATH", "")])
        self.environment = os.environ | {"SLURM_CONF": str(self.conf), "LD_LIBRARY_PATH": libraries, "PATH": path}
        self._programs = root / "usr/sbin"
        self._controller = self._start("slurmctld")
        self.wait(
            lambda: subprocess.run(["scontrol", "ping"], env=self.environment, capture_output=True).returncode == 0
        )
        self._node = self._start("slurmd", "-d", str(self._programs / "slurmstepd-wlm"))
        self.wait(lambda: self.call("sinfo", "-h", "-o", "%T").strip() == "idle")

    def call(self, *command: str) -> str:
        """Return the output of a command of Slurm, also if it fails."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def restart_node(self) -> None:
        """Kill slurmd, which leaves its jobs, and start it."""
        self._node.kill()
        self._node.wait()
        self._node = self._start("slurmd", "-d", str(self._programs / "slurmstepd-wlm"))

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        self.call("scancel", "--signal=KILL", "--full", "--state=RUNNING", "--user=root")
        self.call("scancel", "--user=root")
        self.wait(lambda: not self.call("squeue", "-h").strip())
        for process in (self._node, self._controller):
            process.terminate()
            process.wait()

    def _start(self, name: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [str(self._programs / f"{name}-wlm"), "-D", "-f", str(self.conf), *options]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, env=self.environment, stdin=quiet, stdout=quiet, stderr=quiet)

    def wait(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait for a state of the cluster; raise `TimeoutError` if it does not come about."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("Slurm does not get ready")
            time.sleep(0.2)


@contextmanager
def slurm_server(packages: Path | None, port: int = 17300) -> Iterator[SlurmServer | None]:
    """Yield a Slurm from the installed programs, or from Debian packages that are unpacked in `packages`."""
    root = Path("/") if packages is None else packages.resolve()
    if os.getuid() != 0 or not (root / "usr/sbin/slurmctld-wlm").exists():
        print("Slurm: skipped. Run as root with Debian's slurmctld, slurmd and slurm-client, or --slurm FOLDER.")
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ichx-slurm-", ignore_cleanup_errors=True) as name:
        server = SlurmServer(Path(name), root, port)
        try:
            yield server
        finally:
            server.stop()
