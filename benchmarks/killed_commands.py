"""Killed commands: what they leave, and the results of a rerun, compared with those of an uninterrupted command.

    python benchmarks/killed_commands.py [--quick] [--json FILE]

Every command that writes is killed (`kill -9`, its processes included) at random moments in a copy of the same
workspace. Then the store is checked, files that existed before are compared, and the command is run again. `kills.py`
compares the training itself bit by bit.
"""

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common import Figure, arguments, conclude

KILLS = 4
"""Kills of each command."""
SEED = 5
SETTINGS = "--set precision=fp32 " + " ".join(
    f"--set stage.{stage}.epochs=1 --set stage.{stage}.milestones=[]" for stage in ("balanced", "rebalanced", "full")
)
RECORDS = (".db", ".db-wal", ".db-shm", ".log", ".key", ".lock", ".json")
"""Suffixes of files that every command may change."""

PHANTOM = ("stage_2_train", "stage_2_train.csv")
"""The folder and the label file that `ichx data phantom` writes."""

State = Mapping[str, str]
"""A digest of each result, by name."""


@dataclass(frozen=True)
class Case:
    """A command and what it produces."""

    name: str
    command: str
    results: Callable[[Path], State]
    repeatable: bool = True
    """Whether the command succeeds again after it has finished; otherwise it refuses to overwrite its result."""
    deletes: bool = False
    """Whether the command may delete or change files that existed before."""


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # bit-equal results
    options = arguments(__doc__)
    rng = random.Random(SEED)
    kills = 1 if options.quick else KILLS
    problems: list[str] = []
    done = late = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = _prepare(folder)
        for case in _cases(folder):
            expected, seconds = _uninterrupted(case, base, folder / "reference")
            for _ in range(kills):
                copy = folder / "killed"
                shutil.copytree(base, copy)
                alive = _kill(case.command, copy, rng.uniform(0.3, 1.0) * seconds)
                found = _examine(case, base, copy, expected)
                done, late = done + 1, late + (not alive)
                problems += [f"{case.name}: {problem}" for problem in found]
                print(f"{case.name}: {'killed' if alive else 'had ended'}; {'; '.join(found) or 'equal'}", flush=True)
                shutil.rmtree(copy)
            shutil.rmtree(folder / "reference")
    for problem in problems:
        print(problem)
    conclude(
        [
            Figure("kills", done - late, "", f"{late} commands had ended", "1", done > late),
            Figure("results lost or different", len(problems), "", "uninterrupted commands", "0", not problems),
        ],
        options,
    )


def _prepare(folder: Path) -> Path:
    """Return a workspace with a dataset, two trained experiments, an untrained one, a trashed one and an archive."""
    root = folder / "base"
    phantom = folder / "phantom"
    _run(folder, f"data phantom {phantom} --patients 8 --seed 1 --size 64 --prevalence any=0.4")
    _run(folder, f"init {root}")
    files, labels = (phantom / name for name in PHANTOM)
    _run(root, f"data add ph {files} --labels {labels} --folds 2")
    for name, plugin in enumerate(("tiny_resnet", "tiny_efficientnet", "tiny_byobnet", "tiny_resnet")):
        _run(root, f"exp new --plugin {plugin} --name {name} {SETTINGS}")
    for number in (1, 2, 4):
        _run(root, f"run {number}")
    _run(root, f"exp export 1 {folder / 'one.zip'} --weights")
    _run(root, "exp rm 4")
    return root


def _cases(folder: Path) -> list[Case]:
    files, labels = (folder / "phantom" / name for name in PHANTOM)
    add = f"data add second {files} --labels {labels} --folds 2"
    return [
        Case("data add", add, lambda root: _files(root, "datasets/second/**/*.parquet"), repeatable=False),
        Case("data cache", "data cache ph --size 48", lambda root: _files(root, "cache/ph-48-*/*")),
        Case("run", "run 3 --checkpoint-every 1s", lambda root: _files(root, "experiments/3/*/*[st]")),
        Case("predict", f"predict 1 {files} --out out.csv", lambda root: _files(root, "out.csv")),
        Case("exp export", "exp export 2 two.zip --weights", _archive, repeatable=False),
        Case("exp import", f"exp import {folder / 'one.zip'} --again", lambda root: _newest(root / "experiments")),
        Case("gc", "gc --yes", lambda root: _files(root, "experiments/*/*/*[st]"), deletes=True),
        Case("store backup", "store backup copy.db", _backup, repeatable=False),
        Case("ensemble", "ensemble --top 2", lambda root: _newest(root / "ensembles")),
        Case("tune", "tune 1 --trials 3 --sampler random", _trials),
    ]


def _uninterrupted(case: Case, base: Path, copy: Path) -> tuple[State, float]:
    """Return the results of the command and its duration in seconds."""
    shutil.copytree(base, copy)
    began = time.monotonic()
    _run(copy, case.command)
    seconds = time.monotonic() - began
    results = case.results(copy)
    if not results:
        raise SystemExit(f"{case.name}: no results found")
    return results, seconds


def _kill(command: str, root: Path, seconds: float) -> bool:
    """Kill the command and its processes after `seconds`; return False if it had ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ichx", *command.split()],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=_environment(),
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def _examine(case: Case, base: Path, copy: Path, expected: State) -> list[str]:
    """Return what is wrong after a kill and after a rerun."""
    problems = []
    check = _call(copy, "store check")
    if check.returncode:
        problems.append(f"store check after the kill: {check.stdout.strip()[:300]} {check.stderr.strip()[:300]}")
    if not case.deletes:
        before, after = (_existing(root) for root in (base, copy))
        problems += [f"{name} is lost or changed" for name, digest in before.items() if after.get(name) != digest]
    rerun = _call(copy, case.command)
    if rerun.returncode and (case.repeatable or rerun.returncode != 1):
        problems.append(f"the rerun failed: {rerun.stderr.strip()[-300:]}")
    results = case.results(copy)
    problems += [
        f"{name} differs" for name in sorted(results.keys() | expected) if results.get(name) != expected.get(name)
    ]
    return problems


def _existing(root: Path) -> State:
    return {
        str(path.relative_to(root)): _digest(path)
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith(RECORDS) and not path.name.startswith(".")
    }


def _files(root: Path, pattern: str) -> State:
    """Return the digests of the files that match a pattern; hidden ones are temporary."""
    return {
        str(path.relative_to(root)): _digest(path)
        for path in root.glob(pattern)
        if path.is_file() and not path.name.startswith(".") and path.suffix not in (".json", ".pt")
    }


def _archive(root: Path) -> State:
    with zipfile.ZipFile(root / "two.zip") as archive:
        return {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if "weights" in name or name.endswith(".parquet")
        }


def _backup(root: Path) -> State:
    with sqlite3.connect(root / "copy.db") as connection:
        rows = connection.execute(
            "select number, name, score, recipe_digest from experiment order by number"
        ).fetchall()
    return {str(row[0]): str(row) for row in rows}


def _newest(folder: Path) -> State:
    """Return the files of the experiment or ensemble with the highest number; a kill may leave a number unused."""
    newest = folder / max((path.name for path in folder.iterdir() if path.name.isdigit()), key=int, default="none")
    files = (path for path in newest.rglob("*") if path.suffix in (".parquet", ".safetensors"))
    return {str(path.relative_to(newest)): _digest(path) for path in files}


def _trials(root: Path) -> State:
    """Return the number of complete trials whose score is that of their experiment."""
    with sqlite3.connect(root / "db" / "tuning.db") as connection:
        complete = connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0]
    return {"at least 3 trials are complete": str(complete >= 3)}


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".safetensors":  # equal weights differ in the order of the metadata
        content = content[8 + int.from_bytes(content[:8], "little") :]
    return hashlib.sha256(content).hexdigest()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ICHX_")}


def _call(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ichx", *command.split()],
        cwd=root,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=_environment(),
        check=False,
    )


def _run(root: Path, command: str) -> None:
    result = _call(root, command)
    if result.returncode:
        raise SystemExit(f"ichx {command} failed: {result.stderr}")


if __name__ == "__main__":
    main()
