"""`ichx exp external`: register the predictions of another tool."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json, warn
from ichx.cli.parameters import AsJson
from ichx.cli.session import session


def external(
    name: Annotated[str, typer.Argument(help="Name of the experiment.", show_default=False)],
    oof: Annotated[Path, typer.Option("--oof", help="Out-of-fold predictions: CSV or Parquet.", show_default=False)],
    tests: Annotated[
        list[str] | None, typer.Option("--test", help="Predictions of a test set: TESTSET=FILE; repeatable.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Labelled dataset; default: the only one.")] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="Folds of the dataset, see `ichx data folds`; default: ichx's own.")
    ] = None,
    as_logits: Annotated[bool, typer.Option("--logits", help="The values are logits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register predictions of another tool as an experiment.

    The experiment is listed, scored and blended with the mark `external`. Files have a column of slices and one per
    label, or `ID,Label` as a submission. A column `fold` is compared with the folds of the dataset.

    Example: `ichx exp external monai --oof oof.csv --test rsna-test=test.csv`

    Example: `ichx exp external baseline --oof oof.parquet --logits`
    """
    from ichx.experiments.external import ExternalRequest, register_external

    files: dict[str, Path] = {}
    for test in tests or ():
        test_set, separator, file = test.partition("=")
        if not separator or not file or test_set in files:
            raise typer.BadParameter(f"Use TESTSET=FILE once per test set, not {test!r}.", param_hint="--test")
        files[test_set] = Path(file)
    with session(writes=True) as project:
        registered = register_external(project, ExternalRequest(name, oof, files, dataset, folds, as_logits))
        experiment = registered.experiment
    if as_json:
        print_json({"experiment": experiment, "notes": registered.notes})
    else:
        done = f"{experiment.folds_done} of {experiment.folds} folds, score {experiment.score:.5f}"
        where = f"{experiment.dataset} v{experiment.dataset_version}"
        console.print(f"experiment {experiment.number}: {experiment.name} on {where}, {done}", markup=False)
    for note in registered.notes:
        warn(note)
    if experiment.leaked:
        warn(f"The folds {experiment.fold_set} split patients. All scores will be marked `leaky folds`.")
    info(f"Next: `ichx scores {experiment.number}`")
