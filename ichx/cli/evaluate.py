"""`ichx evaluate`: an experiment's scores on another labelled dataset."""

from typing import Annotated

import typer

from ichx.cli.output import print_json
from ichx.cli.parameters import AsJson, Device, FoldTexts, Number, Pooling, Precision, Tta, Workers, fold_numbers
from ichx.cli.scores import print_scores
from ichx.cli.session import session


def evaluate(
    number: Number,
    dataset: Annotated[str, typer.Option("--dataset", help="Labelled dataset to score.")],
    tta: Tta = "none",
    pooling: Pooling = "max",
    folds: FoldTexts = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Score an experiment on another labelled dataset.

    Averages probabilities over views, then over the finished folds, and saves the predictions. Refuses datasets that
    share patients or slices with the experiment's own.

    Example: `ichx evaluate 6 --dataset cq500 --tta hflip`
    """
    selected = fold_numbers(folds)
    with session() as project:
        project.store.experiment(number)  # report unknown names before torch is imported
        project.store.dataset(dataset)
        from ichx.cli.live import LiveView
        from ichx.inference.evaluate import evaluate_dataset
        from ichx.inference.trained import InferenceOptions

        with LiveView() as view:
            found = evaluate_dataset(
                project,
                number,
                dataset,
                InferenceOptions(tta, selected, device, workers, precision),
                callbacks=view,
                pooling=pooling,
            )
    if as_json:
        print_json(found)
        return
    title = f"experiment {number}: {found.name}, on {dataset} version {found.dataset_version}, tta {tta}"
    print_scores(title, found, pooling)
