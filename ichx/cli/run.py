"""`ichx run`: execute an experiment."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.plugin import loaded_registry
from ichx.cli.render import cell, console, interval, print_json, say, session


def run(
    number: Annotated[int, typer.Argument(help="The experiment's number.")],
    folds: Annotated[list[int] | None, typer.Option("--fold", help="Only this fold, from 0; repeatable.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--no-pretrained", help="Start from the hub's weights, or from random ones."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Start from this .safetensors or .pth file.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Loader processes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Train and predict an experiment's folds; asked again, it goes on where it ended.

    Example: `ichx run 6 --fold 0`
    """
    registry = loaded_registry()
    with session() as (workspace, store):
        store.experiment(number)  # an unknown number is told before torch is imported, which takes seconds
        from ichx.cli.live import LiveView
        from ichx.training.fold import RunOptions
        from ichx.training.runner import run_experiment

        options = RunOptions(device=device, pretrained=pretrained, weights=weights, workers=workers)
        try:
            with LiveView() as view:
                report = run_experiment(
                    workspace, store, registry, number, folds=folds or None, options=options, events=view
                )
        except KeyboardInterrupt:
            say(f"stopped; finished epochs are kept, `ichx run {number}` goes on from there", style="yellow")
            raise
    if as_json:
        print_json(report)
        return
    if report.already_done:
        done = ", ".join(map(str, report.already_done))
        say(f"fold {done} of experiment {number} had been done before")
    if report.score is not None:
        spread = f" ± {cell(report.spread)} over folds" if report.spread is not None else ""
        bounds = interval(report.score_low, report.score_high)
        told = f", 95 % interval over patients {bounds}" if bounds else ""
        said = f" [{', '.join(report.marks)}]" if report.marks else ""
        console.print(
            f"experiment {number}: OOF score {report.score:.5f}{spread}{told}, "
            f"with hflip {cell(report.score_tta)}{said}",
            markup=False,
        )
