"""Charts as inline SVG in the colours of the page. Their content is in `ichx.report.plots` and `tuning_plots`.

A chart is complete without a script. Its `data-points` attribute has the points and their tooltips as JSON, which the
page's script shows.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

WIDTH = 380.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 18.0, 12.0, 42.0
"""Margins of a panel in units of the drawing; text is 12 units high."""

NOTE = 15.0
"""Height of a line of notes above a panel."""


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`."""

    low: float
    high: float
    title: str
    ticks: tuple[tuple[float, str], ...]
    """Value and text of each tick."""
    log: bool = False
    """Whether the scale is logarithmic."""

    def fraction(self, value: float) -> float:
        """Return the position of `value`: 0 at the low end, 1 at the high end."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Series:
    """Points in one colour."""

    points: Sequence[tuple[float, float]]
    """`(x, y)`; a value that is not finite breaks the line."""
    tooltips: Sequence[str]
    """A text per point."""
    colour: int
    """Number of the page's colour `--series-N`."""
    label: str = ""
    """The label it belongs to, for figures in which a reader chooses one."""
    kind: Literal["line", "marked", "step", "bars", "faint", "dots", "rings", "crosses"] = "line"
    """`marked` is a line with dots, `step` extends each value by half a unit, `faint` is a thin line."""
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One plotting area."""

    x: Axis
    y: Axis
    series: Sequence[Series]
    height: float
    guides: Sequence[tuple[tuple[float, float], tuple[float, float]]] = ()
    """Dotted lines from one point to another."""
    notes: Sequence[tuple[float, str]] = ()
    """Texts above the area, each with its x value."""


def linear_axis(low: float, high: float, title: str) -> Axis:
    """Return a linear axis with about five round ticks, extended to the outer ticks."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    step = _round_step((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [round(i * step, digits + 2) for i in range(first, last + 1)]
    texts = [f"{v:.{digits}f}" for v in values]
    return Axis(first * step, last * step, title, tuple(zip(values, texts, strict=True)))


def integer_axis(low: int, high: int, title: str) -> Axis:
    """Return an axis of integers, extended by 1/2 at both ends."""
    step = max(1, math.ceil((high - low) / 8))
    return Axis(low - 0.5, high + 0.5, title, tuple((float(v), str(v)) for v in range(low, high + 1, step)))


def log_axis(low: float, high: float, title: str, format_power: Callable[[int], str] | None = None) -> Axis:
    """Return a logarithmic axis between powers of ten; `format_power` returns a tick's text for an exponent."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    step = max(1, math.ceil((last - first) / 4))
    powers = range(first, last + 1, step)
    ticks = tuple((10.0**p, format_power(p) if format_power else f"{10.0**p:g}") for p in powers)
    return Axis(10.0**first, 10.0**last, title, ticks, log=True)


def chart(
    name: str, title: str, description: str, panels: Sequence[Panel], *, width: float = WIDTH, left: float = LEFT
) -> Markup:
    """Return an `svg` element.

    Args:
        name: Its id.
        title: Title for screen readers.
        description: Description for screen readers.
        panels: Plotting areas from top to bottom; only the last one shows the ticks and title of its x axis.
        width: Width in units of the drawing.
        left: Part of the width that the y axes' ticks and titles use.
    """
    parts: list[str] = []
    points: list[dict[str, object]] = []
    top = 0.0
    for index, panel in enumerate(panels):
        last = index == len(panels) - 1
        top += TOP + NOTE * min(2, len(panel.notes))
        _draw(panel, _Frame(left, width - RIGHT, top, top + panel.height, last), parts, points)
        top += panel.height + (BOTTOM if last else 8)
    data_points = escape(json.dumps(points, separators=(",", ":"), ensure_ascii=False))
    head = (
        f'<svg class="chart" id="{name}" role="img" tabindex="0" viewBox="0 0 {_n(width)} {_n(top)}" '
        f'aria-labelledby="{name}-title {name}-desc" data-points="{data_points}">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    return Markup(head + "".join(parts) + "</svg>")


@dataclass(frozen=True)
class _Frame:
    """Edges of a panel's plotting area, in units of the drawing."""

    left: float
    right: float
    top: float
    bottom: float
    last: bool
    """Whether it is the last panel."""


def _draw(panel: Panel, frame: _Frame, parts: list[str], points: list[dict[str, object]]) -> None:
    left, right, top, bottom = frame.left, frame.right, frame.top, frame.bottom

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * panel.x.fraction(x), bottom - panel.height * panel.y.fraction(y)

    for value, text in panel.y.ticks:
        y = at(panel.x.low, value)[1]
        parts.append(f'<path class="grid" d="M{_n(left)} {_n(y)}H{_n(right)}"/>')
        parts.append(f'<text class="tick" x="{_n(left - 6)}" y="{_n(y + 4)}" text-anchor="end">{escape(text)}</text>')
    for value, text in panel.x.ticks:
        x = at(value, panel.y.low)[0]
        parts.append(f'<path class="grid" d="M{_n(x)} {_n(top)}V{_n(bottom)}"/>')
        if frame.last:
            position = f'x="{_n(x)}" y="{_n(bottom + 16)}" text-anchor="middle"'
            parts.append(f'<text class="tick" {position}>{escape(text)}</text>')
    if panel.y.title:
        rotation = f'transform="translate(11 {_n((top + bottom) / 2)}) rotate(-90)" text-anchor="middle"'
        parts.append(f'<text class="axis" {rotation}>{escape(panel.y.title)}</text>')
    if frame.last and panel.x.title:
        position = f'x="{_n((left + right) / 2)}" y="{_n(bottom + 35)}" text-anchor="middle"'
        parts.append(f'<text class="axis" {position}>{escape(panel.x.title)}</text>')
    for start, end in panel.guides:
        (x, y), (to_x, to_y) = at(*start), at(*end)
        parts.append(f'<path class="guide" d="M{_n(x)} {_n(y)}L{_n(to_x)} {_n(to_y)}"/>')
    for row, (x, text) in enumerate(panel.notes):
        up = 6 + NOTE * (row % 2)  # two lines, so that neighbours do not overlap
        position = f'x="{_n(at(x, panel.y.low)[0])}" y="{_n(top - up)}" text-anchor="middle"'
        parts.append(f'<text class="note" {position}>{escape(text)}</text>')
    half = (
        (right - left) * (panel.x.fraction(panel.x.low + 0.5) - panel.x.fraction(panel.x.low))
        if not panel.x.log
        else 0.0
    )
    for series in panel.series:
        placed = [at(x, y) if _can_draw(y, panel.y) else None for x, y in series.points]
        label = f' data-label="{escape(series.label)}"' if series.label else ""
        variants = " dashed" * series.dashed + " thin" * (series.kind == "faint")
        style = f'class="series c{series.colour}{variants}"{label}'
        parts.append(f"<g {style}>{_shape(series, placed, bottom, half)}</g>")
        visible = [(p, text) for p, text in zip(placed, series.tooltips, strict=True) if p is not None]
        points.append(
            {
                "label": series.label,
                "at": [[round(x, 1), round(y, 1)] for (x, y), _ in visible],
                "tooltips": [text for _, text in visible],
            }
        )


def _shape(series: Series, placed: Sequence[tuple[float, float] | None], bottom: float, half: float) -> str:
    if series.kind == "bars":
        return "".join(f'<path class="bar" d="M{_n(p[0])} {_n(bottom)}V{_n(p[1])}"/>' for p in placed if p)
    if series.kind == "crosses":
        arm = "l3.5 3.5m0 -7l-7 7m0 -7l3.5 3.5"
        return "".join(f'<path class="line" d="M{_n(p[0])} {_n(p[1])}{arm}"/>' for p in placed if p)
    if series.kind == "rings":
        return "".join(f'<circle class="ring" cx="{_n(p[0])}" cy="{_n(p[1])}" r="2.6"/>' for p in placed if p)
    dots = "".join(f'<circle class="dot" cx="{_n(p[0])}" cy="{_n(p[1])}" r="2.6"/>' for p in placed if p)
    if series.kind == "dots":
        return dots
    path, before = "", None
    for point in placed:
        if point is not None:
            x, y = point
            if series.kind == "step":
                path += (f"M{_n(x - half)} {_n(y)}" if before is None else f"V{_n(y)}") + f"H{_n(x + half)}"
            else:
                path += f"{'M' if before is None else 'L'}{_n(x)} {_n(y)}"
        before = point
    return (f'<path class="line" d="{path}"/>' if path else "") + (dots if series.kind == "marked" else "")


def _can_draw(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _round_step(minimum: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least `minimum`."""
    power = 10.0 ** math.floor(math.log10(minimum))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= minimum * (1 - 1e-9))


def _n(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")
