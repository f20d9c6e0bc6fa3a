"""`ichx run`: execute experiments."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.numbers import Numbers
from ichx.cli.options import Save, saves_features
from ichx.cli.plugin import loaded_registry
from ichx.cli.render import print_json, print_score, say, session


def run(
    numbers: Numbers,
    folds: Annotated[list[int] | None, typer.Option("--fold", help="Only this fold, from 0; repeatable.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Folds that run side by side.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--no-pretrained", help="Start from the hub's weights, or from random ones."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Start from what fits in this .safetensors or .pth file.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Loader processes.")] = None,
    save: Save = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Train and predict experiments' folds; asked again, it goes on where it ended.

    Several experiments, or folds side by side, run in processes of their own, each with a log; what fails does not stop
    the others. GPUs, or the CPU's cores, are divided among them.

    Example: `ichx run 6 --fold 0`

    Example: `ichx run 6 7 8 --jobs 2`
    """
    with_features = saves_features(save)
    registry = loaded_registry()
    with session() as (workspace, store):
        for number in numbers:
            store.experiment(number)  # an unknown number is told before torch is imported, which takes seconds
        from ichx.training.options import RunOptions

        options = RunOptions(
            device=device, pretrained=pretrained, weights=weights, workers=workers, save_features=with_features
        )
        if jobs > 1 or len(numbers) > 1:
            from ichx.cli.launch import launch_folds

            launch_folds(workspace, store, numbers, jobs, folds=folds or None, options=options, as_json=as_json)
            return
        (number,) = numbers
        from ichx.cli.live import LiveView
        from ichx.training.runner import run_experiment

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
    print_score(number, report)
