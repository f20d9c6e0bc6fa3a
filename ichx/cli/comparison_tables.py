"""Tables of `ichx evaluate`: decision curves, several readers, and another model on the same slices."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ichx.cli.output import console
from ichx.cli.tables import format_bounds, print_table
from ichx.formatting import format_marks
from ichx.labels import LABELS
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.evaluation.decision_curve import DecisionCurve
    from ichx.evaluation.delong import DeLong
    from ichx.evaluation.paired_scores import PairedScores
    from ichx.evaluation.reader_agreement import ReaderComparison
    from ichx.evaluation.reliability import ReliabilityCurve
    from ichx.evaluation.subgroup_scores import Unit


def print_decision_curves(curves: "Mapping[Unit, Mapping[str, DecisionCurve]]", *, given: float | None) -> None:
    """Print some thresholds of each curve, by unit and label; `given` is the requested prevalence."""
    from ichx.evaluation.decision_curve import SHOWN

    for unit, by_label in curves.items():
        for label, curve in by_label.items():
            rows = [
                (f"{p.threshold:g}", *(format_bounds(one, 4) for one in (p.net_benefit, p.of_all, p.gain)))
                for p in curve.at(SHOWN)
            ]
            units = "slices" if unit == "slice" else "studies"
            share = "" if given is None else f", at a prevalence of {given:g}"
            caption = f"{curve.rows:,} {units}, {curve.positives:,} positive{share}; gain: over all and over none"
            heads = ("threshold", "net benefit", "of all", "gain")
            print_table(f"decision curve of {label}, per {unit}", heads, rows, caption=caption)
            useful = curve.useful
            text = "none" if useful is None else " to ".join(dict.fromkeys(f"{end:g}" for end in useful))
            console.print(f"thresholds with a gain whose interval is above 0: {text}", markup=False)


def print_reliability(curves: "Mapping[Unit, Mapping[str, ReliabilityCurve]]") -> None:
    """Print the bins of each curve, by unit and label."""
    for unit, by_label in curves.items():
        for label, curve in by_label.items():
            rows = [
                (
                    f"{one.low:.4f} to {one.high:.4f}",
                    one.rows,
                    one.patients,
                    one.positives,
                    f"{one.predicted:.4f}",
                    format_bounds(one.observed, 4),
                )
                for one in curve.bins
            ]
            units = "slices" if unit == "slice" else "studies"
            heads = ("probability", units, "patients", "positive", "mean probability", "share of positives")
            print_table(f"reliability of {label}, per {unit}", heads, rows, caption=f"bins of equal numbers of {units}")


def print_readers(found: "Sequence[ReaderComparison]", labels: Sequence[str] | None) -> None:
    """Print the agreement of readers, and the model against each of them."""
    chosen = [one for one in found if not labels or one.label in labels]
    rows: list[tuple[object, ...]] = [
        (one.label, f"{pair.first}, {pair.second}", pair.studies, pair.agreement, format_bounds(pair.kappa))
        for one in chosen
        for pair in one.pairs
    ]
    rows += [
        (one.label, f"all {len(one.readers)} (Fleiss)", one.read_by_all, None, format_bounds(one.fleiss))
        for one in chosen
        if len(one.readers) > 2
    ]
    print_table("agreement of readers, per study", ("label", "readers", "studies", "agreement", "kappa"), rows)
    rows = [
        (
            one.label,
            model.reader,
            model.studies,
            *map(format_bounds, (model.sensitivity, model.specificity, model.kappa)),
        )
        for one in chosen
        for model in one.models
    ]
    if not rows:
        console.print(
            "No stored threshold per study fits: `ichx threshold` chooses one; then the model is compared with each "
            "reader.",
            style="dim",
            markup=False,
        )
        return
    heads = ("label", "reader", "studies", "sensitivity", "specificity", "kappa")
    print_table("model at its stored threshold, with a reader as the truth", heads, rows, split=True)
    rows = [
        (
            one.label,
            f"{model.reader}\n{name}",
            f"{model.compared}\n{model.positives} positive",
            *map(format_bounds, (rate.first, rate.second, rate.difference)),
        )
        for one in chosen
        for model in one.models
        for name, rate in model.against_others.items()
    ]
    heads = ("label", "reader", "studies", "of the reader", "of the model", "model - reader")
    caption = "without studies on which the others are divided"
    title = "reader and model, with the majority of the other readers as the truth"
    print_table(title, heads, rows, caption=caption, split=True)


def print_study_areas(found: "Mapping[str, DeLong | None]", first: str, second: str) -> None:
    """Print DeLong's test of the AUC of studies, by label."""
    rows = [
        (
            name,
            f"{of.first:.4f}",
            f"{of.second:.4f}",
            f"{of.difference:+.4f}",
            f"{of.low:+.4f} to {of.high:+.4f}",
            f"{of.p_value:.4f}",
        )
        for name, of in found.items()
        if of is not None
    ]
    if rows:
        heads = ("label", first, second, "difference", "95 % interval", "p")
        print_table("AUC of studies, with the test of DeLong", heads, rows)


def print_paired(found: "PairedScores", first: str, second: str) -> None:
    """Print the differences of two models on the same slices."""
    slices, studies = found.slices, found.studies
    rows = [("weighted", format_bounds(slices, 5), "", format_bounds(studies, 5), "")]
    rows += [
        (
            name,
            format_bounds(slices.labels[name], 5),
            format_bounds(slices.auc[name], 5),
            format_bounds(studies.labels[name], 5),
            format_bounds(studies.auc[name], 5),
        )
        for name in LABELS
    ]
    heads = ("label", "log loss, slices", "AUC, slices", "log loss, studies", "AUC, studies")
    caption = (
        f"{found.rows:,} slices of {format_count(slices.patients, 'patient')}; intervals: paired, from "
        f"{slices.draws:,} draws of patients; a negative log loss favours {first}"
    )
    marks = format_marks(found.marks)
    title = f"difference {first} - {second}" + (f"; {second}:{marks}" if marks else "")
    print_table(title, heads, rows, caption=caption, split=True)
    print_study_areas(found.study_auc, first, second)
    calls = [
        (
            f"{one.label}, {one.unit}\n{name}",
            *map(format_bounds, (rate.first, rate.second)),
            format_bounds(rate.difference),
        )
        for one in found.calls
        for name, rate in (("sensitivity", one.sensitivity), ("specificity", one.specificity))
    ]
    if calls:
        names = ("stored thresholds", first, second, f"{second} - {first}")
        print_table("calls at the stored threshold of each", names, calls)
