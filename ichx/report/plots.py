"""The diagrams of scores, curves and slices. `ichx.report.chart` draws them; those of tuning are in `tuning_plots`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from ichx.labels import LABELS
from ichx.report.chart import RIGHT, Axis, Panel, Series, chart, integer_axis, linear_axis, log_axis
from ichx.report.curves import Curve, LabelCurves, thinned_indices

if TYPE_CHECKING:
    from ichx.evaluation.metric import FloatArray
    from ichx.evaluation.reliability import ReliabilityCurve
    from ichx.evaluation.scores import Calibration
    from ichx.recipe import Recipe
    from ichx.report.gallery import SeriesStrip
    from ichx.store import EpochRecord

EPOCHS = 300
"""Maximum number of epochs per fold in the learning curves; longer trainings are thinned."""

SLICE_WIDTH = 64.0
STRIP_LEFT = 112.0
"""Width of a slice of the strip and of the label names, in units of the drawing."""

_PERCENT_AXIS = Axis(0.0, 1.0, "", tuple((v / 5, f"{20 * v}%") for v in range(6)))


def learning_curves(recipe: "Recipe", history: "Mapping[int, Sequence[EpochRecord]]") -> tuple[Markup, ...]:
    """Return charts of training loss, validation score and learning rate by epoch, with a line per fold."""
    ends = [sum(stage.epochs for stage in recipe.stage[: i + 1]) for i in range(len(recipe.stage))]
    starts = [0, *ends[:-1]]
    axis = integer_axis(1, ends[-1], "epoch")
    stages = [(start + (stage.epochs + 1) / 2, stage.name) for stage, start in zip(recipe.stage, starts, strict=True)]
    crowded = len(stages) > 5 or min(stage.epochs for stage in recipe.stage) < 0.1 * recipe.epochs
    charts = []
    shown = [("loss", "training loss"), ("score", "validation score"), ("lr", "learning rate")]
    if any("subset_score" in record.values for records in history.values() for record in records):
        shown.insert(1, ("subset_score", "score of the validation subset"))
    for value, title in shown:
        series = [_epoch_series(fold, records, starts, value, title) for fold, records in sorted(history.items())]
        finite = [y for s in series for _, y in s.points if math.isfinite(y) and (y > 0 or value != "lr")]
        low, high = (min(finite), max(finite)) if finite else (0.1, 1.0)
        y = log_axis(low, high, title) if value == "lr" else linear_axis(low, high, title)
        guides = [((start + 0.5, y.low), (start + 0.5, y.high)) for start in starts[1:]]
        panel = Panel(axis, y, series, 190.0, guides, () if crowded else stages)
        last = [f"fold {fold}: {_last_value(value, records)}" for fold, records in sorted(history.items())]
        description = f"Last epoch: {'; '.join(last)}."
        charts.append(chart(f"curve-{value}", f"{title.capitalize()} by epoch", description, [panel]))
    return tuple(charts)


def _epoch_series(fold: int, records: "Sequence[EpochRecord]", starts: Sequence[int], value: str, title: str) -> Series:
    records = [record for record in records if value in record.values]  # not every epoch is validated
    thinned = [records[i] for i in thinned_indices(range(len(records)), points=EPOCHS)]
    points = [(float(starts[r.stage_index] + r.epoch), r.values.get(value, math.nan)) for r in thinned]
    tooltips = [
        f"fold {fold}, epoch {epoch:.0f} ({r.stage}): {title} {_format_value(value, r)}"
        for r, (epoch, _) in zip(thinned, points, strict=True)
    ]
    kind: Literal["step", "marked", "line"]
    kind = "step" if value == "lr" else "marked" if len(thinned) <= 60 else "line"
    return Series(points, tooltips, fold % 10, kind=kind, dashed=fold % 2 == 1)


def _last_value(value: str, records: "Sequence[EpochRecord]") -> str:
    return next((_format_value(value, record) for record in reversed(records) if value in record.values), "-")


def _format_value(value: str, record: "EpochRecord") -> str:
    number = record.values.get(value, math.nan)
    return f"{number:.3g}" if value == "lr" else f"{number:.5f}"


def roc_curves(curves: Mapping[str, LabelCurves | None], name: str = "roc", unit: str = "slice") -> Markup:
    """Return the ROC curve of each label that has both classes.

    Args:
        curves: The curves by label.
        name: The id of the drawing.
        unit: What is predicted: `slice` or `study`.
    """

    def tooltip(threshold: float, x: float, y: float) -> str:
        return f"sensitivity {100 * y:.1f}%, specificity {100 * (1 - x):.1f}%, {_format_threshold(threshold, unit)}"

    series = _label_series({label: c.roc for label, c in curves.items() if c}, tooltip)
    x, y = _percent_axis("false positive rate"), _percent_axis("true positive rate")
    panel = Panel(x, y, series, 300.0, guides=[((0, 0), (1, 1))])
    return chart(
        name, f"Receiver operating characteristic of each label per {unit}", _describe_undefined(curves), [panel]
    )


def precision_recall_curves(curves: Mapping[str, LabelCurves | None]) -> Markup:
    """Return precision over recall of each label that has both classes."""

    def tooltip(threshold: float, x: float, y: float) -> str:
        return f"recall {100 * x:.1f}%, precision {100 * y:.1f}%, {_format_threshold(threshold)}"

    series = _label_series({label: c.precision_recall for label, c in curves.items() if c}, tooltip)
    panel = Panel(_percent_axis("recall"), _percent_axis("precision"), series, 300.0)
    return chart("pr", "Precision over recall of each label", _describe_undefined(curves), [panel])


def reliability_diagram(
    calibrations: "Mapping[str, Calibration]", intervals: "Mapping[str, ReliabilityCurve]"
) -> Markup:
    """Return each label's share of positives over the predicted probability, and the slices per bin below.

    Args:
        calibrations: The bins of each label that are not empty.
        intervals: The same bins with intervals, drawn as thin vertical lines; labels may be absent.
    """
    calibrations = {label: one for label, one in calibrations.items() if len(one.counts)}  # others are unknown
    most = max((int(c.counts.max()) for c in calibrations.values()), default=1)
    lines, bars = [], []
    for index, (label, one) in enumerate(calibrations.items()):
        rows = list(zip(one.predicted.tolist(), one.observed.tolist(), one.counts.tolist(), strict=True))
        tooltips = [f"{label}: predicted {p:.3f}, positive {o:.3f}, of {n:,} slices" for p, o, n in rows]
        lines.append(Series([(p, o) for p, o, _ in rows], tooltips, index, label, "marked", index % 2 == 0))
        bars.append(Series([(p, float(n)) for p, _, n in rows], tooltips, index, label, "bars"))
        if label in intervals:
            bounds = [(one.predicted, one.observed.low, one.observed.high) for one in intervals[label].bins]
            ends = [(p, end) for p, low, high in bounds if low is not None for end in (low, high or low, math.nan)]
            texts = [f"{label}: predicted {p:.3f}, 95 % interval ends at {end:.3f}" for p, end in ends]
            lines.append(Series(ends, texts, index, label, "faint"))
    counts = log_axis(0.5, max(most, 2), "slices", lambda power: f"{10**power:,}" if power >= 0 else "")
    panels = [
        Panel(_percent_axis(""), _percent_axis("share of positive slices"), lines, 230.0, guides=[((0, 0), (1, 1))]),
        Panel(_percent_axis("predicted probability"), counts, bars, 56.0),
    ]
    errors = "; ".join(f"{label}: calibration error {one.error:.4f}" for label, one in calibrations.items())
    return chart("reliability", "Reliability of each label's probability", errors, panels)


def series_strip(strip: "SeriesStrip") -> Markup:
    """Return the probability of each label slice by slice, and the true labels below."""
    count = len(strip.names)
    axis = Axis(-0.5, count - 0.5, "", tuple((float(i), str(i + 1)) for i in range(count)))
    series = []
    for column, label in enumerate(LABELS):
        values = strip.probabilities[:, column].tolist()
        truth = strip.labels[:, column] > 0.5
        tooltips = [
            f"slice {i + 1}: {label} predicted {p:.3f}, {'positive' if truth[i] else 'negative'}"
            for i, p in enumerate(values)
        ]
        points = [(float(i), p) for i, p in enumerate(values)]
        series.append(Series(points, tooltips, column, label, "marked", column % 2 == 0))
    rows = tuple((len(LABELS) - 0.5 - i, label) for i, label in enumerate(LABELS))
    truths = []
    for column, label in enumerate(LABELS):
        height = len(LABELS) - 0.5 - column
        points = [(float(i), height) for i in range(count) if strip.labels[i, column] > 0.5]
        tooltips = [f"slice {i + 1:.0f} is positive for {label}" for i, _ in points]
        truths.append(Series(points, tooltips, column, kind="dots"))
    panels = [
        Panel(axis, _percent_axis("probability"), series, 150.0),
        Panel(axis, Axis(0.0, float(len(LABELS)), "", rows), truths, 78.0),
    ]
    description = f"{count} slices from one end of the head to the other."
    return chart("strip", "Probability along the head", description, panels, width=strip_width(strip), left=STRIP_LEFT)


def probabilities_along_series(name: str, probabilities: "FloatArray", slice_names: Sequence[str]) -> Markup:
    """Return the probabilities `(N, 6)` of a series slice by slice; `name` is the id of the drawing."""
    series = []
    for column, label in enumerate(LABELS):
        values = probabilities[:, column].tolist()
        tooltips = [f"slice {i + 1}, {slice_names[i]}: {label} {p:.3f}" for i, p in enumerate(values)]
        points = [(float(i + 1), p) for i, p in enumerate(values)]
        series.append(Series(points, tooltips, column, label, dashed=column % 2 == 0))
    panel = Panel(integer_axis(1, max(len(slice_names), 2), "slice"), _percent_axis("probability"), series, 150.0)
    return chart(name, "Probability along the head", f"{len(slice_names)} slices.", [panel])


def strip_width(strip: "SeriesStrip") -> float:
    """Return the width of the strip in units of its drawing."""
    return STRIP_LEFT + SLICE_WIDTH * len(strip.names) + RIGHT


def _label_series(curves: Mapping[str, Curve], tooltip: Callable[[float, float, float], str]) -> list[Series]:
    """Return a line per label; `tooltip` gets threshold, x and y of a point."""
    series = []
    for label, curve in curves.items():
        index = LABELS.index(label)
        rows = list(zip(curve.threshold.tolist(), curve.x.tolist(), curve.y.tolist(), strict=True))
        tooltips = [f"{label}: {tooltip(t, x, y)}" for t, x, y in rows]
        series.append(Series([(x, y) for _, x, y in rows], tooltips, index, label, dashed=index % 2 == 0))
    return series


def _format_threshold(threshold: float, unit: str = "slice") -> str:
    return f"threshold {threshold:.3g}" if math.isfinite(threshold) else f"no {unit} predicted positive"


def _percent_axis(title: str) -> Axis:
    return replace(_PERCENT_AXIS, title=title)


def _describe_undefined(curves: Mapping[str, LabelCurves | None]) -> str:
    absent = [label for label, curve in curves.items() if curve is None]
    return "Undefined for " + ", ".join(absent) + "." if absent else "The areas are in the table of the labels."
