"""`ichx recalibrate`: probabilities fitted to a small local sample, judged out of sample."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ichx.cli.output import console, info, print_json, warn
from ichx.cli.parameters import (
    AsJson,
    Average,
    Device,
    EnsembleNumber,
    FoldTexts,
    OptionalNumber,
    OwnTta,
    Precision,
    Workers,
    fold_numbers,
    label_option,
    parse_subject,
)
from ichx.cli.session import session
from ichx.cli.tables import format_bounds, print_table
from ichx.formatting import format_value
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.evaluation.recalibration_file import Recalibration
    from ichx.evaluation.subject import Subject


def recalibrate(
    number: OptionalNumber = None,
    ensemble: EnsembleNumber = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Labelled local sample to fit; without it, list what is stored.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name to store it under; default: the dataset's.")] = None,
    labels: Annotated[list[str] | None, label_option("Recalibrate only this label; repeatable.")] = None,
    method: Annotated[
        Literal["auto", "intercept", "slope"],
        typer.Option("--method", help="intercept, slope (and intercept), or auto, by patients."),
    ] = "auto",
    per: Annotated[
        Literal["slice", "study"] | None,
        typer.Option("--per", help="What is fitted: slice or study; default: by the sample's labels."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the recalibration --name.")] = False,
    tta: OwnTta = None,
    average: Average = None,
    folds: FoldTexts = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Fit probabilities to a small local sample.

    The fit is judged on patients of the sample that it has not seen. `ichx predict` and `ichx evaluate` apply it with
    --recalibrated NAME, without refitting. It changes no ranking and no call of a stored threshold.

    Example: `ichx recalibrate 6 --dataset ours`
    """
    selected = fold_numbers(folds)
    subject = parse_subject(number, ensemble, tta=tta, average=average, fold=folds)
    if remove and (name is None or dataset is not None):
        raise typer.BadParameter("--remove requires --name, and no --dataset.")
    with session() as project:
        subject.require(project)
        if dataset is not None:
            project.store.dataset(dataset)
        from ichx.evaluation.recalibration_file import is_current, remove_recalibration, stored_recalibrations

        if remove:
            removed = remove_recalibration(project, subject, name or "")
            if as_json:
                print_json(removed)
            else:
                console.print(f"removed {describe(removed)}", markup=False)
            return
        if dataset is None:
            stored = [one for one in stored_recalibrations(project, subject) if name in (None, one.name)]
            current = [is_current(project, subject, one) for one in stored]
            _list(subject, stored, current, as_json=as_json)
            return
        from ichx.cli.live import LiveView
        from ichx.inference.ready_model import ready_model
        from ichx.inference.recalibrate import RecalibrationRequest
        from ichx.inference.recalibrate import recalibrate as fit
        from ichx.inference.trained import InferenceOptions

        with LiveView() as view:
            options = InferenceOptions(tta or "none", selected, device, workers, precision, average or "logit")
            model = ready_model(project, subject, options, view.note)
            made, replaced = fit(project, model, RecalibrationRequest(dataset, name, labels, method, per), view)
    if as_json:
        print_json({"fitted": made, "replaced": replaced})
        return
    print_recalibration(f"{subject}: recalibration {made.name}", made)
    if replaced is not None:
        info(f"Replaces {describe(replaced)}.")


def _list(subject: "Subject", stored: "list[Recalibration]", current: list[bool], *, as_json: bool) -> None:
    if as_json:
        print_json([{**asdict(one), "current": same} for one, same in zip(stored, current, strict=True)])
        return
    if not stored:
        info(f"No recalibration of {subject} is stored. Fit one: `ichx recalibrate {subject.argument} --dataset NAME`.")
    for one, same in zip(stored, current, strict=True):
        print_recalibration(f"{subject}: recalibration {one.name}", one)
        if not same:
            warn(f"The networks have changed since {describe(one)} was fitted. Fit it again.")


def describe(stored: "Recalibration") -> str:
    """Return e.g. `ours, fitted on 45 patients of ours version 1`."""
    patients = format_count(stored.fitted.patients, "patient")
    return f"{stored.name}, fitted on {patients} of {stored.dataset} version {stored.dataset_version}"


def print_recalibration(title: str, stored: "Recalibration") -> None:
    """Print the map of each label, and what it does to patients that it was not fitted on."""
    fitted = stored.fitted
    rows = []
    for found in fitted.judged:
        for what, loss, line in (
            ("before", found.before, found.line_before),
            ("after", found.after, found.line_after),
        ):
            value = format_value(loss)
            rows.append((f"{found.label}\n{what}", value, format_bounds(line.in_the_large), format_bounds(line.slope)))
        rows.append((f"{found.label}\ndifference", format_bounds(found.difference, 4), "", ""))
    heads = ("label", "log loss", "intercept", "slope")
    units = (
        format_count(fitted.rows, "slice") if fitted.unit == "slice" else format_count(fitted.rows, "study", "studies")
    )
    caption = (
        f"fitted on {units} of {format_count(fitted.patients, 'patient')} of {stored.dataset} "
        f"version {stored.dataset_version}; out of sample: each patient by a line fitted on others; "
        f"tta {stored.tta}, {stored.average} mean; digest {stored.digest}"
    )
    print_table(title, heads, rows, caption=caption, split=True)
    for one in fitted.maps:
        if one.method == "none":
            console.print(f"{one.label} stays as it is: {one.why}", style="dim", markup=False)
        else:
            console.print(f"{one.label}: logit p' = {one.intercept:.4f} + {one.slope:.4f} logit p", markup=False)
