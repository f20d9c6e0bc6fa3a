"""The report's diagrams: which lines and which words. How they become SVG is in `ichx.report.chart`."""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from ichx.labels import LABELS
from ichx.recipe import Recipe
from ichx.report.chart import Axis, Panel, Series, chart, linear_axis, log_axis, whole_axis
from ichx.report.diagnostics import Curve, thinned_places
from ichx.report.gallery import Strip
from ichx.report.scoring import Calibration
from ichx.store import EpochRecord

EPOCHS = 300
"""Epochs of a fold that the learning curves draw; of longer trainings, a thinned choice."""

SLICE_WIDTH = 64.0
"""Width of one slice of the strip, in the units of its drawing."""

Shares = Axis(0.0, 1.0, "", tuple((v / 5, f"{20 * v}%") for v in range(6)))


def learning_curves(recipe: Recipe, history: Mapping[int, Sequence[EpochRecord]]) -> Markup:
    """Return training loss, validation score and learning rate over the epochs of all stages, a line per fold."""
    ends = [sum(stage.epochs for stage in recipe.stage[: i + 1]) for i in range(len(recipe.stage))]
    starts = [0, *ends[:-1]]
    axis = whole_axis(1, ends[-1], "epoch")
    stages = [
        (start + (stage.epochs + 1) / 2, stage.name) for stage, start in zip(recipe.stage, starts, strict=True)
    ]
    panels = []
    for value, title, height in (
        ("loss", "training loss", 120.0),
        ("score", "validation score", 120.0),
        ("lr", "learning rate", 70.0),
    ):
        drawn = []
        for fold, records in sorted(history.items()):
            values = [r.values.get(value, math.nan) for r in records]
            epochs = [float(starts[r.stage_index] + r.epoch) for r in records]
            kept = thinned_places(range(len(records)), points=EPOCHS)
            said = [
                f"fold {fold}, epoch {epochs[i]:.0f} ({records[i].stage}): {title} "
                + (f"{values[i]:.3g}" if value == "lr" else f"{values[i]:.5f}")
                for i in kept
            ]
            points = [(epochs[i], values[i]) for i in kept]
            kind = "step" if value == "lr" else "marked" if len(kept) <= 60 else "line"
            drawn.append(Series(points, said, fold % 10, kind=kind, dashed=fold % 2 == 1))
        finite = [y for s in drawn for _, y in s.points if math.isfinite(y) and (y > 0 or value != "lr")]
        low, high = (min(finite), max(finite)) if finite else (0.1, 1.0)
        y = log_axis(low, high, title) if value == "lr" else linear_axis(low, high, title, count=4)
        guides = [((start + 0.5, y.low), (start + 0.5, y.high)) for start in starts[1:]]
        panels.append(Panel(axis, y, drawn, height, guides, stages if value == "loss" and len(stages) <= 6 else ()))
    described = "; ".join(
        f"fold {fold} ends at a validation score of {records[-1].values.get('score', math.nan):.5f}"
        for fold, records in sorted(history.items())
    )
    return chart("curves", "Training loss, validation score and learning rate by epoch", described, panels)


def roc_curves(curves: Mapping[str, Curve | None]) -> Markup:
    """Return the ROC of each label that has one."""

    def said(threshold: float, x: float, y: float) -> str:
        return f"sensitivity {100 * y:.1f}%, specificity {100 * (1 - x):.1f}%, {_called(threshold)}"

    series = _label_series(curves, said)
    x, y = _titled("false positive rate"), _titled("true positive rate")
    panel = Panel(x, y, series, 300.0, guides=[((0, 0), (1, 1))])
    return chart("roc", "Receiver operating characteristic of each label", _present(curves), [panel])


def precision_recall_curves(curves: Mapping[str, Curve | None]) -> Markup:
    """Return precision over recall of each label that has both classes."""

    def said(threshold: float, x: float, y: float) -> str:
        return f"recall {100 * x:.1f}%, precision {100 * y:.1f}%, {_called(threshold)}"

    panel = Panel(_titled("recall"), _titled("precision"), _label_series(curves, said), 300.0)
    return chart("pr", "Precision over recall of each label", _present(curves), [panel])


def reliability_diagram(found: Mapping[str, Calibration]) -> Markup:
    """Return each label's share of positives over the predicted probability, and the slices per bin below."""
    most = max((int(c.counts.max()) for c in found.values()), default=1)
    lines, bars = [], []
    for place, (label, one) in enumerate(found.items()):
        rows = list(zip(one.predicted.tolist(), one.observed.tolist(), one.counts.tolist(), strict=True))
        said = [f"{label}: predicted {p:.3f}, positive {o:.3f}, of {n:,} slices" for p, o, n in rows]
        lines.append(Series([(p, o) for p, o, _ in rows], said, place, label, "marked", place % 2 == 1))
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
        series.append(Series(points, said, column, label, "marked", column % 2 == 1))
    rows = tuple((len(LABELS) - 0.5 - i, label[:8]) for i, label in enumerate(LABELS))
    truths = []
    for column, label in enumerate(LABELS):
        height = len(LABELS) - 0.5 - column
        held = [(float(i), height) for i in range(count) if strip.labels[i, column] > 0.5]
        truths.append(Series(held, [f"slice {i + 1:.0f} is positive for {label}" for i, _ in held], column, kind="dots"))
    panels = [
        Panel(axis, _titled("probability"), series, 150.0),
        Panel(axis, Axis(0.0, float(len(LABELS)), "", rows), truths, 78.0),
    ]
    described = f"{count} slices from one end of the head to the other; the table of the slices tells their numbers"
    return chart("strip", "Probability along the head", described, panels, width=strip_width(strip))


def strip_width(strip: Strip) -> float:
    """Return the width of the strip's drawing, in its own units."""
    return SLICE_WIDTH * len(strip.names) + 62.0


def _label_series(curves: Mapping[str, Curve | None], say: Callable[[float, float, float], str]) -> list[Series]:
    series = []
    for place, (label, curve) in enumerate(curves.items()):
        if curve is None:
            continue
        rows = list(zip(curve.threshold.tolist(), curve.x.tolist(), curve.y.tolist(), strict=True))
        said = [f"{label}: {say(t, x, y)}" for t, x, y in rows]
        series.append(Series([(x, y) for _, x, y in rows], said, place, label, dashed=place % 2 == 1))
    return series


def _called(threshold: float) -> str:
    return f"called from {threshold:.3g}" if math.isfinite(threshold) else "nothing called"


def _titled(title: str) -> Axis:
    return Axis(Shares.low, Shares.high, title, Shares.ticks)


def _present(curves: Mapping[str, Curve | None]) -> str:
    absent = [label for label, curve in curves.items() if curve is None]
    return "undefined for " + ", ".join(absent) if absent else "the table of the labels tells the areas"
