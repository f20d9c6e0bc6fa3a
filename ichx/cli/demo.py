"""`ichx demo`: the complete workflow on a synthetic dataset."""

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson
from ichx.cli.plugin import load_plugins
from ichx.cli.tables import print_table
from ichx.formatting import format_duration
from ichx.text import format_command

if TYPE_CHECKING:
    from ichx.experiments.demo import DemoReport
    from ichx.project import Project

MAX_JOBS: Final = 4
"""Folds that train at the same time, at most: each has a process of about 1 GB."""


def demo(
    folder: Annotated[Path, typer.Argument(help="New folder, which becomes a workspace.")] = Path("ichx-demo"),
    as_json: AsJson = False,
) -> None:
    """Run the complete workflow on synthetic data.

    Writes synthetic studies, trains four small models and a sequence model on their logits, blends them and scores each
    step on unseen patients. Takes minutes on a CPU. An interrupted demo resumes when rerun.

    Example: `ichx demo`
    """
    info("The demo takes about five minutes on a CPU. Ctrl-C stops it; rerun it to resume.")
    from ichx.cli.ensemble_show import print_ensemble

    try:
        report = _run(folder)
    except KeyboardInterrupt:
        info(f"Stopped; finished work is saved. Resume with {format_command('ichx demo', folder)}.", style="yellow")
        raise
    if as_json:
        print_json(report)
        return
    print_ensemble(report.ensemble)
    rows = [
        ("constant prevalence", report.constant_score),
        ("brightness threshold", report.brightness_score),
        ("best single model", report.single_score),
        ("mean of the four models", report.mean_score),
        ("blend of the four models", report.models_score),
        ("sequence model on their logits", report.sequence_score),
        ("blend of all five", report.blend_score),
    ]
    print_table(f"scores on {report.test_slices:,} slices of unseen patients", ("prediction", "score"), rows)
    console.print(f"The blend scores {100 * report.below:.0f} % below the better baseline.")
    console.print(f"time: {format_duration(report.seconds)}")
    console.print(f"workspace: {report.workspace}", markup=False)
    console.print(f"submission: {Path(report.workspace) / report.submission}", markup=False)
    console.print("Next:")
    # The README starts the demo by its path, from an environment that is not activated.
    program = "ichx" if shutil.which("ichx") else shlex.quote(str(Path(sys.argv[0]).absolute()))
    for command in (
        f"cd {shlex.quote(report.workspace)}",
        *(f"{program} {one}" for one in ("exp list", "report 1", "ui")),
    ):
        console.print(f"  {command}", markup=False)


def _run(folder: Path) -> "DemoReport":
    """Run the demo; folds train side by side, each on its share of the cores."""
    from ichx.cli.live import LiveView
    from ichx.experiments.demo import finish_demo, prepare_demo, register_sequence
    from ichx.project import Project
    from ichx.store import open_store

    def announce(step: str) -> None:
        info(f"demo: {step}", style="bold")

    began = time.monotonic()
    registry = load_plugins()
    with LiveView() as view:
        workspace, numbers = prepare_demo(folder, registry, view, announce)
    with open_store(workspace) as store:
        project = Project(workspace, store, registry)
        announce(f"training {len(numbers)} models")
        _train(project, numbers)
        sequence = register_sequence(project, numbers)
        announce("training a sequence model on their logits")
        _train(project, (sequence,))
        with LiveView() as view:
            return finish_demo(project, numbers, sequence, view, announce, began)


def _train(project: "Project", numbers: tuple[int, ...]) -> None:
    """Run all folds of the experiments `numbers`, several at a time; exit with 1 if a fold fails."""
    from ichx.cli.launch import print_launch, watch_launch
    from ichx.jobs.launch_report import LaunchRequest
    from ichx.worker_pool import core_count

    launched = watch_launch(project, LaunchRequest(numbers, jobs=min(core_count(), MAX_JOBS)))
    if launched.stopped:
        raise KeyboardInterrupt
    if not launched.complete:
        print_launch(launched)
        raise typer.Exit(1)
