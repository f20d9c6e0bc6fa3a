"""Folds on Slurm that are submitted in bulk, and that lose their jobs, processes and node daemon."""

import getpass
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common import Figure
from killed_runs import differences

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.jobs.private_slurm import PrivateSlurm
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import JobRecord, Store, open_store
from ichx.workspace import init_workspace, open_workspace

CHECKPOINT_SECONDS = 1.0
START_SECONDS = 10.0
"""Target for the start of a process: an interruption costs this and the time since the last checkpoint."""
EVENTS = ("TERM", "KILL", "slurmd", "requeue", "scancel")
SETTINGS = (
    "batch=4",
    "stage.balanced.epochs=2",
    "stage.rebalanced.epochs=1",
    "stage.full.epochs=1",
    "model.dropout=0.2",
    "precision=fp32",
)


def workspace_with(folder: Path, experiments: int, folds: int) -> Path:
    """Return a workspace with a phantom dataset and equal experiments."""
    files = write_phantom(folder / "phantom", patients=8, seed=1, size=64, prevalence={"any": 0.4})
    workspace = init_workspace(folder / "workspace")
    with open_store(workspace) as store:
        add_dataset(Project(workspace, store), AddRequest("ph", files.train, labels=files.train_labels, folds=folds))
        for _ in range(experiments):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
    return workspace.root


def submission(server: PrivateSlurm, folder: Path, *, quick: bool) -> Figure:
    """Submit folds as a held job array; subtract the time of Slurm's own commands."""
    folds = 100 if quick else 1000
    root = workspace_with(folder, folds // 5, 5)
    shims, spent = folder / "shims", folder / "spent"
    shims.mkdir()
    path = server.environment["PATH"]
    for name in ("sbatch", "sinfo", "scontrol", "squeue"):
        shim = shims / name
        shim.write_text(
            f'#!/bin/bash\nbegan=$EPOCHREALTIME\nPATH={path} {name} "$@"\ncode=$?\n'
            f'echo "$began $EPOCHREALTIME" >>{spent}\nexit $code\n'
        )
        shim.chmod(0o755)
    environment = os.environ | server.environment | {"PATH": f"{shims}:{path}"}
    numbers = [str(number) for number in range(1, folds // 5 + 1)]
    began, before = time.perf_counter(), os.times()
    _ichx(root, environment, "run", *numbers, "--on", "slurm", "--detach", "--engine-option=--hold")
    seconds, after = time.perf_counter() - began, os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    slurm = sum(float(end) - float(start) for start, end in map(str.split, spent.read_text().splitlines()))
    queued = len(server.call("squeue", "-h", "-r", "-o", "%i").split())
    server.call("scancel", f"--user={getpass.getuser()}")
    server.wait(lambda: not server.call("squeue", "-h").strip())
    if queued != folds:
        raise SystemExit(f"{queued} jobs are queued")
    label = (
        f"submit {folds:,} folds as a job array, without {slurm:.1f} s in Slurm's commands; "
        f"processor time {processor:.1f} s, load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    )
    return Figure(label, seconds - slurm, "s", "-", "10 s", seconds - slurm <= 10)


def losses(server: PrivateSlurm, folder: Path, *, quick: bool) -> list[Figure]:
    """Disturb folds on Slurm at random, rerun the command until all are done, and compare them with a local run."""
    experiments, per_experiment, events = (3, 2, 10) if quick else (10, 3, 30)
    root = workspace_with(folder, experiments + 1, per_experiment)
    reference, numbers = experiments + 1, [str(number) for number in range(1, experiments + 1)]
    environment = os.environ | server.environment | {"OMP_NUM_THREADS": "1"}
    common = ("--device", "cpu", "--checkpoint-every", f"{CHECKPOINT_SECONDS:g}s")
    _ichx(root, environment, "run", str(reference), *common, "--on", "local")
    command = ("run", *numbers, *common, "--on", "slurm", "--cpus", "1", "--time", "60m")
    _ichx(root, environment, *command, "--detach")
    rng, lost, done = random.Random(5), [0.0], dict.fromkeys(EVENTS, 0)
    for index in range(events):
        seconds = _disturb(server, root, EVENTS[index % len(EVENTS)], rng)
        if seconds is None:  # all jobs have ended
            if _unfinished(root, numbers, per_experiment) == 0:
                break
            _ichx(root, environment, *command, "--detach")
            continue
        done[EVENTS[index % len(EVENTS)]] += 1
        lost.append(seconds)
    rounds = 0
    while _unfinished(root, numbers, per_experiment) and rounds < 5:
        rounds += 1
        _ichx(root, environment, *command, check=False)
    missing = _unfinished(root, numbers, per_experiment)
    different = [
        f"experiment {number}, fold {fold}: {name}"
        for number in map(int, numbers)
        for fold in range(per_experiment)
        for name in differences(root, reference, number, fold)
    ]
    for line in different:
        print(f"differs: {line}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in done.items())
    label = f"{experiments * per_experiment} folds on Slurm, interrupted ({kinds})"
    target = CHECKPOINT_SECONDS + START_SECONDS
    interval = f"a checkpoint every {CHECKPOINT_SECONDS:g} s"
    return [
        Figure(f"{label}: results that differ in a bit", len(different), "", "a local run", "0", not different),
        Figure("the same: folds not done by rerunning the command", missing, "", "-", "0", missing == 0),
        Figure("work lost per interruption, maximum", max(lost), "s", interval, f"{target:g} s", max(lost) <= target),
    ]


def _disturb(server: PrivateSlurm, root: Path, event: str, rng: random.Random) -> float | None:
    """Interrupt a job that trains; return the seconds of work since its last checkpoint, None if no job is left."""
    while True:
        running = server.call("squeue", "-h", "-t", "R", "-r", "-o", "%i").split()
        if not running and not server.call("squeue", "-h").strip():
            return None
        with open_store(open_workspace(root)) as store:
            records = {record.handle: record for record in store.jobs()}
            candidates = [(job, records[f"slurm:{job}"]) for job in running if f"slurm:{job}" in records]
            saved = {job: _saved(root, store, record) for job, record in candidates}
        ready = [(job, record) for job, record in candidates if saved[job] is not None]
        if not ready:
            time.sleep(0.2)
            continue
        job, record = rng.choice(ready)
        time.sleep(rng.uniform(0, 2 * CHECKPOINT_SECONDS))
        with open_store(open_workspace(root)) as store:
            newest = _saved(root, store, record)
        if newest is None:  # it has ended
            continue
        lost = time.time() - newest
        if event == "slurmd":
            server.stop("slurmd", signal.SIGKILL)
            server.start("slurmd")
        elif event == "KILL":
            _kill(root, record.submission, record.position)
        else:
            command = {
                "TERM": ("scancel", "--batch", "--signal=TERM", job),
                "requeue": ("scontrol", "requeue", job),
                "scancel": ("scancel", job),
            }[event]
            server.call(*command)
        print(f"{event}: job {job}, {lost:.1f} s after a checkpoint", flush=True)
        # A job that stops on request saves a checkpoint: it loses nothing. The node daemon's end does not stop jobs.
        return lost if event == "KILL" else 0.0


def _saved(root: Path, store: Store, record: JobRecord) -> float | None:
    """Return the time of the newest checkpoint that the running attempt of a job has written."""
    assert record.experiment is not None
    runs = store.runs(record.experiment, record.fold)
    if not runs or runs[-1].state != "running":
        return None
    times = []
    for path in (root / "experiments" / str(record.experiment) / f"fold-{record.fold}").glob("checkpoint-*.pt"):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    newest = max(times, default=0.0)
    return newest if newest > runs[-1].started.timestamp() else None


def _kill(root: Path, submission: str, position: int) -> None:
    """Kill the process of a job, not its wrapper."""
    with suppress(OSError, ValueError, KeyError):
        wrapper = json.loads((root / "jobs" / submission / f"{position}.state").read_text())["pid"]
        children = Path(f"/proc/{wrapper}/task/{wrapper}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)


def _unfinished(root: Path, numbers: Sequence[str], folds: int) -> int:
    with open_store(open_workspace(root)) as store:
        return sum(
            all(run.state != "done" for run in store.runs(int(number), fold))
            for number in numbers
            for fold in range(folds)
        )


def _ichx(root: Path, environment: dict[str, str], *words: str, check: bool = True) -> None:
    clean = {name: value for name, value in environment.items() if not name.startswith("ICHX_")}
    done = subprocess.run(
        [sys.executable, "-m", "ichx", *words],
        cwd=root,
        env=clean,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(done.stderr[-2000:], flush=True)
        if check:
            raise SystemExit(f"ichx {' '.join(words[:3])} ... ended with {done.returncode}")
