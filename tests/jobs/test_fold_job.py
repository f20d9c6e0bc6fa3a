"""The command of a fold, and what is read from its log."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ichx.jobs import JobResult
from ichx.jobs.fold_job import TAIL_BYTES, failure, fold_job, last_line, log_size
from ichx.training.run_options import RunOptions
from ichx.workspace import init_workspace


def test_every_option_reaches_the_command(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "workspace")
    plain = fold_job(workspace, 6, 2, RunOptions(), tmp_path / "log")
    assert plain.argv == (sys.executable, "-m", "ichx", "run", "6", "--fold", "2", "--device", "auto")
    assert plain.environment == {"ICHX_WORKSPACE": str(workspace.root)}
    changed = {
        "device": "cuda:1",
        "pretrained": False,
        "weights": tmp_path / "w.pth",
        "workers": 3,
        "save_features": True,
    }
    for option in fields(RunOptions):
        value = changed.get(option.name, 5)
        job = fold_job(workspace, 6, 2, RunOptions(**{option.name: value}), tmp_path / "log", {"A": "b"})
        assert job.argv != plain.argv, f"{option.name} is not passed on"
        assert job.environment["A"] == "b"


@pytest.mark.parametrize(
    ("log", "last", "reason"),
    [
        (None, "", "it said nothing"),
        ("", "", "it said nothing"),
        ("a line\n  another\n\n", "another", "another"),
        ("whole\nhalf", "whole", "whole"),
        ("error: no space\n       free some\n", "free some", "no space"),
        ("x" * TAIL_BYTES + "\nlast\n", "last", "last"),
    ],
)
def test_a_log_is_read_from_where_the_job_began(tmp_path: Path, log: str | None, last: str, reason: str) -> None:
    path = tmp_path / "log"
    job = fold_job(init_workspace(tmp_path / "workspace"), 1, 0, RunOptions(), path)
    assert log_size(job) == 0
    path.write_text("error: of an earlier attempt\n")
    start = log_size(job)
    if log is None:
        path.unlink()
    else:
        with path.open("a") as file:
            file.write(log)
    assert last_line(path, start) == last
    assert failure(JobResult(1, 2.0), path, start) == f"exit code 1: {reason}"
    assert failure(JobResult(-9, 2.0), path, start) == f"signal 9: {reason}"
