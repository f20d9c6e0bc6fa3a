"""The diagrams of an Optuna study: scores by trial, scores over each value, parallel coordinates."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from ichx.report.chart import RIGHT, WIDTH, Axis, Panel, Series, chart, integer_axis, linear_axis, log_axis
from ichx.tuning.budget import Value
from ichx.tuning.describe import format_searched, short_names

if TYPE_CHECKING:
    from ichx.tuning.results import StudyView, ValueFindings
    from ichx.tuning.trial_view import TrialView

VALUE_PLOTS = 6
"""Number of the most important values that have a diagram each."""

COLUMN_WIDTH = 104.0
COLUMNS = 8
LINES = 300
"""Parallel coordinates: width of a column in units of the drawing, maximum numbers of values and of trials."""

DONE, PRUNED, FAILED, OVER, BEST, OTHER = 1, 7, 0, 3, 2, 7
"""Colours of the trials, see `Series.colour`."""


def history(view: "StudyView", name: str) -> Markup:
    """Return the score of each trial in order, and the best score so far."""
    y = score_axis(view)
    x = integer_axis(1, max(t.trial for t in view.trials) + 1, "trial")
    best, lowest = [], math.inf
    for trial in view.trials:
        lowest = min(lowest, trial.score) if trial.eligible and trial.score is not None else lowest
        if lowest < math.inf:
            best.append((_position(trial), min(lowest, y.high)))
    tooltips = [f"best of trials 1 to {trial:.0f}: {score:.5f}" for trial, score in best]
    series = [Series(best, tooltips, BEST, kind="step")]
    series += _series_by_state(view.trials, _position, y)
    failed = [t for t in view.trials if t.state == "failed"]
    edge = [(_position(t), y.high) for t in failed]
    series.append(Series(edge, [f"{_trial_name(t)} failed" for t in failed], FAILED, kind="crosses"))
    baseline = view.baseline
    guides = []
    if baseline is not None and baseline.score is not None and baseline.score <= y.high:
        guides.append(((x.low, baseline.score), (x.high, baseline.score)))
    best_text = (
        "none is done" if view.best is None else f"the best is {_trial_name(view.best)} at {view.best.score:.5f}"
    )
    description = f"{len(view.trials)} trials; {best_text}."
    return chart(name, "Score of each trial", description, [Panel(x, y, series, 210.0, guides)])


def value_plots(view: "StudyView", name: str) -> list[tuple[str, Markup]]:
    """Return the name of each of the most important values with a diagram of the trials' scores over it."""
    y = score_axis(view)
    found = []
    for index, learned in enumerate(view.learned[:VALUE_PLOTS]):
        scored = [t for t in _scored(view.trials) if learned.name in t.values]
        x = value_axis(learned, scored, learned.name)
        drawn = [t for t in scored if _coordinate(learned, x, t.values[learned.name]) is not None]
        if not drawn:
            continue
        series = _series_by_state(drawn, partial(_trial_coordinate, learned, x), y, learned.name)
        unchanged = None if learned.as_is is None else _coordinate(learned, x, learned.as_is)
        visible = unchanged is not None and 0 <= x.fraction(unchanged) <= 1
        guides = [((unchanged, y.low), (unchanged, y.high))] if unchanged is not None and visible else []
        scale = " on a logarithmic axis" if x.log else ""
        description = f"Scores of {len(drawn)} trials over {learned.name}{scale}."
        panel = Panel(x, y, series, 180.0, guides)
        found.append((learned.name, chart(f"{name}-{index}", f"Score over {learned.name}", description, [panel])))
    return found


def parallel_coordinates(view: "StudyView", name: str) -> tuple[Markup, float] | None:
    """Return a diagram with a line per done trial across the most important values and the score.

    Returns:
        The diagram and its width, or None if fewer than two trials have all values.
    """
    y = score_axis(view)
    columns = view.learned[:COLUMNS]
    names = [learned.name for learned in columns]
    trials = [t for t in view.trials if t.eligible and set(names) <= t.values.keys()]
    trials = sorted(trials, key=lambda t: (t.score or 0.0, t.trial))[:LINES]
    axes = [value_axis(learned, trials, "") for learned in columns]
    lines = []
    for trial in trials:
        values = [_coordinate(one, axis, trial.values[one.name]) for one, axis in zip(columns, axes, strict=True)]
        fractions = [math.nan if at is None else axis.fraction(at) for at, axis in zip(values, axes, strict=True)]
        lines.append([*fractions, y.fraction(min(trial.score or 0.0, y.high))])
    if len(lines) < 2:
        return None
    quarter = math.ceil(len(lines) / 4)
    series = []
    for rank in reversed(range(len(lines))):  # draws the best ones on top
        trial = trials[rank]
        who = _trial_name(trial)
        tooltips = [f"{who}, score {trial.score:.5f}: {n} {format_searched(trial.values[n])}" for n in names]
        tooltips.append(f"{who}: score {trial.score:.5f}")
        points = [(float(i), fraction) for i, fraction in enumerate(lines[rank])]
        good = rank < quarter
        series.append(Series(points, tooltips, BEST if good else OTHER, kind="line" if good else "faint"))
    ends = [_axis_ends(one, axis) for one, axis in zip(columns, axes, strict=True)]
    ends.append(f"{format_searched(y.low)} – {format_searched(y.high)}")
    titles = [*short_names(names, [learned.name for learned in view.learned]), "score"]
    x = Axis(-0.5, len(titles) - 0.5, "", tuple((float(i), end) for i, end in enumerate(ends)))
    notes = [(float(i), title) for i, title in enumerate(titles)]
    width = max(WIDTH, 8 + RIGHT + COLUMN_WIDTH * len(titles))
    description = f"{len(lines)} done trials over {', '.join(names)} and the score; the best quarter is highlighted."
    panel = Panel(x, Axis(0.0, 1.0, "", ()), series, 220.0, notes=notes)
    return chart(name, "Parallel coordinates of the trials", description, [panel], width=width, left=8.0), width


def score_axis(view: "StudyView") -> Axis:
    """Return an axis that resolves the scores near the best one; much worse scores are drawn at its high end."""
    scores = sorted(t.score or 0.0 for t in _scored(view.trials))
    if not scores:
        return linear_axis(0.0, 1.0, "score")
    low, upper = scores[0], scores[min(len(scores) - 1, math.ceil(0.75 * len(scores)))]
    return linear_axis(low, min(scores[-1], low + 3 * (upper - low)), "score")


def clipped_count(view: "StudyView") -> int:
    """Return the number of trials with a score over the high end of `score_axis`."""
    high = score_axis(view).high
    return sum((t.score or 0.0) > high for t in _scored(view.trials))


def value_axis(learned: "ValueFindings", trials: "Sequence[TrialView]", title: str) -> Axis:
    """Return the axis of a searched value, which includes the values of `trials`; choices are one unit apart."""
    if learned.choices:
        choices = _choices(learned)
        ticks = tuple((float(i), str(format_searched(choice))) for i, choice in enumerate(choices))
        return Axis(-0.5, len(choices) - 0.5, title, ticks)
    values = [float(t.values[learned.name]) for t in trials]
    values = [v for v in values if v > 0 or not learned.log]
    assert learned.low is not None
    assert learned.high is not None
    low, high = min([learned.low, *values]), max([learned.high, *values])
    if learned.off:
        low = low / 2 if learned.log else 0.0  # "off" is drawn at the low end
    return log_axis(low, high, title) if learned.log else linear_axis(low, high, title)


def _choices(learned: "ValueFindings") -> list[str]:
    """Return the searched choices, and the unchanged recipe's value if it is none of them."""
    unchanged = [] if learned.as_is is None or str(learned.as_is) in learned.choices else [str(learned.as_is)]
    return [*learned.choices, *unchanged]


def _coordinate(learned: "ValueFindings", axis: Axis, value: Value) -> float | None:
    """Return the coordinate of `value` on `axis`; None if it has none, e.g. 0 on a logarithmic axis without `off`."""
    if learned.choices:
        return float(_choices(learned).index(str(value))) if str(value) in _choices(learned) else None
    number = float(value)
    if axis.log and number <= 0:
        return axis.low if learned.off else None
    return number


def _trial_coordinate(learned: "ValueFindings", axis: Axis, trial: "TrialView") -> float:
    coordinate = _coordinate(learned, axis, trial.values[learned.name])
    assert coordinate is not None
    return coordinate


def _series_by_state(
    trials: "Sequence[TrialView]", x: "Callable[[TrialView], float]", y: Axis, value: str = ""
) -> list[Series]:
    """Return the scored trials: done ones as dots, those over a limit in another colour, the others as rings."""
    found = []
    scored = _scored(trials)
    variants: tuple[tuple[int, Literal["dots", "rings"], str, list[TrialView]], ...]
    done = [t for t in scored if t.state == "done"]
    variants = (
        (PRUNED, "rings", "last score", [t for t in scored if t.state != "done"]),
        (OVER, "dots", "over a limit, score", [t for t in done if t.exceeded]),
        (DONE, "dots", "score", [t for t in done if not t.exceeded]),
    )
    for colour, kind, what, selected in variants:
        points = [(x(t), min(t.score or 0.0, y.high)) for t in selected]
        tooltips = [
            f"{_trial_name(t)}{', unchanged recipe' * t.baseline}{f', {t.state}' if t.state != 'done' else ''}: "
            f"{what} {t.score:.5f}" + (f", {value} {format_searched(t.values[value])}" if value else "")
            for t in selected
        ]
        found.append(Series(points, tooltips, colour, kind=kind))
    return found


def _axis_ends(learned: "ValueFindings", axis: Axis) -> str:
    if learned.choices:
        return ", ".join(str(format_searched(choice)) for choice in _choices(learned))
    return f"{format_searched(axis.low)} – {format_searched(axis.high)}"


def _scored(trials: "Sequence[TrialView]") -> "list[TrialView]":
    """Return the trials with a score, without failed ones, which may have reported some."""
    return [t for t in trials if t.score is not None and t.state != "failed"]


def _position(trial: "TrialView") -> float:
    """Return the position of a trial in their order, from 1."""
    return trial.trial + 1.0


def _trial_name(trial: "TrialView") -> str:
    return f"trial {trial.trial + 1}" + (f", experiment {trial.experiment}" if trial.experiment is not None else "")
