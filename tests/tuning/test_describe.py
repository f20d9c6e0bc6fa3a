"""Text of searched values, their names, and differences between setups."""

import pytest

from ichx.tuning.describe import format_exceeded, format_searched, short_names
from ichx.tuning.study_setup import differences

ALL = ["stage.full.lr", "stage.balanced.lr", "input.windows.2.width", "input.windows.1.width", "model.dropout"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0001234, "0.000123"),
        (2812.5, "2812"),
        (2.5e7, "2.5e+07"),
        (3, "3"),
        ('"linear"', "linear"),
        ("[1, 2]", "[1, 2]"),
        (None, None),
    ],
)
def test_values_are_short(value: float | int | str | None, text: str | None) -> None:
    assert format_searched(value) == text


def test_names_are_short_but_different() -> None:
    assert short_names(ALL[:1], ALL[:1]) == ["lr"]
    assert short_names(ALL[1:3], ALL) == ["balanced.lr", "windows.2.width"]
    assert short_names(ALL[4:], ALL) == ["dropout"]


def test_differences_between_setups_name_options_and_values() -> None:
    created = {"search space": ["a=1..2", "b=1,2"], "folds": "f1", "subset": 0.5, "limits": {"epoch_seconds": 60.0}}
    requested = {"search space": ["a=1..3", "c=1,2"], "folds": "f2", "subset": 1.0, "limits": {}}
    assert differences(created, created) == []
    lines = {line.partition(": ")[0]: line for line in differences(created, requested)}
    values = {"folds": (), "--subset": ("0.5", "1"), "--max-epoch-time": ("60",), "a": ("1..2", "1..3"), "b": ("1,2",)}
    assert lines.keys() == {*values, "c"}
    assert all(value in lines[name] for name, shown in values.items() for value in shown)


def test_many_differences_are_counted() -> None:
    lines = differences({"search space": [f"v{i}=1..2" for i in range(11)]}, {"search space": []})
    assert len(lines) == 9
    assert "3" in lines[-1]


def test_limits_have_names() -> None:
    assert format_exceeded(("epoch_seconds", "memory_gb")) == "over time, memory"
