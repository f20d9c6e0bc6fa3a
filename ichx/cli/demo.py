"""`ichx demo`: the complete workflow on a synthetic dataset."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.formatting import format_duration
from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson
from ichx.cli.plugin import load_plugins
from ichx.cli.tables import print_table


def demo(
    folder: Annotated[Path, typer.Argument(help="New folder, which becomes a workspace.")] = Path("ichx-demo"),
    as_json: AsJson = False,
) -> None:
    """Run the complete workflow on synthetic data.

    Writes synthetic studies, trains four small models, blends them and scores the blend on unseen patients. Takes
    minutes on a CPU. An interrupted demo resumes when rerun.

    Example: `ichx demo`
    """
    info("The demo takes about five minutes on a CPU. Ctrl-C stops it; rerun it to resume.")
    from ichx.cli.ensemble_show import print_ensemble
    from ichx.cli.live import LiveView
    from ichx.experiments.demo import run_demo

    registry = load_plugins()
    try:
        with LiveView() as view:
            report = run_demo(folder, registry, view, announce=lambda step: info(f"demo: {step}", style="bold"))
    except KeyboardInterrupt:
        info(f"Stopped; finished work is saved. Resume with `ichx demo {folder}`.", style="yellow")
        raise
    if as_json:
        print_json(report)
        return
    print_ensemble(report.ensemble)
    rows = [
        ("constant prevalence", report.constant_score),
        ("brightness threshold", report.brightness_score),
        ("blend of the four models", report.blend_score),
    ]
    print_table(f"scores on {report.test_slices:,} slices of unseen patients", ("prediction", "score"), rows)
    console.print(f"The blend scores {report.below:.0%} below the better baseline.")
    console.print(f"time: {format_duration(report.seconds)}")
    console.print(f"workspace: {report.workspace}", markup=False)
    console.print(f"submission: {Path(report.workspace) / report.submission}", markup=False)
    console.print("Next:")
    # The README starts the demo by its path, from an environment that is not activated.
    program = "ichx" if shutil.which("ichx") else shlex.quote(str(Path(sys.argv[0]).absolute()))
    for command in (f"cd {shlex.quote(report.workspace)}", f"{program} exp list", f"{program} report 1"):
        console.print(f"  {command}", markup=False)
