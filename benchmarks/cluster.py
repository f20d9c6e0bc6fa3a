"""Many runs and jobs: writes to PostgreSQL, lists, submissions to Slurm, lost jobs, shared building of a cache.

    python benchmarks/cluster.py [--quick] [--json FILE] [--postgres URL] [--slurm FOLDER] [--only PART ...]

PostgreSQL is started in a temporary folder unless a URL names an empty database. Slurm is started by root from Debian's
packages, installed or unpacked in a folder. Parts are skipped with a message where that is impossible.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from common import Figure, arguments, conclude
from servers import postgres_server, slurm_server

PARTS = ("postgres", "lists", "submit", "losses", "cache")
MAIN = [sys.executable, "-c", "from ichx.cli.app import main; main()"]
RUNS = 200
RUNS_PER_PROCESS = 50
HEARTBEAT = 10.0
"""Seconds."""
EPOCH = 15.0
"""Seconds."""
SIMULATED = """
import json, random, sys, threading, time
from ichx.store import EpochRecord, Store
from ichx.store.testing import run_draft
url, first, count, heartbeat_every, epoch_every, seconds = sys.argv[1], *map(float, sys.argv[2:])
values = {name: 0.5 for name in ("loss", "score", "lr", "seconds", "images", "images_per_second", "memory_gb")}
times, processor, failures, recorded, lock = [], [], [], {}, threading.Lock()

def timed(write, *words):
    began, worked = time.perf_counter(), time.thread_time()
    try:
        write(*words)
    except Exception as error:
        failures.append(repr(error))
        return False
    finally:
        with lock:
            times.append(time.perf_counter() - began)
            processor.append(time.thread_time() - worked)
    return True

def simulate(index):
    rng, epochs = random.Random(index), 0
    time.sleep(rng.uniform(0, heartbeat_every))
    try:
        with Store(url) as store:
            run = store.start_run(run_draft(1 + index // 5, index % 5))
            start = time.monotonic()
            due = {"heartbeat": start + heartbeat_every, "epoch": start + rng.uniform(0.1, epoch_every)}
            while (now := time.monotonic()) < start + seconds:
                kind = min(due, key=due.get)
                time.sleep(max(due[kind] - now, 0))
                if kind == "heartbeat":
                    timed(store.heartbeat, run.id)
                    due[kind] += heartbeat_every
                else:
                    epochs += timed(store.record_epoch, run.id, EpochRecord("full", 0, epochs + 1, values))
                    due[kind] += epoch_every
            timed(store.finish_run, run.id, "done")
    except Exception as error:
        failures.append(repr(error))
    with lock:
        recorded[index] = epochs

threads = [threading.Thread(target=simulate, args=(int(first) + i,)) for i in range(int(count))]
for thread in threads: thread.start()
for thread in threads: thread.join()
json.dump({"times": times, "processor": processor, "failures": failures, "recorded": recorded}, sys.stdout)
"""
PROBE = """
import json, psycopg, sys, time
url, seconds = sys.argv[1].replace("+psycopg", ""), float(sys.argv[2])
with psycopg.connect(url) as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS probe AS SELECT 1 AS n")
times, end = [], time.monotonic() + seconds
while time.monotonic() < end:
    began = time.perf_counter()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE probe SET n = n + 1")
    times.append(time.perf_counter() - began)
    time.sleep(0.05)
json.dump(times, sys.stdout)
"""
WRITER = """
import sys
from ichx.store import EpochRecord, Store
from ichx.store.testing import run_draft
experiment, fold, writes = map(int, sys.argv[2:])
with Store(sys.argv[1]) as store:
    run = store.start_run(run_draft(experiment, fold))
    for epoch in range(writes):
        store.record_epoch(run.id, EpochRecord("full", 0, epoch, {"loss": 0.5, "score": 0.1 + epoch}))
    store.finish_run(run.id, "done")
"""


def main() -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--postgres", metavar="URL", help="an empty database, e.g. postgresql+psycopg://me@host/test")
    own.add_argument("--slurm", type=Path, metavar="FOLDER", help="where Debian's Slurm packages are unpacked")
    own.add_argument("--only", action="append", choices=PARTS, help="only this part; repeatable")
    options = arguments(__doc__, parents=[own])
    figures: list[Figure] = []
    for part in options.only or PARTS:
        figures += {
            "postgres": _postgres,
            "lists": _lists,
            "submit": _submission,
            "losses": _losses,
            "cache": _builders,
        }[part](options)
    conclude(figures, options)


def _postgres(options: argparse.Namespace) -> list[Figure]:
    with nullcontext(options.postgres) if options.postgres else postgres_server() as url:
        if url is None:
            return []
        _fill(url, experiments=RUNS // 5 + 4)
        return [
            *_simulated_runs(url, seconds=12 if options.quick else 180),
            _writers(url, 50 if options.quick else 1000),
        ]


def _fill(url: str, experiments: int) -> None:
    from ichx.store import Store
    from ichx.store.testing import experiment_draft, version_draft

    with Store(url) as store:
        version = store.add_version(version_draft(k=5))
        store.add_experiments([experiment_draft(version, f"e{index}") for index in range(experiments)])


def _simulated_runs(url: str, seconds: float) -> list[Figure]:
    """Let 200 runs record heartbeats and epochs, each with a store object of its own."""
    from ichx.store import Store

    words = [str(value) for value in (RUNS_PER_PROCESS, HEARTBEAT, EPOCH, seconds)]
    processes = [_python(SIMULATED, url, str(first), *words) for first in range(0, RUNS, RUNS_PER_PROCESS)]
    probe = _python(PROBE, url, str(seconds + HEARTBEAT))
    found = [_output(process) for process in processes]
    plain = 1000 * _p99(_output(probe))
    times = sorted(time for one in found for time in one["times"])
    failures = [failure for one in found for failure in one["failures"]]
    for failure in sorted(set(failures))[:5]:
        print(f"failed: {failure}")
    with Store(url) as store:
        lost = sum(
            count - len(store.history(1 + int(index) // 5, int(index) % 5))
            for one in found
            for index, count in one["recorded"].items()
        )
        lost += sum(run.state != "done" for number in range(1, RUNS // 5 + 1) for run in store.runs(number))
    label = f"{RUNS} runs, a heartbeat every {HEARTBEAT:g} s, an epoch every {EPOCH:g} s, {len(times):,} writes"
    processor = 1000 * _p99([time for one in found for time in one["processor"]])
    p99, baseline = 1000 * _p99(times), f"connect, UPDATE, commit at the same time ({plain:.0f} ms)"
    return [
        Figure(f"{label}: failed or lost", len(failures) + lost, "", "-", "0", not failures and not lost),
        Figure("the same: median of a write", 1000 * statistics.median(times), "ms", "-", "-", True),
        Figure("the same: p99 of the processor time of a write", processor, "ms", "-", "-", True),
        Figure("the same: p99 of a write", p99, "ms", baseline, "50 ms", p99 <= 50),
    ]


def _p99(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def _writers(url: str, writes: int) -> Figure:
    """Let 16 processes write concurrently as fast as they can; count errors and lost rows."""
    from ichx.store import Store

    folds = [(RUNS // 5 + 1 + index // 5, index % 5) for index in range(16)]
    began = time.perf_counter()
    processes = [_python(WRITER, url, str(number), str(fold), str(writes)) for number, fold in folds]
    failed = 0
    for process in processes:
        errors = process.communicate()[1]
        failed += process.returncode != 0
        if errors:
            print(errors)
    seconds = time.perf_counter() - began
    with Store(url) as store:
        lost = 16 * writes - sum(len(store.history(number, fold)) for number, fold in folds)
    label = f"16 processes, {writes:,} writes each ({16 * writes / seconds:,.0f} per second): errors and lost rows"
    return Figure(label, failed + lost, "", "-", "0", failed + lost == 0)


def _lists(options: argparse.Namespace) -> list[Figure]:
    """Time the lists of jobs and experiments with 1,000 jobs in the store, alternating with an empty store."""
    from ichx.store import JobChange, JobDraft, open_store
    from ichx.store.testing import experiment_draft, version_draft
    from ichx.workspace import init_workspace

    with tempfile.TemporaryDirectory() as name:
        for kind, jobs in (("empty", 0), ("full", 1000)):
            with open_store(init_workspace(Path(name, kind))) as store:
                if jobs:
                    version = store.add_version(version_draft(k=5))
                    store.add_experiments([experiment_draft(version, f"e{index}") for index in range(jobs // 5)])
                drafts = [
                    JobDraft(
                        submission=f"s{index // 100}",
                        position=index % 100,
                        engine="slurm",
                        kind="fold",
                        name=f"experiment {1 + index // 5}, fold {index % 5}",
                        log=f"experiments/{1 + index // 5}/fold-{index % 5}/run.log",
                        experiment=1 + index // 5,
                        fold=index % 5,
                    )
                    for index in range(jobs)
                ]
                added = store.add_jobs(drafts)
                for submission in {draft.submission for draft in drafts}:
                    store.set_handles(submission, [f"slurm:{submission[1:]}_{index}" for index in range(100)])
                store.update_jobs({job.id: JobChange("done", exit_code=0, seconds=3600.0) for job in added})
        figures = []
        for command in (("jobs", "--all"), ("exp", "list")):
            pairs = [
                [_seconds([*MAIN, *command], Path(name, kind)) for kind in ("full", "empty")]
                for _ in range(4 if options.quick else 12)
            ][1:]
            ratio = statistics.median(full / empty for full, empty in pairs)
            full, empty = (statistics.median(column) for column in zip(*pairs, strict=True))
            label = f"ichx {' '.join(command)}, 1,000 jobs in the store ({full:.2f} s)"
            figures.append(Figure(label, ratio, "x", f"an empty store ({empty:.2f} s)", "2 x", ratio <= 2))
        return figures


def _submission(options: argparse.Namespace) -> list[Figure]:
    with slurm_server(options.slurm) as server, tempfile.TemporaryDirectory() as name:
        if server is None:
            return []
        from slurm_losses import submission  # imports torch

        return [submission(server, Path(name), quick=options.quick)]


def _losses(options: argparse.Namespace) -> list[Figure]:
    with slurm_server(options.slurm) as server, tempfile.TemporaryDirectory() as name:
        if server is None:
            return []
        from slurm_losses import losses

        return losses(server, Path(name), quick=options.quick)


def _builders(options: argparse.Namespace) -> list[Figure]:
    from shared_builds import shared_building  # needs the libraries of `data.py`

    with tempfile.TemporaryDirectory() as name:
        return shared_building(Path(name), quick=options.quick)


def _seconds(command: Sequence[str], workspace: Path) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ICHX_")}
    began = time.perf_counter()
    subprocess.run(command, cwd=workspace, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _python(code: str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _output(process: "subprocess.Popen[str]") -> Any:
    out, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)
    return json.loads(out)


if __name__ == "__main__":
    main()
