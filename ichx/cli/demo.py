"""`ichx demo`: the whole job on a synthetic dataset."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.formatting import format_duration
from ichx.cli.output import console, info, print_json
from ichx.cli.plugin import loaded_registry
from ichx.cli.tables import print_table


def demo(
    folder: Annotated[Path, typer.Argument(help="A new folder, which becomes a workspace.")] = Path("ichx-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Make a phantom dataset, train four small models on it, blend them, and judge the blend on unseen patients.

    Takes minutes on a CPU; interrupted, it goes on when it is called again.

    Example: `ichx demo`
    """
    from ichx.cli.ensemble import show_ensemble
    from ichx.cli.live import LiveView
    from ichx.experiments.demo import run_demo

    registry = loaded_registry()
    try:
        with LiveView() as view:
            report = run_demo(folder, registry, view)
    except KeyboardInterrupt:
        info(f"stopped; `ichx demo {folder}` goes on, with what is finished kept", style="yellow")
        raise
    if as_json:
        print_json(report)
        return
    show_ensemble(report.ensemble)
    rows = [
        ("constant prevalence", report.constant_score),
        ("brightness threshold", report.brightness_score),
        ("blend of the four", report.blend_score),
    ]
    print_table(f"on {report.test_slices:,} slices of patients that no model saw", ("prediction", "score"), rows)
    console.print(
        f"the blend is {report.below:.0%} below the better baseline; {format_duration(report.seconds)} in this call"
    )
    console.print(f"workspace: {report.workspace}", markup=False)
    console.print(f"submission: {Path(report.workspace) / report.submission}", markup=False)
    console.print(f"look around: `cd {report.workspace}`, then `ichx exp list`, `ichx exp show 1`", markup=False)
