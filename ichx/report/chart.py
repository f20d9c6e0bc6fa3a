"""Charts as inline SVG: axes, lines, markers, in the page's own colours, and the points that a reader can ask for.

The drawing is whole without a script. A script finds the points of a chart as JSON in its `data-points`, and shows
what is said of the nearest one. What is drawn is worked out elsewhere.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 380.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 18.0, 12.0, 42.0
"""Room beside a panel's plotting area, in the units of the drawing; texts are 12 units high."""

NOTE = 15.0
"""Height of a line of notes above a panel."""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, on a logarithmic scale where `log`; `ticks` are (value, text)."""

    low: float
    high: float
    title: str
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Return where `value` lies between the ends, 0 to 1 within them."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Series:
    """What is drawn of `points` (x, y), of which `said` tells each; `colour` counts the page's `--series-N`.

    `label` names the label that it belongs to, for figures in which a reader chooses one. `kind` is `line`, `marked`
    (a line with a dot at each point), `step` (values hold half a unit around their points), `bars` (on the axis),
    `faint` (a thin line, one of many), or without a line `dots`, `rings` or `crosses`. A point that is not finite
    breaks the line.
    """

    points: Sequence[tuple[float, float]]
    said: Sequence[str]
    colour: int
    label: str = ""
    kind: str = "line"
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One plotting area of `height`; `guides` are lines ((x, y), (x, y)), `notes` texts (x, text) above it."""

    x: Axis
    y: Axis
    series: Sequence[Series]
    height: float
    guides: Sequence[tuple[tuple[float, float], tuple[float, float]]] = ()
    notes: Sequence[tuple[float, str]] = ()


def linear_axis(low: float, high: float, title: str, *, count: int = 5, percent: bool = False) -> Axis:
    """Return an axis with round ticks at about `count` places, widened to them."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    step = _round_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [round(i * step, digits + 2) for i in range(first, last + 1)]
    texts = [f"{100 * v:.{max(0, digits - 2)}f}%" if percent else f"{v:.{digits}f}" for v in values]
    return Axis(first * step, last * step, title, tuple(zip(values, texts, strict=True)))


def whole_axis(low: int, high: int, title: str) -> Axis:
    """Return an axis over whole numbers, half a step wider than they are."""
    step = max(1, math.ceil((high - low) / 8))
    return Axis(low - 0.5, high + 0.5, title, tuple((float(v), str(v)) for v in range(low, high + 1, step)))


def log_axis(low: float, high: float, title: str, say: Callable[[int], str] | None = None) -> Axis:
    """Return a logarithmic axis from one power of ten to another; `say` writes a power from its exponent."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    step = max(1, math.ceil((last - first) / 4))
    powers = range(first, last + 1, step)
    return Axis(
        10.0**first, 10.0**last, title, tuple((10.0**p, say(p) if say else f"{10.0**p:g}") for p in powers), log=True
    )


def chart(
    name: str, title: str, description: str, panels: Sequence[Panel], *, width: float = WIDTH, left: float = LEFT
) -> Markup:
    """Return `panels`, one under another, as one `svg` element called `name`, with `title` and `description` read out.

    The last panel's x axis has the ticks and the title of all. `left` of `width` is room for the y axes.
    """
    parts: list[str] = []
    points: list[dict[str, object]] = []
    top = 0.0
    for place, panel in enumerate(panels):
        last = place == len(panels) - 1
        top += TOP + NOTE * min(2, len(panel.notes))
        _draw(panel, _Frame(left, width - RIGHT, top, top + panel.height, last), parts, points)
        top += panel.height + (BOTTOM if last else 8)
    told = escape(json.dumps(points, separators=(",", ":"), ensure_ascii=False))
    head = (
        f'<svg class="chart" id="{name}" role="img" tabindex="0" viewBox="0 0 {_n(width)} {_n(top)}" '
        f'aria-labelledby="{name}-title {name}-desc" data-points="{told}">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    return Markup(head + "".join(parts) + "</svg>")


@dataclass(frozen=True)
class _Frame:
    """Where a panel's plotting area lies, and whether it is the last one."""

    left: float
    right: float
    top: float
    bottom: float
    last: bool


def _draw(panel: Panel, frame: _Frame, parts: list[str], points: list[dict[str, object]]) -> None:
    left, right, top, bottom = frame.left, frame.right, frame.top, frame.bottom

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * panel.x.share(x), bottom - panel.height * panel.y.share(y)

    for value, text in panel.y.ticks:
        y = at(panel.x.low, value)[1]
        parts.append(f'<path class="grid" d="M{_n(left)} {_n(y)}H{_n(right)}"/>')
        parts.append(f'<text class="tick" x="{_n(left - 6)}" y="{_n(y + 4)}" text-anchor="end">{escape(text)}</text>')
    for value, text in panel.x.ticks:
        x = at(value, panel.y.low)[0]
        parts.append(f'<path class="grid" d="M{_n(x)} {_n(top)}V{_n(bottom)}"/>')
        if frame.last:
            place = f'x="{_n(x)}" y="{_n(bottom + 16)}" text-anchor="middle"'
            parts.append(f'<text class="tick" {place}>{escape(text)}</text>')
    if panel.y.title:
        turned = f'transform="translate(11 {_n((top + bottom) / 2)}) rotate(-90)" text-anchor="middle"'
        parts.append(f'<text class="axis" {turned}>{escape(panel.y.title)}</text>')
    if frame.last and panel.x.title:
        place = f'x="{_n((left + right) / 2)}" y="{_n(bottom + 35)}" text-anchor="middle"'
        parts.append(f'<text class="axis" {place}>{escape(panel.x.title)}</text>')
    for begin, end in panel.guides:
        (x, y), (to_x, to_y) = at(*begin), at(*end)
        parts.append(f'<path class="guide" d="M{_n(x)} {_n(y)}L{_n(to_x)} {_n(to_y)}"/>')
    for row, (x, text) in enumerate(panel.notes):
        up = 6 + NOTE * (row % 2)  # neighbours stand on two lines
        place = f'x="{_n(at(x, panel.y.low)[0])}" y="{_n(top - up)}" text-anchor="middle"'
        parts.append(f'<text class="note" {place}>{escape(text)}</text>')
    half = (right - left) * (panel.x.share(panel.x.low + 0.5) - panel.x.share(panel.x.low)) if not panel.x.log else 0.0
    for series in panel.series:
        placed = [at(x, y) if _drawn(y, panel.y) else None for x, y in series.points]
        label = f' data-label="{escape(series.label)}"' if series.label else ""
        looks = " dashed" * series.dashed + " thin" * (series.kind == "faint")
        style = f'class="series c{series.colour}{looks}"{label}'
        parts.append(f"<g {style}>{_shape(series, placed, bottom, half)}</g>")
        kept = [(p, said) for p, said in zip(placed, series.said, strict=True) if p is not None]
        points.append(
            {
                "label": series.label,
                "at": [[round(x, 1), round(y, 1)] for (x, y), _ in kept],
                "said": [said for _, said in kept],
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


def _drawn(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def _n(value: float) -> str:
    """Return a coordinate to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")
