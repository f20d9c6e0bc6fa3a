"""How searched values and their names are written."""

import pytest

from ichx.tuning.wording import headers, told

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
