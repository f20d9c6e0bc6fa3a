"""The decision curve of each label as a chart."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from ichx.labels import LABELS
from ichx.report.chart import Axis, Panel, Series, chart, linear_axis

if TYPE_CHECKING:
    from ichx.evaluation.decision_curve import DecisionCurve, DecisionPoint

BELOW = -0.02
"""Lower end of the net benefit: acting on all falls without bound."""


def decision_chart(curves: "Mapping[str, DecisionCurve]") -> Markup | None:
    """Return net benefit over threshold probability, with bounds as thin lines and acting on all as crosses.

    None without a curve.
    """
    if not curves:
        return None
    series: list[Series] = []
    for label, curve in curves.items():
        index, points = LABELS.index(label), curve.points
        tips = [_tooltip(label, point) for point in points]
        model = [(point.threshold, _drawn(point.net_benefit.value)) for point in points]
        series.append(Series(model, tips, index, label, dashed=index % 2 == 0))
        for end in ("low", "high"):
            bounds = [(point.threshold, _drawn(getattr(point.net_benefit, end))) for point in points]
            series.append(Series(bounds, tips, index, label, "faint"))
        every = [(point.threshold, _drawn(point.of_all.value)) for point in points]
        series.append(Series(every, tips, index, label, "crosses"))
    highest = max((value for one in series for _, value in one.points if math.isfinite(value)), default=0.1)
    axis = linear_axis(BELOW, max(highest, 0.02), "net benefit")
    x = Axis(0.0, 1.0, "threshold probability", tuple((v / 5, f"{20 * v}%") for v in range(6)))
    panel = Panel(x, axis, series, 300.0, guides=[((0, 0), (1, 0))])
    texts = [f"{label}: {_range(curve)}" for label, curve in curves.items()]
    return chart("decision", "Net benefit of each label per study", "; ".join(texts) + ".", [panel])


def _drawn(value: float | None) -> float:
    """Return a value for the chart; NaN, which breaks the line, for one below its end."""
    return math.nan if value is None or value < BELOW else value


def _tooltip(label: str, point: "DecisionPoint") -> str:
    values = (point.net_benefit.value, point.of_all.value)
    texts = ["-" if value is None else f"{value:.4f}" for value in values]
    return f"{label} per study, threshold {point.threshold:.2f}: net benefit {texts[0]}, of all {texts[1]}"


def _range(curve: "DecisionCurve") -> str:
    useful = curve.useful
    return "no gain whose interval is above 0" if useful is None else f"gain from {useful[0]:g} to {useful[1]:g}"
