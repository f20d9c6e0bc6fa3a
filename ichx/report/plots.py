"""The report's diagrams: which lines and which words. How they become SVG is in `ichx.report.chart`."""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from ichx.evaluation.scores import Calibration
from ichx.labels import LABELS
from ichx.recipe import Recipe
from ichx.report.chart import RIGHT, Axis, Panel, Series, chart, linear_axis, log_axis, whole_axis
from ichx.report.curves import Curve, Curves, thinned_places
from ichx.report.gallery import Strip
from ichx.store import EpochRecord

EPOCHS = 300
"""Epochs of a fold that the learning curves draw; of longer trainings, a thinned choice."""

SLICE_WIDTH = 64.0
STRIP_LEFT = 112.0
"""Width of one slice of the strip, and room for the names of the labels, in the units of its drawing."""

Shares = Axis(0.0, 1.0, "", tuple((v / 5, f"{20 * v}%") for v in range(6)))


def learning_curves(recipe: Recipe, history: Mapping[int, Sequence[EpochRecord]]) -> tuple[Markup, ...]:
    """Return training loss, validation score and learning rate over the epochs of all stages, a line per fold."""
    ends = [sum(stage.epochs for stage in recipe.stage[: i + 1]) for i in range(len(recipe.stage))]
    starts = [0, *ends[:-1]]
    axis = whole_axis(1, ends[-1], "epoch")
    stages = [(start + (stage.epochs + 1) / 2, stage.name) for stage, start in zip(recipe.stage, starts, strict=True)]
    crowded = len(stages) > 5 or min(stage.epochs for stage in recipe.stage) < 0.1 * recipe.epochs
    charts = []
    for value, title in (("loss", "training loss"), ("score", "validation score"), ("lr", "learning rate")):
        series = [_epochs(fold, records, starts, value, title) for fold, records in sorted(history.items())]
        finite = [y for s in series for _, y in s.points if math.isfinite(y) and (y > 0 or value != "lr")]
        low, high = (min(finite), max(finite)) if finite else (0.1, 1.0)
        y = log_axis(low, high, title) if value == "lr" else linear_axis(low, high, title)
        guides = [((start + 0.5, y.low), (start + 0.5, y.high)) for start in starts[1:]]
        panel = Panel(axis, y, series, 190.0, guides, () if crowded else stages)
        last = [f"fold {fold}: {_told(value, records[-1])}" for fold, records in sorted(history.items())]
        described = f"in the last epoch, {'; '.join(last)}"
        charts.append(chart(f"curve-{value}", f"{title.capitalize()} by epoch", described, [panel]))
    return tuple(charts)


def _epochs(fold: int, records: Sequence[EpochRecord], starts: Sequence[int], value: str, title: str) -> Series:
    kept = [records[i] for i in thinned_places(range(len(records)), points=EPOCHS)]
    points = [(float(starts[r.stage_index] + r.epoch), r.values.get(value, math.nan)) for r in kept]
    said = [
        f"fold {fold}, epoch {epoch:.0f} ({r.stage}): {title} {_told(value, r)}"
        for r, (epoch, _) in zip(kept, points, strict=True)
    ]
    kind = "step" if value == "lr" else "marked" if len(kept) <= 60 else "line"
    return Series(points, said, fold % 10, kind=kind, dashed=fold % 2 == 1)


def _told(value: str, record: EpochRecord) -> str:
    number = record.values.get(value, math.nan)
    return f"{number:.3g}" if value == "lr" else f"{number:.5f}"


def roc_curves(curves: Mapping[str, Curves | None]) -> Markup:
    """Return the ROC of each label that has one."""

    def said(threshold: float, x: float, y: float) -> str:
        return f"sensitivity {100 * y:.1f}%, specificity {100 * (1 - x):.1f}%, {_called(threshold)}"

    series = _label_series({label: c.roc for label, c in curves.items() if c}, said)
    x, y = _titled("false positive rate"), _titled("true positive rate")
    panel = Panel(x, y, series, 300.0, guides=[((0, 0), (1, 1))])
    return chart("roc", "Receiver operating characteristic of each label", _present(curves), [panel])


def precision_recall_curves(curves: Mapping[str, Curves | None]) -> Markup:
    """Return precision over recall of each label that has both classes."""

    def said(threshold: float, x: float, y: float) -> str:
        return f"recall {100 * x:.1f}%, precision {100 * y:.1f}%, {_called(threshold)}"

    series = _label_series({label: c.precision_recall for label, c in curves.items() if c}, said)
    panel = Panel(_titled("recall"), _titled("precision"), series, 300.0)
    return chart("pr", "Precision over recall of each label", _present(curves), [panel])


def reliability_diagram(found: Mapping[str, Calibration]) -> Markup:
    """Return each label's share of positives over the predicted probability, and the slices per bin below."""
    most = max((int(c.counts.max()) for c in found.values()), default=1)
    lines, bars = [], []
    for place, (label, one) in enumerate(found.items()):
        rows = list(zip(one.predicted.tolist(), one.observed.tolist(), one.counts.tolist(), strict=True))
        said = [f"{label}: predicted {p:.3f}, positive {o:.3f}, of {n:,} slices" for p, o, n in rows]
        lines.append(Series([(p, o) for p, o, _ in rows], said, place, label, "marked", place % 2 == 0))
        bars.append(Series([(p, float(n)) for p, _, n in rows], said, place, label, "bars"))
    counts = log_axis(0.5, max(most, 2), "slices", lambda power: f"{10**power:,}" if power >= 0 else "")
    panels = [
        Panel(_titled(""), _titled("share of positive slices"), lines, 230.0, guides=[((0, 0), (1, 1))]),
        Panel(_titled("predicted probability"), counts, bars, 56.0),
    ]
    described = "; ".join(f"{label}: calibration error {one.error:.4f}" for label, one in found.items())
    return chart("reliability", "Reliability of each label's probability", described, panels)


def head_strip(strip: Strip) -> Markup:
    """Return the probability of each label along the head, one place per slice, and the true labels below."""
    count = len(strip.names)
    axis = Axis(-0.5, count - 0.5, "", tuple((float(i), str(i + 1)) for i in range(count)))
    series = []
    for column, label in enumerate(LABELS):
        values = strip.probabilities[:, column].tolist()
        truth = strip.labels[:, column] > 0.5
        said = [
            f"slice {i + 1}: {label} predicted {p:.3f}, {'positive' if truth[i] else 'negative'}"
            for i, p in enumerate(values)
        ]
        points = [(float(i), p) for i, p in enumerate(values)]
        series.append(Series(points, said, column, label, "marked", column % 2 == 0))
    rows = tuple((len(LABELS) - 0.5 - i, label) for i, label in enumerate(LABELS))
    truths = []
    for column, label in enumerate(LABELS):
        height = len(LABELS) - 0.5 - column
        held = [(float(i), height) for i in range(count) if strip.labels[i, column] > 0.5]
        truths.append(
            Series(held, [f"slice {i + 1:.0f} is positive for {label}" for i, _ in held], column, kind="dots")
        )
    panels = [
        Panel(axis, _titled("probability"), series, 150.0),
        Panel(axis, Axis(0.0, float(len(LABELS)), "", rows), truths, 78.0),
    ]
    described = f"{count} slices from one end of the head to the other; the table of the slices tells their numbers"
    return chart("strip", "Probability along the head", described, panels, width=strip_width(strip), left=STRIP_LEFT)


def strip_width(strip: Strip) -> float:
    """Return the width of the strip's drawing, in its own units."""
    return STRIP_LEFT + SLICE_WIDTH * len(strip.names) + RIGHT


def _label_series(curves: Mapping[str, Curve], say: Callable[[float, float, float], str]) -> list[Series]:
    series = []
    for label, curve in curves.items():
        place = LABELS.index(label)
        rows = list(zip(curve.threshold.tolist(), curve.x.tolist(), curve.y.tolist(), strict=True))
        said = [f"{label}: {say(t, x, y)}" for t, x, y in rows]
        series.append(Series([(x, y) for _, x, y in rows], said, place, label, dashed=place % 2 == 0))
    return series


def _called(threshold: float) -> str:
    return f"called from {threshold:.3g}" if math.isfinite(threshold) else "nothing called"


def _titled(title: str) -> Axis:
    return Axis(Shares.low, Shares.high, title, Shares.ticks)


def _present(curves: Mapping[str, Curves | None]) -> str:
    absent = [label for label, curve in curves.items() if curve is None]
    return "undefined for " + ", ".join(absent) if absent else "the table of the labels tells the areas"
