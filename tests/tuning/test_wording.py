"""How searched values and their names are written."""

import pytest

from ichx.tuning.describe import headers, over, told
from ichx.tuning.setup import differences

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
    ],
)
def test_values_are_short(value: float | int | str, text: str) -> None:
    assert told(value) == text
    assert told(None) is None


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    assert headers(ALL[:1], ALL[:1]) == ["lr"]
    assert headers(ALL[1:3], ALL) == ["balanced.lr", "windows.2.width"]
    assert headers(ALL[4:], ALL) == ["dropout"]


def test_what_differs_between_two_setups_is_told_as_options() -> None:
    made = {"search space": ["a=1..2", "b=1,2"], "folds": "f1", "subset": 0.5, "limits": {"epoch_seconds": 60.0}}
    asked = {"search space": ["a=1..3", "c=1,2"], "folds": "f2", "subset": 1.0, "limits": {}}
    assert differences(made, made) == []
    assert differences(made, asked) == [
        "it searches a=1..2, not 1..3",
        "it also searches b=1,2",
        "it does not search c",
        "its folds are others",
        "it was made with --subset 0.5, not with --subset 1",
        "it was made with --max-epoch-time 60s, not without --max-epoch-time",
    ]


def test_many_searched_values_that_differ_are_counted() -> None:
    (line,) = differences({"search space": [f"v{i}=1..2" for i in range(9)]}, {"search space": []})
    assert line.endswith("v5=1..2; and 3 other values")


def test_limits_have_names_for_people() -> None:
    assert over(("epoch_seconds", "memory_gb")) == "over time, memory"
