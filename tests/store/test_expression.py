"""Conditions: their meaning, invalid ones, and that none of them is executed."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.errors import InvalidInputError
from ichx.plugins import load_registry
from ichx.recipe import flatten
from ichx.recipe_text import to_toml
from ichx.store.expression import MAX_LENGTH, parse_expression
from ichx.store.selection import _LINES, FIELD_TYPES, _parse_values, is_recipe_value, recipe_values

VALUES: dict[str, Any] = {
    **dict.fromkeys(FIELD_TYPES),
    "archived": True,
    "folds": 5,
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


def matches(text: str) -> bool:
    return parse_expression(text, FIELD_TYPES, is_recipe_value).matches(VALUES)


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
def test_conditions_have_the_meaning_of_python(text: str, expected: bool) -> None:
    assert matches(text) is expected


numbers = st.sampled_from(["size", "score", "batch", "folds"]) | st.integers(-9, 999).map(str)
strings = st.sampled_from(["name", "state", '"wide"', '"done"', '"id"', "''"])
orders = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
comparisons = (
    st.tuples(numbers, orders, numbers, orders, numbers).map(" ".join)
    | st.tuples(numbers, orders, numbers).map(" ".join)
    | st.tuples(strings, orders, strings).map(" ".join)
    | st.tuples(strings, st.sampled_from(["in", "not in"]), strings).map(" ".join)
    | st.tuples(strings, st.sampled_from(["in", "not in"]), st.sampled_from(["tags", '["wide", "done"]'])).map(" ".join)
    | st.sampled_from(["selected", "archived", "True", "stage == None", "size != None"])
)
negations = "not ({})".format
pairs = "({0[0]}) {0[1]} ({0[2]})".format
conditions = st.recursive(
    comparisons,
    lambda inner: inner.map(negations) | st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(pairs),
    max_leaves=6,
)


@given(conditions)
def test_every_condition_has_the_value_of_pythons_own_evaluation(text: str) -> None:
    assert matches(text) is bool(eval(text, {"__builtins__": {}}, VALUES))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", "''"),
        ("size >=", "'size >='"),
        ("size = 3", "'size = 3'"),
        ("siz > 3", "'siz'"),
        ("input.siz > 3", "'input.siz'"),
        ("stage.full.lrr > 3", "'stage.full.lrr'"),
        ('size > "3"', "size > '3'"),
        ("name < 3", "'name < 3'"),
        ("name", "name is a string"),
        ("3", "3 is a number"),
        ("3 in name", "'3 in name'"),
        ("size in 3", "'size in 3'"),
        ("size is 3", "'size is 3'"),
        ('created > "yesterday"', "'yesterday'"),
        ("size + 1 > 3", "'size + 1'"),
        ("__import__('os').system('true')", "system"),
        ("name.__class__ == 3", "'name.__class__'"),
        ("(lambda: 1)() == 1", "lambda"),
        ("[x for x in tags]", "for x in tags"),
        ("f'{name}' == 'wide'", "{name}"),
        ("name[0] == 'w'", "'name[0]'"),
        ("9 ** 9 ** 9 > 1", "9 ** 9"),
        ("(" * 1500 + "size" + ")" * 300, "((("),
        ("size > 1" + " or size > 1" * 400, "4808"),
        ("\0", r"'\x00'"),
    ],
)
def test_invalid_conditions_are_reported_with_their_part(text: str, value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        matches(text)
    assert value in caught.value.problem
    assert caught.value.remedy


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(InvalidInputError) as caught:
        matches("siz > 3")
    assert "'size'" in caught.value.remedy


def test_deep_nesting_is_evaluated() -> None:
    assert matches("not " * 400 + "selected") is False
    assert len("not " * 400 + "selected") < MAX_LENGTH


@given(st.text(max_size=60) | st.text(alphabet="()[]<>=!'\"andorti szename0123.,-_", max_size=60))
def test_any_text_is_a_condition_or_one_input_error(text: str) -> None:
    try:
        condition = parse_expression(text, FIELD_TYPES, is_recipe_value)
        result = condition.matches(dict.fromkeys(condition.names) | VALUES)
    except InvalidInputError:
        return
    assert isinstance(result, bool)
    assert all(name in text for name in condition.names)


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


_NAMES = {"seed", "batch", "input.size", "loss.size", "stage.full.lr", "stage.a b.lr", "stage.b.name"}
_LINES_OF_RECIPES = """\
seed = 1
batch = [1, 2]
size = 64
lr = 1e-3
name = "full"
name = "a b"
name = 'full'
[input]
[loss]
[[stage]]
x = \"\"\"
x = [
]
size = 1 # [loss]
input.size = 3
input = {size = 3}
 size = 5

seed = "\\n[input]\\nsize = 9"
name = "x = \\"full\\""
[stage]
x = '''
size=7
# size = 8
[ loss ]""".splitlines()


@given(st.lists(st.sampled_from(_LINES_OF_RECIPES), max_size=12), st.sampled_from(("\n", "\r\n")))
def test_values_are_those_of_a_toml_parser_however_the_recipe_is_written(lines: list[str], end: str) -> None:
    text = "".join(line + end for line in lines)
    try:
        expected = _parse_values(text, _NAMES)
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # no recipe
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in expected.items()}
    assert recipe_values(text, _NAMES) == listed


def test_values_of_the_recipes_of_all_plugins() -> None:
    for plugin in load_registry().plugins.values():
        recipe = to_toml(plugin.recipe)
        names = {*flatten(plugin.recipe), "stage.absent.lr", "sequence.width", "ema.decay"} - {"plugin"}
        expected = _parse_values(recipe, names)
        listed = {name: tuple(value) if isinstance(value, list) else value for name, value in expected.items()}
        assert recipe_values(recipe, names) == listed
        assert _LINES.fullmatch(recipe)  # the fast way
