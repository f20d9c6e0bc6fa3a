"""The job of a fold, and its log."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ichx.jobs import JobResult
from ichx.jobs.fold_job import fold_job
from ichx.jobs.job_log import TAIL_BYTES, JobLog
from ichx.jobs.resources import Shares
from ichx.training.run_options import RunOptions
from ichx.workspace import init_workspace


def test_the_command_has_every_option(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "workspace")
    plain = fold_job(workspace, 6, 2, RunOptions(), "auto", Shares(("auto",)))
    assert plain.argv == (sys.executable, "-m", "ichx", "run", "6", "--fold", "2", "--device", "auto")
    assert plain.environment == {"ICHX_WORKSPACE": str(workspace.root), "ICHX_ENGINE": "local"}
    assert (plain.kind, plain.experiment, plain.fold) == ("fold", 6, 2)
    assert plain.log == workspace.root / "experiments/6/fold-2/run.log"
    changed = {"pretrained": False, "weights": tmp_path / "w.pth", "workers": 3, "save_features": True}
    for option in fields(RunOptions):
        if option.name == "device":
            continue
        options = RunOptions(**{option.name: changed.get(option.name, 5)})
        assert fold_job(workspace, 6, 2, options, "auto", Shares(("auto",))).argv != plain.argv, option.name


@pytest.mark.parametrize(("workers", "expected"), [(None, "8"), (3, "3"), (0, "0")])
def test_a_job_gets_its_share(tmp_path: Path, workers: int | None, expected: str) -> None:
    workspace = init_workspace(tmp_path / "workspace")
    shares = Shares(("cuda:0", "cuda:1"), {"OMP_NUM_THREADS": "4"}, workers=8)
    job = fold_job(workspace, 6, 2, RunOptions(device="cuda", workers=workers), "cuda:1", shares)
    assert job.argv[-4:] == ("--device", "cuda:1", "--workers", expected)
    assert job.environment["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    ("content", "last", "reason"),
    [
        (None, "", "no output"),
        ("", "", "no output"),
        ("a line\n  another\n\n", "another", "another"),
        ("complete\nhalf", "complete", "complete"),
        ("error: No space.\n       Free some.\n", "Free some.", "No space"),
        ("x" * TAIL_BYTES + "\nlast\n", "last", "last"),
    ],
)
def test_a_log_is_read_from_where_the_job_started(tmp_path: Path, content: str | None, last: str, reason: str) -> None:
    path = tmp_path / "log"
    assert JobLog.at_end(path).start == 0
    path.write_text("error: of an earlier run\n")
    log = JobLog.at_end(path)
    if content is None:
        path.unlink()
    else:
        with path.open("a") as file:
            file.write(content)
    assert log.last_line() == last
    assert log.failure(JobResult(1, 2.0)) == f"exit code 1: {reason}"
    assert log.failure(JobResult(-9, 2.0)) == f"signal 9: {reason}"
