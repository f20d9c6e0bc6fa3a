"""`ichx data mix`: a dataset of several datasets. It is described in `docs/external-data.md`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.data_views import print_added
from ichx.cli.output import info, print_json, warn
from ichx.cli.parameters import AsJson
from ichx.cli.session import session

if TYPE_CHECKING:
    from ichx.datasets.mix_request import PartRequest


def mix(
    name: Annotated[str, typer.Argument(help="Name of the mixture.")],
    of: Annotated[
        list[str],
        typer.Option(
            "--of",
            metavar="NAME[@VERSION][=WEIGHT]",
            show_default=False,
            help="Labelled dataset; with a weight, epochs sample fewer slices of the others. Repeatable.",
        ),
    ],
    train_only: Annotated[
        list[str] | None,
        typer.Option(
            "--train-only", help="Dataset whose slices train in every fold and are scored in none; like --of."
        ),
    ] = None,
    separate: Annotated[
        list[str] | None,
        typer.Option(
            "--separate-patients", help="Part whose PatientIDs are numbers of its own, not people of other parts."
        ),
    ] = None,
    folds: Annotated[
        str | None, typer.Option("--folds", help="Name of the folds of each part; default: ichx's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Mix labelled datasets into one without copying slices.

    Slices keep their folds, so that scores per part are comparable with those of trainings on that part alone. A
    patient in two parts is an error. `ichx exp new --dataset` with two names mixes equal parts by itself.

    Example: `ichx data mix both --of rsna --of ours`

    Example: `ichx data mix more --of rsna --of ours=0.5 --train-only bhsd`
    """
    from ichx.datasets.mix import mix_datasets
    from ichx.datasets.mix_request import MixRequest

    parts = [_part(text, train_only=False, separate=separate or []) for text in of]
    parts += [_part(text, train_only=True, separate=separate or []) for text in train_only or ()]
    if unknown := sorted(set(separate or ()) - {part.dataset for part in parts}):
        raise typer.BadParameter(f"Not a part: {', '.join(unknown)}.", param_hint="--separate-patients")
    with session(writes=True) as project:
        added = mix_datasets(project, MixRequest(name, tuple(parts), folds))
    if as_json:
        print_json(added)
    else:
        print_added(added)


def mix_parts(dataset: str, *, as_json: bool) -> None:
    """Create the mixture `dataset` if its name is e.g. `rsna+ours`, and print what is new."""
    if "+" not in dataset:
        return
    from ichx.datasets.mix import ensure_joint

    with session(writes=True) as project:
        added = ensure_joint(project, dataset)
    if added is None or not added.created or as_json:
        return
    for message in added.messages:
        info(message)
    for warning in added.warnings:
        warn(warning)
    info(f"mixed {dataset} version {added.version.number}: {added.version.slices:,} slices")


def _part(text: str, *, train_only: bool, separate: list[str]) -> "PartRequest":
    """Return the part that e.g. `ours@2=0.5` names."""
    from ichx.datasets.mix_request import PartRequest

    named, equals, weight = text.partition("=")
    name, at, number = named.partition("@")
    try:
        parsed = float(weight) if equals else 1.0
        version = int(number) if at else None
    except ValueError:
        option = "--train-only" if train_only else "--of"
        problem = f"Use NAME, NAME=WEIGHT or NAME@VERSION=WEIGHT, not {text!r}."
        raise typer.BadParameter(problem, param_hint=option) from None
    return PartRequest(name, version, parsed, train_only, name in separate)
