"""A store after months of use: speed of lists, and integrity with concurrent and killed processes.

python benchmarks/store.py [--quick] [--json FILE]
"""

import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Figure, arguments, conclude
from filled_store import fill_store

MAIN = [sys.executable, "-c", "from ichx.cli.app import main; main()"]
PEER = [sys.executable, "-c", "import typer, rich, sqlalchemy"]
LISTS = (
    ("exp list", ("exp", "list"), 2.0),
    (
        "exp list --where --sort score",
        ("exp", "list", "--where", 'plugin == "resnext50" and size >= 378 and state == "done"', "--sort", "score"),
        3.0,
    ),
    ("exp list --all --json", ("exp", "list", "--all", "--json"), 10.0),
)
WRITER = """
import sys
from ichx.store import EpochRecord, Store
from ichx.store.testing import run_draft
with Store(sys.argv[1]) as store:
    fold, writes = int(sys.argv[2]), int(sys.argv[3])
    run = store.start_run(run_draft(1, fold))
    for epoch in range(writes):
        store.record_epoch(run.id, EpochRecord("full", 0, epoch, {"loss": 0.5, "score": 0.1 + epoch}))
        print(epoch, flush=True)
"""
READER = """
import sys
from ichx.store import Store
with Store(sys.argv[1]) as store:
    while True:
        epochs = [len(store.history(1, fold)) for fold in range(int(sys.argv[2]))]
        store.experiments()
"""
OPENER = "import sys; from ichx.store import Store; Store(sys.argv[1]).close()"


def main() -> None:
    options = arguments(__doc__)
    quick = options.quick
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"ICHX_WORKSPACE": str(folder / "big"), "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        for unwanted in ("PYTHONDONTWRITEBYTECODE", "ICHX_STORE"):
            environment.pop(unwanted, None)  # bytecode as an installed package has it
        experiments = 2_000 if quick else 10_000
        fill_store(folder / "big", experiments, folds=5, metrics=100)
        figures += _lists(environment, experiments, repetitions=3 if quick else 11)
        figures.append(_concurrent_writers(folder, processes=16, writes=20 if quick else 1000))
        figures += _openings(folder, rounds=2 if quick else 10)
        figures.append(_killed_upgrades(folder, kills=5 if quick else 50))
        figures.append(_killed_writers(folder, kills=8 if quick else 200))
    conclude(figures, options)


def _lists(environment: dict[str, str], experiments: int, repetitions: int) -> list[Figure]:
    """Time each list, alternating with an import of the libraries that it needs."""
    found = []
    for name, words, target in LISTS:
        for command in ([*MAIN, *words], PEER):
            _seconds(command, environment)
        pairs = [(_seconds([*MAIN, *words], environment), _seconds(PEER, environment)) for _ in range(repetitions)]
        ratio = statistics.median(a / b for a, b in pairs)
        own, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
        baseline = f"import typer, rich, sqlalchemy ({peer:.2f} s)"
        label = f"{name}, {experiments:,} experiments ({own:.2f} s)"
        found.append(Figure(label, ratio, "x", baseline, f"{target:g} x", ratio <= target))
    return found


def _concurrent_writers(folder: Path, processes: int, writes: int) -> Figure:
    """Run `processes` writers and one reader concurrently; count errors and lost rows."""
    url = _new_store(folder / "concurrent.db", processes)
    reader = _python(READER, url, str(processes))
    writers = [_python(WRITER, url, str(fold), str(writes)) for fold in range(processes)]
    failed = sum(bool(writer.communicate()[1]) or writer.returncode != 0 for writer in writers)
    failed += reader.poll() is not None
    reader.kill()
    reader.communicate()
    missing = processes * writes - _epochs(url, processes)
    label = f"{processes} processes, {writes:,} writes each, and a reader: errors and lost rows"
    return Figure(label, failed + missing, "", "-", "0", failed + missing == 0)


def _openings(folder: Path, rounds: int) -> list[Figure]:
    """Open a missing or an old store in 8 processes at the same time."""
    found = []
    for kind, name in (("missing", "a missing"), ("old", "an old")):
        errors = 0
        for index in range(rounds):
            file = folder / f"{kind}-{index}.db"
            if kind == "old":
                _old_store(file)
            openers = [_python(OPENER, f"sqlite:///{file}") for _ in range(8)]
            errors += sum(bool(opener.communicate()[1]) or opener.returncode != 0 for opener in openers)
            errors += _stamps(file) != 1
        found.append(Figure(f"8 processes open {name} store, {rounds} x: errors", errors, "", "-", "0", errors == 0))
    return found


def _killed_upgrades(folder: Path, kills: int) -> Figure:
    """Kill upgrades at random times; the next command must complete each of them."""
    rng, errors = random.Random(2), 0
    file = folder / "upgrade-time.db"
    _old_store(file)
    began = time.perf_counter()
    _python(OPENER, f"sqlite:///{file}").communicate()
    seconds = time.perf_counter() - began
    for index in range(kills):
        file = folder / f"upgrade-{index}.db"
        _old_store(file)
        process = _python(OPENER, f"sqlite:///{file}")
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = _python(OPENER, f"sqlite:///{file}")
        errors += bool(after.communicate()[1]) or after.returncode != 0 or _stamps(file) != 1 or not _intact(file)
    return Figure(f"{kills} upgrades killed: not completed by the next command", errors, "", "-", "0", errors == 0)


def _killed_writers(folder: Path, kills: int) -> Figure:
    """Kill writers at random times; every epoch that they printed must be recorded, and the file intact."""
    rng, errors = random.Random(3), 0
    for index in range(kills):
        file = folder / f"writer-{index}.db"
        url = _new_store(file, 1)
        process = _python(WRITER, url, "0", "100000")
        assert process.stdout is not None
        printed = [process.stdout.readline()]
        time.sleep(rng.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        printed += process.communicate()[0].splitlines()
        committed = len([line for line in printed if line.strip()])
        errors += _epochs(url, 1) < committed or not _intact(file)
    return Figure(f"{kills} writers killed: lost rows or damaged files", errors, "", "-", "0", errors == 0)


def _new_store(file: Path, folds: int) -> str:
    from ichx.store import Store
    from ichx.store.testing import experiment_draft, version_draft

    url = f"sqlite:///{file}"
    with Store(url) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft(k=folds)))])
    return url


def _old_store(file: Path) -> None:
    """Create a store with the tables of the first version of ichx."""
    from alembic import command

    from ichx.store import database, migrate

    engine = database.connect(f"sqlite:///{file}")
    with database.writing(engine) as connection:
        command.upgrade(migrate.upgrade_config(connection), "0001")
    engine.dispose()


def _epochs(url: str, folds: int) -> int:
    from ichx.store import Store

    with Store(url) as store:
        return sum(len(store.history(1, fold)) for fold in range(folds))


def _stamps(file: Path) -> int:
    """Return the number of current version stamps in the store."""
    from ichx.store.migrate import HEAD

    connection = sqlite3.connect(file)
    (found,) = connection.execute("SELECT count(*) FROM ichx_version WHERE version_num = ?", [HEAD]).fetchone()
    connection.close()
    return int(found)


def _intact(file: Path) -> bool:
    connection = sqlite3.connect(file)
    (result,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return bool(result == "ok")


def _python(code: str, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
