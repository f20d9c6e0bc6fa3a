"""Draws the tables of `ichx.publish.figure_data` with matplotlib, and nothing that is not in them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from ichx.labels import LABELS
from ichx.publish.figure_style import COLUMN, INK, LINE, PAGE, QUIET, new_figure, series_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS: Final = 3
"""Panels side by side on a page."""
_BAND: Final = 0.22
"""Opacity of a band."""

_NAME: Final = 56
"""Characters of a group in the forest plot."""
_PLACES: Final = (0.0, 0.5)
"""Where the columns of numbers of the forest plot start."""

Frame = pd.DataFrame


@dataclass(frozen=True)
class CurveKind:
    """What a figure of curves shows."""

    x: str
    y: str
    """Titles of the axes."""
    draw: "Callable[[Axes, Frame, str], None]"
    """Draws the rows of one label in a colour."""


def curve_figure(table: Frame, kind: CurveKind, labels: Sequence[str]) -> "Figure":
    """Return a figure with a panel per label: one in a column, several on a page."""
    shown = [label for label in labels if (table["label"] == label).any()] or list(labels[:1])
    single = len(shown) == 1
    total = COLUMN if single else PAGE
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(total, rows * (total / columns * (0.92 if single else 1.05)))
    panels = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(panels.flat):
        if index >= len(shown):
            axes.set_axis_off()
            continue
        label = shown[index]
        axes.set_xlabel(kind.x)
        if index % columns == 0:
            axes.set_ylabel(kind.y)
        axes.set_title(label, loc="left")
        axes.grid(color=LINE, linewidth=0.4)
        axes.set_axisbelow(True)
        kind.draw(axes, table[table["label"] == label], series_colours()[LABELS.index(label)])
    return figure


def _draw_banded(axes: "Axes", rows: Frame, colour: str, *, step: bool, area: str, place: tuple[float, float]) -> None:
    band, curve = rows[rows["series"] == "band"], rows[rows["series"] == "curve"]
    if band["low"].notna().any():
        axes.fill_between(
            band["x"], band["low"], band["high"], color=colour, alpha=_BAND, linewidth=0, step="pre" if step else None
        )
    axes.plot(curve["x"], curve["y"], color=colour, drawstyle="steps-pre" if step else "default")
    for one in _records(rows[rows["series"] == "area"]):
        text = f"{area} {format_interval(one.y, one.low, one.high)}"
        axes.text(*place, text, transform=axes.transAxes, ha="right" if place[0] > 0.5 else "left", va="bottom")
    _unit_square(axes)


def _draw_roc(axes: "Axes", rows: Frame, colour: str) -> None:
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.6, linestyle=(0, (1, 2)))
    _draw_banded(axes, rows, colour, step=False, area="AUC", place=(0.97, 0.05))


def _draw_precision_recall(axes: "Axes", rows: Frame, colour: str) -> None:
    _draw_banded(axes, rows, colour, step=True, area="AP", place=(0.04, 0.05))


def _draw_reliability(axes: "Axes", rows: Frame, colour: str) -> None:
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.6, linestyle=(0, (1, 2)))
    known = rows[rows["low"].notna()]
    axes.vlines(known["x"], known["low"], known["high"], color=colour, linewidth=0.8)
    axes.plot(rows["x"], rows["y"], color=colour, marker="o", markersize=2.5, linewidth=0.8)
    _unit_square(axes)


def _draw_decision(axes: "Axes", rows: Frame, colour: str) -> None:
    model, everyone = rows[rows["series"] == "model"], rows[rows["series"] == "all"]
    if model["low"].notna().any():
        axes.fill_between(model["x"], model["low"], model["high"], color=colour, alpha=_BAND, linewidth=0)
    axes.plot(everyone["x"], everyone["y"], color=QUIET, linewidth=0.8, linestyle=(0, (4, 2)), label="act on all")
    axes.axhline(0, color=QUIET, linewidth=0.8, linestyle=(0, (1, 1)), label="act on none")
    axes.plot(model["x"], model["y"], color=colour, label="model")
    top = float(np.nanmax([model["high"].max(), model["y"].max(), 0.01]))
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.25 * top, 1.1 * top)
    axes.legend(frameon=False, loc="upper right")


ROC: Final = CurveKind("false positive rate", "sensitivity", _draw_roc)
PRECISION_RECALL: Final = CurveKind("recall", "precision", _draw_precision_recall)
RELIABILITY: Final = CurveKind("predicted probability", "share of positives", _draw_reliability)
DECISION: Final = CurveKind("threshold probability", "net benefit", _draw_decision)


def forest_figure(table: Frame, label: str, unit: str) -> "Figure":
    """Return the AUC of each group with its interval; groups without an interval are grey circles."""
    fields = table["field"].tolist()
    heights, y = [], 0.0
    for index, field in enumerate(fields):
        y += 1.0 + (0.7 if index and field != fields[index - 1] else 0.0)
        heights.append(y)
    figure = new_figure(PAGE, 16 + 4.2 * (heights[-1] + 1))
    axes, numbers = figure.subplots(1, 2, width_ratios=(1.5, 1), sharey=True)
    numbers.set_axis_off()
    numbers.set_xlim(0, 1)
    colour = series_colours()[LABELS.index(label)]
    groups = _records(table)
    for one, at in zip(groups, heights, strict=True):
        known = not (math.isnan(one.low) or math.isnan(one.high))
        if known:
            axes.hlines(at, one.low, one.high, color=colour, linewidth=1)
        if not math.isnan(one.auc):
            style: dict[str, Any] = {"color": colour} if known else {"markerfacecolor": "white", "color": QUIET}
            axes.plot([one.auc], [at], marker="s" if one.field == "" else "o", markersize=3.5, **style)
        texts = (f"{one.positives:,} / {one.rows:,}", format_interval(one.auc, one.low, one.high))
        for place, text in zip(_PLACES, texts, strict=True):
            numbers.text(place, at, text, va="center", color=INK if known else QUIET)
    for place, text in zip(_PLACES, ("positive / all", "AUC"), strict=True):
        numbers.text(place, 0.1, text, va="center", color=QUIET)
    overall = table["auc"].iloc[0]
    if not math.isnan(overall):
        axes.axvline(overall, color=QUIET, linewidth=0.6, linestyle=(0, (1, 2)))
    names = [one.group if not one.field else f"{one.field.replace('_', ' ')}: {one.group}" for one in groups]
    axes.set_yticks(heights, [name if len(name) <= _NAME else f"{name[: _NAME - 3]}..." for name in names])
    axes.set_ylim(heights[-1] + 1, -0.4)
    low = float(np.nanmin([table["low"].min(), table["auc"].min(), 0.95]))
    axes.set_xlim(max(0.0, math.floor(20 * low) / 20), 1.005)
    axes.set_xlabel(f"AUC of {label} per {unit}, 95 % interval over patients")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def format_interval(value: float, low: float, high: float) -> str:
    """Return e.g. `0.912 (0.880-0.941)`."""
    if math.isnan(value):
        return "undefined"
    return f"{value:.3f}" + ("" if math.isnan(low) or math.isnan(high) else f" ({low:.3f}-{high:.3f})")


def _records(table: Frame) -> list[Any]:
    return list(table.itertuples())


def _unit_square(axes: "Axes") -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
