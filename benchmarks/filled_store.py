"""A store with many experiments, runs and epochs, written in seconds."""

import random
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path


def fill_store(root: Path, experiments: int, *, folds: int, metrics: int) -> None:
    """Create a workspace with `experiments`, one run per fold, and `metrics` rows of history per run."""
    from ichx.plugins import load_registry
    from ichx.recipe_text import to_toml
    from ichx.store import open_store
    from ichx.store.testing import experiment_draft, version_draft
    from ichx.workspace import init_workspace

    workspace = init_workspace(root)
    with open_store(workspace) as store:
        version = store.add_version(version_draft(k=folds))
        store.add_experiments([experiment_draft(version)])
    recipe = to_toml(load_registry().get("resnext50").recipe)
    database = sqlite3.connect(root / "db" / "ichx.db")
    columns = [row[1] for row in database.execute("PRAGMA table_info(experiment)")]
    first = dict(zip(columns, database.execute("SELECT * FROM experiment").fetchone(), strict=True))
    rng, start = random.Random(1), datetime.now(UTC).replace(tzinfo=None) - timedelta(days=60)
    rows, runs = [], []
    for number in range(1, experiments + 1):
        created = start + timedelta(minutes=8 * number)
        plugin = rng.choice(("resnext50", "efficientnet_b3", "seresnext50"))
        score = rng.uniform(0.05, 0.2)
        values = {"number": number, "name": f"{plugin}-{number}", "plugin": plugin, "size": rng.choice((256, 378, 512))}
        values |= {"recipe": recipe, "created": str(created), "score": score, "spread": 0.01, "score_tta": score * 0.99}
        rows.append(tuple({**first, **values}[column] for column in columns))
        for fold in range(folds):
            state = "done" if rng.random() < 0.97 else rng.choice(("failed", "stopped", "dead"))
            times = [str(created + timedelta(hours=fold + extra)) for extra in (0, 1)]
            runs.append(
                (number, fold, 1, state, "there", 1, times[0], times[1], times[1], "full", 8, 8, "1", "cpu", "", "{}")
            )
    with database:
        database.execute("DELETE FROM experiment")
        placeholders = ",".join("?" * len(columns))
        database.executemany(f"INSERT INTO experiment ({','.join(columns)}) VALUES ({placeholders})", rows)
        database.execute("UPDATE counter SET last = ? WHERE kind = 'experiment'", [experiments])
        database.executemany(
            "INSERT INTO run (experiment, fold, attempt, state, host, pid, started, heartbeat, ended, stage, epoch, "
            "epochs_done, code_version, device, command, libraries) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            runs,
        )
        database.execute("INSERT INTO run_stage SELECT id, 0, 'full' FROM run")
        names = [f"metric_{i:02}" for i in range(10)]
        database.executemany(
            "INSERT INTO epoch_metric VALUES (?,0,?,?,?)",
            (
                (run, epoch, name, 0.1)
                for run in range(1, len(runs) + 1)
                for epoch in range(metrics // len(names))
                for name in names
            ),
        )
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
