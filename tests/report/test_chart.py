"""Axes have round ticks within their range; charts draw points in the right position and escape their text."""

import json
import re
import subprocess
import sys
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ichx.report
from ichx.report import build, inference_pages
from ichx.report.chart import Axis, Panel, Series, chart, integer_axis, linear_axis, log_axis

numbers = st.floats(-1e6, 1e6).map(lambda v: round(v, 6))


@given(numbers, numbers)
def test_linear_axes_cover_their_values_with_round_ticks(first: float, second: float) -> None:
    low, high = sorted((first, second))
    axis = linear_axis(low, high, "")
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low <= low + slack
    assert axis.high >= high - slack
    assert 2 <= len(axis.ticks) <= 8
    assert [v for v, _ in axis.ticks][:: len(axis.ticks) - 1] == pytest.approx([axis.low, axis.high])
    assert all(float(text) == pytest.approx(value, abs=slack) for value, text in axis.ticks)


@given(st.integers(-9, 5), st.integers(0, 9), st.floats(1, 9.9))
def test_logarithmic_axes_cover_their_values(power: int, more: int, factor: float) -> None:
    low, high = factor * 10.0**power, factor * 10.0 ** (power + more)
    axis = log_axis(low, high, "")
    assert axis.low <= low * (1 + 1e-9)
    assert axis.high >= high * (1 - 1e-9)
    assert 1 <= len(axis.ticks) <= 6
    assert axis.fraction(low) + 1e-9 >= 0
    assert axis.fraction(high) <= 1 + 1e-9


@given(st.integers(1, 10_000))
def test_integer_axes_have_few_integer_ticks(last: int) -> None:
    axis = integer_axis(1, last, "epoch")
    assert (axis.low, axis.high) == (0.5, last + 0.5)
    assert 1 <= len(axis.ticks) <= 9
    assert all(text == str(int(value)) for value, text in axis.ticks)


def test_tooltips_have_the_positions_of_drawn_points() -> None:
    axis = Axis(0.0, 1.0, "share", ((0.0, "0"), (1.0, "1")))
    points = [(0.0, 0.0), (0.5, float("nan")), (1.0, 1.0)]
    series = Series(points, ["first", "no number", '<last> & "least"'], 3, label="any", kind="marked")
    drawn = str(chart("c", "A <title>", "description", [Panel(axis, axis, [series], 100.0)], width=200, left=50))
    data = json.loads(unescape(re.search(r'data-points="([^"]*)"', drawn)[1]))  # type: ignore[index]
    assert data == [{"label": "any", "at": [[50, 112], [182, 12]], "tooltips": ["first", '<last> & "least"']}]
    assert "A &lt;title&gt;" in drawn
    assert '<path class="line" d="M50 112M182 12"/>' in drawn  # interrupted at the NaN
    assert re.findall(r'<circle class="dot" cx="(\S+)" cy="(\S+)"', drawn) == [("50", "112"), ("182", "12")]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("line", '<path class="line" d="M50 112L116 62"/>'),
        ("step", '<path class="line" d="M-16 112H116V62H182"/>'),
        ("bars", '<path class="bar" d="M50 112V112"/><path class="bar" d="M116 112V62"/>'),
        ("faint", 'class="series c0 thin"><path class="line" d="M50 112L116 62"/>'),
        ("rings", '<circle class="ring" cx="50" cy="112" r="2.6"/><circle class="ring" cx="116" cy="62" r="2.6"/>'),
        ("crosses", '<path class="line" d="M116 62l3.5 3.5m0 -7l-7 7m0 -7l3.5 3.5"/>'),
    ],
)
def test_kinds_of_series(kind: str, shape: str) -> None:
    axis = Axis(0.0, 1.0, "", ())
    panel = Panel(axis, axis, [Series([(0, 0), (0.5, 0.5)], ["a", "b"], 0, kind=kind)], 100.0)
    assert shape in str(chart("c", "t", "d", [panel], width=200, left=50))


def test_charts_and_plots_need_no_heavy_library() -> None:
    """The web app draws charts in a process that must stay small."""
    modules = ("", ".chart", ".curves", ".plots", ".tuning_plots")
    heavy = ("torch", "pandas", "scipy", "pyarrow", "cv2", "optuna", "timm", "alembic")
    imports = "".join(f"import ichx.report{module}; " for module in modules)
    code = f"import sys; {imports}print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_exports_its_public_names() -> None:
    assert ichx.report.write_report is build.write_report
    assert ichx.report.WrittenReport is build.WrittenReport
    assert ichx.report.write_evaluation_report is inference_pages.write_evaluation_report
    assert ichx.report.write_prediction_report is inference_pages.write_prediction_report
    with pytest.raises(AttributeError, match="render_everything"):
        _ = ichx.report.render_everything
