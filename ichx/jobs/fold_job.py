"""The job that runs one fold of an experiment."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ichx.jobs.engine import Job
from ichx.jobs.resources import Shares
from ichx.training.run_options import RunOptions
from ichx.workspace import ENGINE_VARIABLE

if TYPE_CHECKING:
    from ichx.workspace import Workspace


def fold_job(
    workspace: "Workspace", experiment: int, fold: int, options: RunOptions, device: str, shares: Shares
) -> Job:
    """Return the job that runs or resumes one fold.

    Args:
        workspace: Workspace of the experiment.
        experiment: Number of the experiment.
        fold: Fold, from 0.
        options: Options of the run.
        device: Replaces the device of `options`.
        shares: Share of the machine; its loader processes apply if `options` has none.
    """
    workers = shares.workers if options.workers is None else options.workers
    arguments = replace(options, device=device, workers=workers).arguments
    return Job(
        argv=(sys.executable, "-m", "ichx", "run", str(experiment), "--fold", str(fold), *arguments),
        log=workspace.experiment_files(experiment).fold(fold).log,
        name=f"experiment {experiment}, fold {fold}",
        environment={"ICHX_WORKSPACE": str(workspace.root), ENGINE_VARIABLE: "local", **shares.environment},
        experiment=experiment,
        fold=fold,
    )
