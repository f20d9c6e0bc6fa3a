"""A Ray cluster of one node on this machine, for tests."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

START_SECONDS = 120.0


def why_ray_is_absent() -> str | None:
    """Return the reason why no cluster can start here."""
    missing = [name for name in ("ray", "aiohttp", "opencensus") if find_spec(name) is None]
    return f"{', '.join(missing)} not installed: pip install 'ichx[ray]'" if missing else None


@dataclass
class LocalRay:
    url: str
    head: "subprocess.Popen[bytes]"

    def kill(self) -> None:
        """End all processes of the cluster."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.head.pid, signal.SIGKILL)
        self.head.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def local_ray(port: int | None = None, environment: dict[str, str] | None = None) -> Iterator[LocalRay]:
    """Yield a cluster with 2 CPUs, 2 GPUs that do not exist and 2 GB of memory whose dashboard is at `port`."""
    port = port or free_port()
    folder = tempfile.mkdtemp(prefix="ray-")  # sockets need a short path
    command = f"""{sys.executable} -m ray.scripts.scripts start --head --block --port=0 --node-ip-address=127.0.0.1
        --num-cpus=2 --num-gpus=2 --memory=2000000000 --object-store-memory=80000000 --resources={{"disk":1}}
        --dashboard-port={port} --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0
        --ray-client-server-port={free_port()} --disable-usage-stats --include-log-monitor=false --temp-dir={folder}"""
    log = Path(folder, "start.log")
    with log.open("wb") as output:
        head = subprocess.Popen(
            command.split(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "RAY_JOB_START_TIMEOUT_SECONDS": "3600", **(environment or {})},
        )
    cluster = LocalRay(f"http://127.0.0.1:{port}", head)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(cluster.url):
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield cluster
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api/v0/nodes", timeout=5) as answer:
        return b"ALIVE" in answer.read()
    return False
