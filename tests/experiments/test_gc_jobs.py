"""The files of ended jobs are garbage after a day, those of active ones never."""

import os
import time
from pathlib import Path

import pytest

from ichx.experiments.gc import delete, find_garbage
from ichx.project import Project
from ichx.store import JobChange, JobDraft, open_store
from ichx.workspace import init_workspace

DAY = 24 * 3600.0


@pytest.mark.parametrize(
    ("state", "days", "garbage"),
    [
        ("done", 2, True),
        ("lost", 2, True),
        ("done", 0.5, False),
        ("running", 400, False),
        ("submitting", 400, False),
        (None, 2, False),  # the store does not know it
        (None, 31, True),
    ],
)
def test_files_of_ended_jobs(tmp_path: Path, state: str | None, days: float, garbage: bool) -> None:
    workspace = init_workspace(tmp_path / "workspace")
    folder = workspace.jobs_dir / "jobs-1"
    folder.mkdir(parents=True)
    (workspace.jobs_dir / ".slurm").mkdir()
    (folder / "0.exit").write_text("{}")
    os.utime(folder / "0.exit", (time.time() - days * DAY,) * 2)
    with open_store(workspace) as store:
        if state is not None:
            (record,) = store.add_jobs([JobDraft("jobs-1", 0, "slurm", "predict", "ichx predict 1 x", "log")])
            store.update_jobs({record.id: JobChange(state)})  # type: ignore[arg-type]
        project = Project(workspace, store)
        found = find_garbage(project)
        assert [(g.kind, g.path) for g in found] == [("old job files", folder)] * garbage
        for one in found:
            delete(project, one)
    assert folder.exists() is not garbage
