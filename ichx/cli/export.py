"""`ichx export`: an experiment's networks as files for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson, FoldTexts, Number, fold_numbers
from ichx.cli.session import session


def export(
    number: Number,
    format: Annotated[str, typer.Option("--format", help="onnx, torch-export or safetensors.")] = "onnx",
    folds: FoldTexts = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write; default: in the experiment's folder. A fold each if several."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the networks of an experiment's finished folds, a file each, compared with the original.

    onnx and torch-export take HU and header windows, and give logits and probabilities; safetensors has the weights
    with their recipe, for `ichx run --weights`.

    Example: `ichx export 6 --format onnx --fold 0 --out bleed.onnx`
    """
    wanted = fold_numbers(folds)
    with session() as project:
        project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.cli.live import LiveView
        from ichx.inference.export import export_experiment

        with LiveView() as view:
            written = export_experiment(project, number, format=format, events=view, folds=wanted, out=out)
    for file in written:
        info(
            f"fold {file.fold}: probabilities differ from the original's by at most {file.difference:.1e} "
            f"on {file.compared} slices"
        )
    if as_json:
        print_json(written)
        return
    for file in written:
        console.print(str(file.path), markup=False)
