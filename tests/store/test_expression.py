"""Conditions: what they mean, what they refuse, and that nothing of them is executed."""

import contextlib
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.errors import IchxError
from ichx.store.expression import parse_expression
from ichx.store.selection import KINDS, Selection, is_recipe_value, recipe_values

VALUES: dict[str, Any] = {
    "name": "wide",
    "size": 378,
    "score": 0.06,
    "selected": False,
    "tags": ("best", "paper"),
    "created": datetime(2026, 11, 24, 12).astimezone(),
    "state": "done",
    "stage": None,
    "batch": 32,
    "input.windows": ((40.0, 80.0),),
    "model.dropout": None,
}


def met(text: str) -> bool:
    return parse_expression(text, KINDS, is_recipe_value).matches(VALUES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size >= 378", True),
        ("size > 378", False),
        ("300 < size < 400", True),
        ('name == "wide" and score < 0.1', True),
        ('name != "wide" or not score < 0.1', False),
        ("selected", False),
        ("not selected", True),
        ("selected == False", True),
        ('"best" in tags', True),
        ('"worst" not in tags', True),
        ('state in ("done", "failed")', True),
        ('state in ["failed"]', False),
        ('"id" in name', True),
        ("stage == None", True),
        ('stage == "full"', False),
        ("batch == 32", True),
        ("batch > -1", True),
        ("model.dropout < 0.5", False),
        ('created >= "2026-11-24"', True),
        ('created < "2026-11-24"', False),
        ("(size == 1 or size == 378) and score <= 6e-2", True),
        ("True", True),
    ],
)
def test_a_condition_means_what_it_says(text: str, expected: bool) -> None:
    assert met(text) is expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot be read"),
        ("size >=", "cannot be read"),
        ("size = 3", "cannot be read"),
        ("siz > 3", "'size'"),
        ("input.siz > 3", "no value 'input.siz'"),
        ("stage.full.lrr > 3", "no value 'stage.full.lrr'"),
        ('size > "3"', "a number with a text"),
        ("name < 3", "a text with a number"),
        ("name", "a text, no condition"),
        ("3", "a number, no condition"),
        ("3 in name", "`in` looks for"),
        ("size in 3", "`in` looks for"),
        ("size is 3", "compares with"),
        ('created > "yesterday"', "no date"),
        ("size + 1 > 3", "cannot have 'size + 1'"),
        ("__import__('os').system('true')", "cannot have"),
        ("name.__class__ == 3", "no value"),
        ("(lambda: 1)() == 1", "cannot have"),
        ("[x for x in tags]", "cannot have"),
        ("f'{name}' == 'wide'", "cannot have"),
        ("name[0] == 'w'", "cannot have"),
        ("9 ** 9 ** 9 > 1", "cannot have"),
        ("(" * 1500 + "size" + ")" * 300, "cannot be read"),
        ("not " * 400 + "selected", ""),
        ("size > 1" + " or size > 1" * 400, "characters"),
        ("\0", "cannot be read"),
    ],
)
def test_what_is_no_condition_is_refused_with_a_line(text: str, told: str) -> None:
    if not told:
        assert isinstance(met(text), bool)
        return
    with pytest.raises(IchxError) as error:
        met(text)
    assert told in error.value.problem + error.value.remedy


@given(st.text(max_size=60) | st.text(alphabet="()[]<>=!'\"andorti szename0123.,-_", max_size=60))
def test_any_text_is_a_condition_or_one_clear_error(text: str) -> None:
    with contextlib.suppress(IchxError):
        met(text)


def test_values_of_recipes() -> None:
    recipe = 'batch = 8\n[input]\nsize = 64\nwindows = [[1.0, 2.0]]\n[[stage]]\nname = "full"\nlr = 1e-3\n'
    names = {"batch", "input.size", "input.windows", "stage.full.lr", "stage.other.lr", "model.dropout"}
    assert recipe_values(recipe, names) == {
        "batch": 8,
        "input.size": 64,
        "input.windows": ([1.0, 2.0],),
        "stage.full.lr": 1e-3,
        "stage.other.lr": None,
        "model.dropout": None,
    }


def test_a_selection_is_checked_when_it_is_made() -> None:
    for wrong in ({"states": ("runing",)}, {"where": "nothing > 1"}, {"sort": "-nothing"}):
        with pytest.raises(IchxError):
            Selection(**wrong)  # type: ignore[arg-type]
