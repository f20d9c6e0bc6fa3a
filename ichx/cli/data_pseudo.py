"""`ichx data pseudo`: labels and masks of an unlabelled dataset by an experiment or an ensemble."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichx.cli.output import console, info, print_json, warn
from ichx.cli.parameters import AsJson, Device, OwnTta, Precision, Workers
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.formatting import format_marks, format_value
from ichx.labels import LABELS, PSEUDO, SUBTYPES

if TYPE_CHECKING:
    from ichx.inference.pseudo import PseudoReport


def pseudo(
    name: Annotated[str, typer.Argument(help="Name of the new dataset; a known name gets a new version.")],
    of: Annotated[str, typer.Option("--of", help="Dataset whose slices are labelled, e.g. an unlabelled one.")],
    by: Annotated[str, typer.Option("--by", help="What predicts the labels: ensemble:NUMBER or an experiment.")],
    soft: Annotated[bool, typer.Option("--soft", help="Use the probabilities as labels; the default.")] = False,
    hard: Annotated[bool, typer.Option("--hard", help="Use 1 for probabilities from 0.5, and 0 below.")] = False,
    keep: Annotated[
        str | None, typer.Option("--keep", help="Label only slices that meet this condition, e.g. 'any>=0.95'.")
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Label pixels, too, by the networks that predict masks.")
    ] = False,
    mask_keep: Annotated[
        str | None,
        typer.Option(
            "--mask-keep",
            help="Label pixels that meet this condition, implies --masks; default: from 0.9 and up to 0.05.",
        ),
    ] = None,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="Allow patients of test sets; marks every later score.")
    ] = False,
    tta: OwnTta = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Label an unlabelled dataset by what networks predict.

    The labels that the training of fold k reads come from the networks of fold k alone, so that no fold learns from
    patients that it validates on. Train on them together with the labelled data; they are never scored. Predictions
    are stored: an interrupted command resumes when rerun, and another `--keep` needs no new prediction.

    Example: `ichx data pseudo ours-soft --of ours --by ensemble:3`

    Example: `ichx data pseudo ours-sure --of ours --by 6 --hard --keep 'any>=0.95|any<=0.02'`

    Example: `ichx data pseudo ours-masks --of ours --by 6 --masks --mask-keep 'any>=0.9|any<=0.05'`
    """
    from ichx.evaluation.choices import check_tta

    if soft and hard:
        raise typer.BadParameter("Use either --soft or --hard.")
    if tta is not None and by.startswith("ensemble"):
        raise typer.BadParameter("--tta is for experiments: an ensemble predicts as it was stored.")
    with session(writes=True) as project:
        # report unknown names before torch is imported
        project.store.dataset(of)
        from ichx.evaluation.pseudo_labels import LabelRule
        from ichx.evaluation.pseudo_masks import DEFAULT_RULE, MaskRule
        from ichx.inference.pseudo_request import parse_source

        kind, number = parse_source(by)
        (project.store.ensemble if kind == "ensemble" else project.store.experiment)(number)
        rule = LabelRule.parse(keep, hard=hard)
        mask_rule = MaskRule.parse(mask_keep or DEFAULT_RULE) if masks or mask_keep is not None else None
        from ichx.cli.live import LiveView
        from ichx.inference.pseudo import PseudoRequest, create_pseudo_labels
        from ichx.inference.trained import InferenceOptions

        options = InferenceOptions(check_tta(tta or "none"), None, device, workers, precision)
        with LiveView() as view:
            request = PseudoRequest(name, of, by, rule, transductive, options, mask_rule)
            found = create_pseudo_labels(project, request, callbacks=view)
    if as_json:
        print_json(found)
    else:
        _print_report(found)


def _print_report(found: "PseudoReport") -> None:
    version = found.version
    origin = version.summary[PSEUDO]
    for warning in found.warnings:
        warn(warning)
    result = "added" if found.created else "unchanged:"
    console.print(f"{result} {version.dataset} version {version.number}: {version.slices:,} slices", markup=False)
    _print_counts(origin)
    if version.summary["transductive"]:
        warn("Every score of a training on these labels is marked `transductive`.")
    info(f"Next: `ichx exp new --plugin NAME --dataset {origin['trained_on']['labelled']}+{version.dataset}`")


def print_origin(summary: Mapping[str, Any]) -> None:
    """Print where the pseudo-labels of a version with this `summary` come from, and how many there are."""
    origin = summary[PSEUDO]
    by, of, trained = origin["by"], origin["of"], origin["trained_on"]
    kind = "hard" if origin["hard"] else "soft"
    source = f"{by['kind']} {by['number']}"
    named = source if by["name"] == source else f"{source} ({by['name']})"
    lines = (
        f"{kind} pseudo-labels of {of['dataset']} version {of['version']}, digest {origin['digest']}",
        f"by {named}{format_marks(by['marks'])}, tta {origin['tta']}, SHA-256 {by['digest'][:16]}",
        f"trained on {trained['dataset']} version {trained['version']}, folds {trained['fold_set']}",
        f"kept: {origin['keep'] or 'all slices'}; created {format_value(datetime.fromisoformat(origin['created']))}",
    )
    console.print("\n".join(lines), markup=False)
    if masks := origin.get("masks"):
        numbers = ", ".join(map(str, masks["experiments"]))
        console.print(f"masks by experiment {numbers}; pixels kept: {masks['keep']}", markup=False)
    _print_counts(origin)
    if summary["transductive"]:
        tested = f"Patients of {', '.join(origin['tested'])}, which are only for evaluation. " * bool(origin["tested"])
        warn(f"{tested}Every score of a training on these labels is marked `transductive`.")


def _print_counts(origin: Mapping[str, Any]) -> None:
    """Print how many slices of each fold are labelled, and how many of them are positive."""
    counts = origin["counts"]
    rows: list[tuple[object, ...]] = [("labelled slices", *(count["slices"] for count in counts))]
    rows += [(f"positive for {label}", *(count["positive"][label] for count in counts)) for label in LABELS]
    if masks := origin.get("masks"):
        counts = masks["counts"]
        rows.append(("masks", *(count["slices"] for count in counts)))
        rows += [(f"masks of {name}", *(count["positive"][name] for count in counts)) for name in SUBTYPES]
        rows.append(("ignored pixels in masks", *(f"{100 * count['ignored']:.1f} %" for count in counts)))
    print_table("pseudo-labels", ("", *(f"fold {count['fold']}" for count in counts)), rows, split=True)
