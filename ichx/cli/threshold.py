"""`ichx threshold`: thresholds chosen on OOF predictions, stored and applied unchanged to other data."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ichx.cli.comparison_tables import print_decision_curves
from ichx.cli.output import console, info, print_json, warn
from ichx.cli.parameters import (
    AsJson,
    Average,
    DecisionCurves,
    EnsembleNumber,
    OptionalNumber,
    OwnTta,
    Pooling,
    label_option,
    parse_subject,
)
from ichx.cli.session import session
from ichx.cli.tables import format_bounds, print_table
from ichx.labels import ANY

if TYPE_CHECKING:
    from ichx.evaluation.call_scores import CallScores
    from ichx.evaluation.operating_points import AppliedThreshold
    from ichx.evaluation.subgroup_scores import Unit
    from ichx.evaluation.threshold_choice import Rule, ThresholdRequest
    from ichx.evaluation.threshold_file import ChosenThreshold

OPTIMISTIC = "scores on the rows that chose the thresholds: expect lower ones elsewhere"
HEADS = ("sensitivity", "specificity", "PPV", "NPV", "alarms %")


def threshold(
    number: OptionalNumber = None,
    ensemble: EnsembleNumber = None,
    label: Annotated[str, label_option("Label to call.")] = ANY,
    sensitivity: Annotated[float | None, typer.Option("--sensitivity", help="Least sensitivity, e.g. 0.95.")] = None,
    specificity: Annotated[float | None, typer.Option("--specificity", help="Least specificity, e.g. 0.9.")] = None,
    cost: Annotated[
        float | None, typer.Option("--cost", help="Cost of a missed positive in false alarms; the least sum is chosen.")
    ] = None,
    per: Annotated[Literal["study", "slice"], typer.Option("--per", help="What is called: study or slice.")] = "study",
    tta: OwnTta = None,
    average: Average = None,
    pooling: Pooling = "max",
    prevalence: Annotated[
        float | None, typer.Option("--prevalence", help="PPV, NPV and alarms for this share of positives.")
    ] = None,
    decision_curve: DecisionCurves = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the threshold of --label and --per.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose a threshold on OOF predictions, or list thresholds.

    `ichx evaluate` and `ichx predict` apply stored thresholds unchanged. A label has one per study and one per slice:
    choosing again replaces it.

    Example: `ichx threshold 6 --label any --sensitivity 0.95`

    Example: `ichx threshold 6 --prevalence 0.12`
    """
    subject = parse_subject(number, ensemble)
    unit: Unit = per
    given: tuple[tuple[Rule, float | None], ...] = (
        ("sensitivity", sensitivity),
        ("specificity", specificity),
        ("cost", cost),
    )
    rules = {name: value for name, value in given if value is not None}
    if len(rules) + remove + decision_curve > 1:
        raise typer.BadParameter("Use one of --sensitivity, --specificity, --cost, --decision-curve and --remove.")
    if prevalence is not None and (rules or remove or not 0 < prevalence < 1):
        raise typer.BadParameter("Use a share, e.g. 0.1, without a rule.", param_hint="--prevalence")
    with session() as project:
        own_tta, own_average, in_sample = None, None, False
        if ensemble is not None:
            blended = project.store.ensemble(ensemble)
            own_tta, own_average = blended.tta, blended.average
            in_sample = blended.nested_score is None
            if tta not in (None, own_tta):
                raise typer.BadParameter(f"Ensemble {ensemble} has tta {own_tta}.", param_hint="--tta")
            if average not in (None, own_average):
                raise typer.BadParameter(f"Ensemble {ensemble} averages the {own_average}.", param_hint="--average")
        else:
            subject.require(project)
        from ichx.evaluation.choices import check_average, check_tta
        from ichx.evaluation.operating_points import choose_threshold
        from ichx.evaluation.threshold_choice import ThresholdRequest
        from ichx.evaluation.threshold_file import current_thresholds, remove_threshold, stored_thresholds

        views = check_tta(own_tta or tta or "none")
        mean = check_average(own_average or average or "logit")
        if remove:
            removed = remove_threshold(project, subject, label, unit, views)
            if as_json:
                print_json(removed)
            else:
                console.print(f"removed {describe(removed)}", markup=False)
            return
        if rules:
            ((rule, value),) = rules.items()
            request = ThresholdRequest(label, rule, value, unit, views, mean, pooling)
            chosen, replaced = choose_threshold(project, subject, request)
            if in_sample:
                warn(
                    f"The predictions of {subject} are in-sample, as it has one fold: the threshold is too optimistic."
                )
            if as_json:
                print_json({"chosen": chosen, "replaced": replaced})
                return
            print_thresholds(f"{subject}: chosen on its OOF predictions", [chosen])
            if replaced is not None:
                info(f"Replaces {describe(replaced)}.")
            return
        if decision_curve:
            from ichx.evaluation.decision_curve import decision_curves
            from ichx.evaluation.subject_predictions import subject_predictions

            predicted = subject_predictions(project, subject, views, mean)
            curves = {unit: decision_curves(predicted, [label], unit, pooling=pooling, prevalence=prevalence)}
            if as_json:
                print_json(curves)
            else:
                print_decision_curves(curves, given=prevalence)
            return
        stored = stored_thresholds(project, subject)
        if prevalence is not None:
            from ichx.evaluation.operating_points import thresholds_at

            applied = thresholds_at(project, subject, stored, prevalence)
            if as_json:
                print_json(applied)
            else:
                print_calls(f"{subject}: stored thresholds on its OOF predictions", applied, prevalence, OPTIMISTIC)
            return
        current = current_thresholds(project, subject, stored)
    if as_json:
        print_json([{**asdict(one), "current": same} for one, same in zip(stored, current, strict=True)])
        return
    if not stored:
        info(f"No threshold is stored. Choose one: `ichx threshold {subject.argument} --label any --sensitivity 0.95`.")
        return
    print_thresholds(f"{subject}: thresholds, with scores on its OOF predictions", stored)
    for one, same in zip(stored, current, strict=True):
        if not same:
            warn(f"The OOF predictions have changed since {describe(one)} was chosen. Choose it again.")


def describe(chosen: "ChosenThreshold") -> str:
    """Return e.g. `any per study >= 0.3127 (sensitivity >= 0.95)`."""
    request = chosen.request
    return f"{request.label} per {request.unit} >= {chosen.threshold:.4f} ({describe_rule(request)})"


def describe_rule(request: "ThresholdRequest") -> str:
    """Return e.g. `sensitivity >= 0.95` or `cost 10`."""
    if request.rule == "cost":
        return f"cost {request.value:g}"
    return f"{request.rule} >= {request.value:g}"


def print_thresholds(title: str, stored: Sequence["ChosenThreshold"]) -> None:
    """Print thresholds with their rule, interval and scores on OOF predictions."""
    from ichx.evaluation.bootstrap import Interval

    rows = [
        (
            f"{one.request.label}, {one.request.unit}",
            describe_rule(one.request),
            format_bounds(Interval(one.threshold, one.low, one.high, None), 4, joint="-"),
            *call_cells(one.calls),
        )
        for one in stored
    ]
    print_table(title, ("label", "rule", "threshold", *HEADS), rows, split=True, caption=_caption(stored))


def print_calls(title: str, found: Sequence["AppliedThreshold"], prevalence: float | None, note: str = "") -> None:
    """Print what stored thresholds do on some data; `note` is added below."""
    rows = [
        (
            f"{one.chosen.request.label}, {one.chosen.request.unit}",
            describe_rule(one.chosen.request),
            f"{one.chosen.threshold:.4f}",
            *call_cells(one.calls),
        )
        for one in found
    ]
    at = [] if prevalence is None else [f"PPV, NPV and alarms at a prevalence of {prevalence:g}"]
    caption = "; ".join([*at, *([note] if note else [])])
    print_table(title, ("label", "rule on OOF", "threshold", *HEADS), rows, split=True, caption=caption)


def call_cells(calls: "CallScores") -> tuple[str, ...]:
    """Return the cells of `HEADS`."""
    *rates, alarms = calls.rates
    return (*(format_bounds(one, joint="-") for one in rates), format_bounds(alarms, 1, joint="-"))


def _caption(stored: Sequence["ChosenThreshold"]) -> str:
    kinds = dict.fromkeys(f"tta {one.request.tta}, {one.request.average} mean" for one in stored)
    return f"{'; '.join(kinds)}; {OPTIMISTIC}"
