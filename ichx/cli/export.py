"""`ichx export`: an experiment's networks as files for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson, FoldTexts, Number, fold_numbers
from ichx.cli.session import session


def export(
    number: Number,
    format: Annotated[
        Literal["onnx", "torch-export", "safetensors"], typer.Option("--format", help="Format of the files.")
    ] = "onnx",
    folds: FoldTexts = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Output file, one per fold; default: in the experiment's folder.")
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Output the pooled features, too, e.g. for a sequence experiment.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Export the networks of an experiment's finished folds.

    ONNX and torch-export files take HU and header windows and return logits and probabilities. Those of a sequence
    experiment take what its members predict for a series. Safetensors files hold weights and recipe for `ichx run
    --weights`. Each file's probabilities are compared with the original network's.

    Example: `ichx export 6 --format onnx --fold 0 --out bleed.onnx`
    """
    selected = fold_numbers(folds)
    with session() as project:
        project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.cli.live import LiveView
        from ichx.inference.export import ExportRequest, export_experiment

        request = ExportRequest(format, selected, out, features)
        with LiveView() as view:
            written = export_experiment(project, number, request, callbacks=view)
    for file in written:
        info(
            f"fold {file.fold}: probabilities differ from the original network's by at most {file.difference:.1e} "
            f"on {file.compared} {file.unit}"
        )
    if as_json:
        print_json(written)
        return
    for file in written:
        console.print(str(file.path), markup=False)
