"""The diagrams of a study: scores by trial and by value, and all values of the trials side by side."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from markupsafe import Markup

from ichx.report.chart import RIGHT, WIDTH, Axis, Panel, Series, chart, linear_axis, log_axis, whole_axis
from ichx.tuning.budget import Value
from ichx.tuning.describe import format_searched, short_names

if TYPE_CHECKING:
    from ichx.tuning.results import StudyView, TrialView, ValueFindings

SLICES = 6
"""How many values have a diagram of their own, those that matter most."""

COLUMN = 104.0
COLUMNS = 8
LINES = 300
"""Where values stand side by side: a column's width in units of the drawing, how many there are, and for how many
trials."""

DONE, PRUNED, FAILED, OVER, BEST, OTHER = 1, 7, 0, 3, 2, 7
"""The colours of the trials, as `Series` counts them."""


def history(view: "StudyView", name: str) -> Markup:
    """Return the score of each trial in the order of the trials, with the best one so far."""
    y = score_axis(view)
    x = whole_axis(1, max(t.trial for t in view.trials) + 1, "trial")
    best, lowest = [], math.inf
    for trial in view.trials:
        lowest = min(lowest, trial.score) if trial.eligible and trial.score is not None else lowest
        if lowest < math.inf:
            best.append((_place(trial), min(lowest, y.high)))
    said = [f"best of the trials to {trial:.0f}: {score:.5f}" for trial, score in best]
    series = [Series(best, said, BEST, kind="step")]
    series += _by_state(view.trials, _place, y)
    failed = [t for t in view.trials if t.state == "failed"]
    edge = [(_place(t), y.high) for t in failed]
    series.append(Series(edge, [f"{_whose(t)} failed" for t in failed], FAILED, kind="crosses"))
    baseline = view.baseline
    guides = []
    if baseline is not None and baseline.score is not None and baseline.score <= y.high:
        guides.append(((x.low, baseline.score), (x.high, baseline.score)))
    told_best = "none is done" if view.best is None else f"the best is {_whose(view.best)} at {view.best.score:.5f}"
    described = f"{len(view.trials)} trials; {told_best}"
    return chart(name, "Score of each trial", described, [Panel(x, y, series, 210.0, guides)])


def slices(view: "StudyView", name: str) -> list[tuple[str, Markup]]:
    """Return, by the name of each value that matters most, the trials' scores over it."""
    y = score_axis(view)
    found = []
    for place, learned in enumerate(view.learned[:SLICES]):
        tried = [t for t in _scored(view.trials) if learned.name in t.values]
        x = value_axis(learned, tried, learned.name)
        drawn = [t for t in tried if _at(learned, x, t.values[learned.name]) is not None]
        if not drawn:
            continue
        series = _by_state(drawn, partial(_value_at, learned, x), y, learned.name)
        as_is = None if learned.as_is is None else _at(learned, x, learned.as_is)
        guides = [] if as_is is None or not 0 <= x.share(as_is) <= 1 else [((as_is, y.low), (as_is, y.high))]
        scale = ", logarithmically" if x.log else ""
        described = f"scores of {len(drawn)} trials over {learned.name}{scale}"
        panel = Panel(x, y, series, 180.0, guides)
        found.append((learned.name, chart(f"{name}-{place}", f"Score over {learned.name}", described, [panel])))
    return found


def parallel(view: "StudyView", name: str) -> tuple[Markup, float] | None:
    """Return a line for each done trial across an axis for each value that matters most, and the drawing's width.

    The last axis is the score. None where fewer than two trials have all values.
    """
    y = score_axis(view)
    most = view.learned[:COLUMNS]
    names = [learned.name for learned in most]
    whole = [t for t in view.trials if t.eligible and set(names) <= t.values.keys()]
    whole = sorted(whole, key=lambda t: (t.score or 0.0, t.trial))[:LINES]
    axes = [value_axis(learned, whole, "") for learned in most]
    lines = []
    for trial in whole:
        places = [_at(one, axis, trial.values[one.name]) for one, axis in zip(most, axes, strict=True)]
        shares = [math.nan if at is None else axis.share(at) for at, axis in zip(places, axes, strict=True)]
        lines.append([*shares, y.share(min(trial.score or 0.0, y.high))])
    if len(lines) < 2:
        return None
    quarter = math.ceil(len(lines) / 4)
    series = []
    for place in reversed(range(len(lines))):  # the best ones over the others
        trial = whole[place]
        said = [f"{_whose(trial)}, score {trial.score:.5f}: {n} {format_searched(trial.values[n])}" for n in names]
        said.append(f"{_whose(trial)}: score {trial.score:.5f}")
        points = [(float(i), share) for i, share in enumerate(lines[place])]
        good = place < quarter
        series.append(Series(points, said, BEST if good else OTHER, kind="line" if good else "faint"))
    ends = [_ends(one, axis) for one, axis in zip(most, axes, strict=True)]
    ends.append(f"{_round(y.low)} – {_round(y.high)}")
    columns = [*short_names(names, [learned.name for learned in view.learned]), "score"]
    x = Axis(-0.5, len(columns) - 0.5, "", tuple((float(i), end) for i, end in enumerate(ends)))
    notes = [(float(i), column) for i, column in enumerate(columns)]
    width = max(WIDTH, 8 + RIGHT + COLUMN * len(columns))
    described = f"{len(lines)} done trials over {', '.join(names)} and the score; the best quarter stands out"
    panel = Panel(x, Axis(0.0, 1.0, "", ()), series, 220.0, notes=notes)
    return chart(name, "Values of the trials side by side", described, [panel], width=width, left=8.0), width


def score_axis(view: "StudyView") -> Axis:
    """Return an axis of scores on which those near the best one can be told apart; worse ones stand at its end."""
    scores = sorted(t.score or 0.0 for t in _scored(view.trials))
    if not scores:
        return linear_axis(0.0, 1.0, "score")
    low, upper = scores[0], scores[min(len(scores) - 1, math.ceil(0.75 * len(scores)))]
    return linear_axis(low, min(scores[-1], low + 3 * (upper - low)), "score")


def beyond(view: "StudyView") -> int:
    """Return how many trials have a score over the end of `score_axis`."""
    high = score_axis(view).high
    return sum((t.score or 0.0) > high for t in _scored(view.trials))


def value_axis(learned: "ValueFindings", trials: "Sequence[TrialView]", title: str) -> Axis:
    """Return the axis of a searched value, wide enough for the recipe's own; choices stand side by side."""
    if learned.choices:
        choices = _choices(learned)
        ticks = tuple((float(i), str(format_searched(choice))) for i, choice in enumerate(choices))
        return Axis(-0.5, len(choices) - 0.5, title, ticks)
    values = [float(t.values[learned.name]) for t in trials]
    values = [v for v in values if v > 0 or not learned.log]
    assert learned.low is not None
    assert learned.high is not None
    low, high = min([learned.low, *values]), max([learned.high, *values])
    return log_axis(low, high, title) if learned.log else linear_axis(low, high, title)


def _choices(learned: "ValueFindings") -> list[str]:
    own = [str(learned.as_is)] if learned.as_is is not None and str(learned.as_is) not in learned.choices else []
    return [*learned.choices, *own]


def _at(learned: "ValueFindings", axis: Axis, value: Value) -> float | None:
    """Return where `value` stands on the axis; None for one that it cannot have, such as 0 on a logarithmic one."""
    if learned.choices:
        return float(_choices(learned).index(str(value))) if str(value) in _choices(learned) else None
    number = float(value)
    return None if axis.log and number <= 0 else number


def _value_at(learned: "ValueFindings", axis: Axis, trial: "TrialView") -> float:
    at = _at(learned, axis, trial.values[learned.name])
    assert at is not None
    return at


def _by_state(
    trials: "Sequence[TrialView]", where: "Callable[[TrialView], float]", y: Axis, value: str = ""
) -> list[Series]:
    """Return trials with a score: done ones as dots, those over a limit in another colour, the others as rings."""
    found = []
    scored = _scored(trials)
    done = [t for t in scored if t.state == "done"]
    for colour, kind, what, these in (
        (PRUNED, "rings", "last score", [t for t in scored if t.state != "done"]),
        (OVER, "dots", "over a limit, score", [t for t in done if t.exceeded]),
        (DONE, "dots", "score", [t for t in done if not t.exceeded]),
    ):
        points = [(where(t), min(t.score or 0.0, y.high)) for t in these]
        said = [
            f"{_whose(t)}{', the recipe as it is' * t.baseline}{f', {t.state}' if t.state != 'done' else ''}: "
            f"{what} {t.score:.5f}" + (f", {value} {format_searched(t.values[value])}" if value else "")
            for t in these
        ]
        found.append(Series(points, said, colour, kind=kind))
    return found


def _ends(learned: "ValueFindings", axis: Axis) -> str:
    if learned.choices:
        return ", ".join(str(format_searched(choice)) for choice in _choices(learned))
    return f"{_round(axis.low)} – {_round(axis.high)}"


def _round(value: float) -> str:
    return str(format_searched(value))


def _scored(trials: "Sequence[TrialView]") -> "list[TrialView]":
    """Return the trials that have a score to be drawn; what a failed one reported is none."""
    return [t for t in trials if t.score is not None and t.state != "failed"]


def _place(trial: "TrialView") -> float:
    """Return where a trial stands in their order, from 1."""
    return trial.trial + 1.0


def _whose(trial: "TrialView") -> str:
    return f"trial {trial.trial + 1}" + (f", experiment {trial.experiment}" if trial.experiment is not None else "")
