"""Conditions on experiments for `--where`, e.g. `plugin == "resnext50" and size >= 378`. What they select: `selection`.

Python's parser parses the text, and this module interprets the tree; nothing is executed. A condition consists of
names, strings, numbers, True, False, None, lists of these, == != < <= > >= in, not in, and, or, not, and parentheses.
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ichx.errors import InvalidInputError, did_you_mean

MAX_LENGTH: Final = 2000
"""Maximum number of characters of a condition."""

Values = Mapping[str, Any]
_Reader = Callable[[Values], Any]

_ORDER: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_OPERATORS: Mapping[type, str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
}
_TYPE_NAMES = {str: "a string", float: "a number", bool: "True or False", datetime: "a date", tuple: "a list"}
_EXAMPLE = """Use e.g. 'plugin == "resnext50" and size >= 378 and "best" in tags'."""


@dataclass(frozen=True)
class Expression:
    """A parsed condition."""

    text: str
    names: frozenset[str]
    """Names of the values that it reads."""
    matches: Callable[[Values], bool]
    """Returns whether values meet the condition."""


@dataclass(frozen=True)
class _Part:
    """An operand: a function that reads its value, its type if that is known, and whether it is a constant."""

    read: _Reader
    type: type | None
    constant: bool = False


def parse_expression(text: str, types: Mapping[str, type], is_recipe_value: Callable[[str], bool]) -> Expression:
    """Return the condition in `text`.

    A missing value (None) never meets <, <=, > or >=: `score < 0.1` excludes experiments without a score.

    Args:
        text: The condition.
        types: Types by name: `str`, `float` for all numbers, `bool`, `datetime` (compared with a string such as
            "2026-11-24"), `tuple` of strings.
        is_recipe_value: Returns whether a name belongs to a recipe value, whose type is unknown.

    Raises:
        InvalidInputError: The condition is invalid.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidInputError(f"The condition has {len(text)} characters.", f"Use at most {MAX_LENGTH}.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        parser = _Parser(types, is_recipe_value)
        read = parser.condition(tree.body)
    except SyntaxError as error:
        near = f" near {error.text.strip()[max((error.offset or 1) - 1, 0) :][:20]!r}" if error.text else ""
        raise InvalidInputError(f"Invalid condition {text!r}{near}: {error.msg}.", _EXAMPLE) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidInputError(f"Invalid condition {text[:60]!r}.", _EXAMPLE) from error
    return Expression(text, frozenset(parser.names), lambda values: bool(read(values)))


class _Parser:
    """Turns a syntax tree into functions of the values; rejects every node that it does not know."""

    def __init__(self, types: Mapping[str, type], is_recipe_value: Callable[[str], bool]) -> None:
        self.types, self.is_recipe_value = types, is_recipe_value
        self.names: set[str] = set()

    def condition(self, node: ast.expr) -> _Reader:
        """Return a function that evaluates a Boolean node."""
        if isinstance(node, ast.BoolOp):
            parts = [self.condition(value) for value in node.values]
            if isinstance(node.op, ast.And):
                return lambda values: all(part(values) for part in parts)
            return lambda values: any(part(values) for part in parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.condition(node.operand)
            return lambda values: not inner(values)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        part = self._part(node)
        if part.type not in (bool, None):
            raise InvalidInputError(
                f"{ast.unparse(node)} is {_TYPE_NAMES[part.type]}, which is not a condition.", _EXAMPLE
            )
        return part.read

    def _comparison(self, node: ast.Compare) -> _Reader:
        parts = [self._part(inner) for inner in (node.left, *node.comparators)]
        steps = [
            self._step(parts[index], type(sign), parts[index + 1], ast.unparse(node))
            for index, sign in enumerate(node.ops)
        ]
        return lambda values: all(step(values) for step in steps)

    def _step(self, left: _Part, sign: type, right: _Part, text: str) -> _Reader:
        if sign not in _OPERATORS:
            raise InvalidInputError(
                f"Invalid operator in {text!r}. Operators are {', '.join(_OPERATORS.values())}.", _EXAMPLE
            )
        if sign in (ast.In, ast.NotIn):
            return self._membership(left, right, text, negated=sign is ast.NotIn)
        left, right = _as_date(left, right, text), _as_date(right, left, text)
        is_none = any(part.constant and part.read({}) is None for part in (left, right))
        if left.type is not None and right.type is not None and left.type is not right.type and not is_none:
            raise InvalidInputError(
                f"{text!r} compares {_TYPE_NAMES[left.type]} with {_TYPE_NAMES[right.type]}.",
                "Compare values of the same type.",
            )
        first, second = left.read, right.read
        if sign is ast.Eq:
            return lambda values: first(values) == second(values)
        if sign is ast.NotEq:
            return lambda values: first(values) != second(values)
        order = _ORDER[sign]

        def ordered(values: Values) -> bool:
            a, b = first(values), second(values)
            if a is None or b is None:
                return False
            try:
                return bool(order(a, b))
            except TypeError as error:
                raise InvalidInputError(
                    f"{text!r} compares {a!r} with {b!r}.", "Compare values of the same type."
                ) from error

        return ordered

    def _membership(self, left: _Part, right: _Part, text: str, *, negated: bool) -> _Reader:
        if right.type not in (tuple, str, None) or (right.type is str and left.type not in (str, None)):
            raise InvalidInputError(
                f"Invalid use of `in`: {text!r}. It finds a string in a string, or a value in a list.", _EXAMPLE
            )
        item, container = left.read, right.read

        def contained(values: Values) -> bool:
            b, a = container(values), item(values)
            if b is None or (isinstance(b, str) and not isinstance(a, str)):
                return negated
            return (a in b) is not negated

        return contained

    def _part(self, node: ast.expr) -> _Part:
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | bool | int | float)):
            value = node.value
            kind = None if value is None else float if type(value) in (int, float) else type(value)
            return _Part(lambda _: value, kind, constant=True)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._part(node.operand)
            if inner.constant and inner.type is float:
                negative = -inner.read({})
                return _Part(lambda _: negative, float, constant=True)
        if isinstance(node, ast.Tuple | ast.List):
            items = [self._part(item) for item in node.elts]
            if all(item.constant for item in items):
                listed = tuple(item.read({}) for item in items)
                return _Part(lambda _: listed, tuple, constant=True)
        if isinstance(node, ast.Name | ast.Attribute):
            return self._named(node)
        raise InvalidInputError(f"{ast.unparse(node)!r} is not allowed in a condition.", _EXAMPLE)

    def _named(self, node: ast.expr) -> _Part:
        name = ast.unparse(node)
        if name not in self.types and not self.is_recipe_value(name):
            unknown = unknown_name(name, self.types)
            raise InvalidInputError(unknown.problem, f"{unknown.remedy} Strings need quotes.")
        self.names.add(name)
        return _Part(lambda values: values[name], self.types.get(name))


def unknown_name(name: str, known: Mapping[str, object] | Sequence[str]) -> InvalidInputError:
    """Return the error for a name that experiments do not have."""
    return InvalidInputError(
        f"Experiments have no value {name!r}.",
        f"{did_you_mean(name, list(known))}Values are {', '.join(known)}, and those of the recipe, e.g. input.size or "
        "stage.full.lr.",
    )


def _as_date(part: _Part, other: _Part, text: str) -> _Part:
    """Return a string constant as a date if it is compared with one."""
    if not (part.constant and part.type is str and other.type is datetime):
        return part
    try:
        date = datetime.fromisoformat(part.read({})).astimezone()
    except ValueError as error:
        raise InvalidInputError(f"Invalid date {part.read({})!r} in {text!r}.", 'Use the form "2026-11-24".') from error
    return _Part(lambda _: date, datetime, constant=True)
