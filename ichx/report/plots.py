"""The report's diagrams as inline SVG that follows the page: its font, and its colours in light and dark.

Drawn with matplotlib's objects, without pyplot. The same figures give the same bytes. They are computed elsewhere.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ichx.recipe import Recipe
from ichx.report.diagnostics import Reliability, Roc
from ichx.store import EpochRecord

# Colours that stand for the page's own; `_inline` puts its CSS variables in their places.
_INK, _LINE = "#0a0b01", "#0a0b02"
SERIES = tuple(f"#0a0c{i:02x}" for i in range(10))
_CSS = {_INK: "currentColor", _LINE: "var(--line)"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES)}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # measures the text; the page sets its own
    "font.size": 9.0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    **{f"{part}.color": _INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": _INK for part in ("labelcolor", "edgecolor")},
}


def learning_curves(recipe: Recipe, history: Mapping[int, Sequence[EpochRecord]]) -> Markup:
    """Return training loss, validation score and learning rate over the epochs of all stages, a line per fold."""
    ends = [sum(stage.epochs for stage in recipe.stage[: i + 1]) for i in range(len(recipe.stage))]
    starts = [0, *ends[:-1]]

    def draw(figure: Figure) -> None:
        loss, score, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
        for fold, records in sorted(history.items()):
            epochs = [starts[r.stage_index] + r.epoch for r in records]
            for axes, name in ((loss, "loss"), (score, "score"), (rate, "lr")):
                values = [r.values.get(name, math.nan) for r in records]
                drawn = {"drawstyle": "steps-mid"} if name == "lr" else {"marker": "o"}
                axes.plot(epochs, values, label=f"fold {fold}", **_line(fold), **drawn)
        rate.set_yscale("log")
        rate.set_xlim(0.5, ends[-1] + 0.5)
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes, title in ((loss, "training loss"), (score, "validation score"), (rate, "learning rate")):
            axes.set_ylabel(title)
            for boundary in starts[1:]:
                axes.axvline(boundary + 0.5, color=_INK, linewidth=0.8, linestyle=":")
        rate.set_xlabel("epoch")
        _name_stages(loss, recipe, starts)
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=4)

    return _svg("curves", "Training loss, validation score and learning rate by epoch", (4.6, 5.6), draw)


def roc_curves(curves: Mapping[str, Roc | None]) -> Markup:
    """Return the ROC of each label that has one, with its area; the others are named as undefined."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color=_INK, linewidth=0.8, linestyle=":")
        for place, (label, curve) in enumerate(curves.items()):
            x, y = (curve.false_positive, curve.true_positive) if curve else ((), ())
            said = f"AUC {curve.auc:.4f}" if curve else "undefined"
            axes.plot(x, y, label=f"{label}: {said}", **_line(place))
        _unit_square(axes, "false positive rate", "true positive rate")
        figure.legend(loc="outside lower center", ncols=2)

    return _svg("roc", "Receiver operating characteristic of each label", (4.6, 5.2), draw)


def reliability_diagram(found: Reliability) -> Markup:
    """Return the observed share of positives against the predicted probability, and the slices per bin below."""

    def draw(figure: Figure) -> None:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        axes.plot((0, 1), (0, 1), color=_INK, linewidth=0.8, linestyle=":")
        axes.plot(found.predicted, found.observed, marker="o", **_line(0))
        _unit_square(axes, "", "share of positive slices")
        below.vlines(found.predicted, 0.5, found.counts, color=SERIES[0], linewidth=5)
        below.set_yscale("log")
        below.set_ylim(bottom=0.5)
        below.set_ylabel("slices")
        below.set_xlabel("predicted probability")

    return _svg("reliability", "Reliability of the probability of any hemorrhage", (4.6, 5.2), draw)


def _line(place: int) -> dict[str, Any]:
    """Return colour and dashes of the `place`-th series, so that colour alone need not tell neighbours apart."""
    return {"color": SERIES[place % len(SERIES)], "linestyle": ("-", (0, (4, 1.5)))[place % 2]}


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))


def _name_stages(axes: Axes, recipe: Recipe, starts: Sequence[int]) -> None:
    narrow = min(stage.epochs for stage in recipe.stage) < 0.2 * recipe.epochs
    how: dict[str, Any] = {"rotation": 25, "ha": "left"} if narrow else {"ha": "center"}
    for stage, start in zip(recipe.stage, starts, strict=True):
        middle = start + (stage.epochs + 1) / 2
        axes.text(middle, 1.03, stage.name, transform=axes.get_xaxis_transform(), fontsize=8, **how)


def _svg(name: str, title: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> Markup:
    """Return the figure of `size` (inches) that `draw` draws, as one `svg` element whose ids begin with `name`."""
    style: Any = _STYLE | {"svg.hashsalt": name}
    with mpl.rc_context():  # puts the process's own settings back
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return _inline(text.getvalue(), name, title)


def _inline(document: str, name: str, title: str) -> Markup:
    """Return the `svg` element of `document`, with page colours and ids of its own."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub("|".join(_CSS), lambda found: _CSS[found.group()], svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1))
