"""Conditions on experiments, as `--where` takes them: `plugin == "resnext50" and size >= 378`.

The text is parsed by Python's parser and then read by this file alone; nothing of it is ever executed. It knows names,
texts, numbers, True, False and None, lists of these, == != < <= > >= in, not in, and, or, not, and brackets.
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ichx.errors import IchxError, did_you_mean

LONGEST = 2000
"""Characters of an expression; more are a mistake."""

Values = Mapping[str, Any]
_Reader = Callable[[Values], Any]

_ORDER: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SIGNS: Mapping[type, str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
}
_WORDS = {str: "a text", float: "a number", bool: "True or False", datetime: "a date", tuple: "a list"}
_EXAMPLE = """write it like 'plugin == "resnext50" and size >= 378 and "best" in tags'"""


@dataclass(frozen=True)
class Expression:
    """A condition. `names` are the values that it looks at; `matches(values)` tells whether they meet it."""

    text: str
    names: frozenset[str]
    matches: Callable[[Values], bool]


@dataclass(frozen=True)
class _Part:
    """A read part: its value, its kind (None where it is not known before), and whether it was written down."""

    read: _Reader
    kind: type | None
    constant: bool = False


def parse_expression(text: str, kinds: Mapping[str, type], is_recipe_value: Callable[[str], bool]) -> Expression:
    """Return the condition in `text` over names of `kinds` and over values of a recipe, whose kinds are not known.

    Kinds are `str`, `float` (of every number), `bool`, `datetime` (written as a text, "2026-11-24") and `tuple` (of
    texts). A value that is missing meets no order: `score < 0.1` leaves out what has no score. Raises `IchxError`.
    """
    if len(text) > LONGEST:
        raise IchxError(f"the condition has {len(text)} characters", f"write it in at most {LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        reader = _Parser(kinds, is_recipe_value)
        part = reader.condition(tree.body)
    except SyntaxError as error:
        shown = f" near {error.text.strip()[max((error.offset or 1) - 1, 0) :][:20]!r}" if error.text else ""
        raise IchxError(f"the condition {text!r} cannot be read{shown}: {error.msg}", _EXAMPLE) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise IchxError(f"the condition {text[:60]!r} cannot be read", _EXAMPLE) from error
    return Expression(text, frozenset(reader.names), lambda values: bool(part(values)))


class _Parser:
    """Turns a parsed tree into readers, refusing everything that it does not know."""

    def __init__(self, kinds: Mapping[str, type], is_recipe_value: Callable[[str], bool]) -> None:
        self.kinds, self.is_recipe_value = kinds, is_recipe_value
        self.names: set[str] = set()

    def condition(self, node: ast.expr) -> _Reader:
        """Return the reader of something that is true or false."""
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
        if part.kind not in (bool, None):
            raise IchxError(f"{ast.unparse(node)} is {_WORDS[part.kind]}, no condition", _EXAMPLE)
        return part.read

    def _comparison(self, node: ast.Compare) -> _Reader:
        parts = [self._part(inner) for inner in (node.left, *node.comparators)]
        steps = [
            self._step(parts[index], type(sign), parts[index + 1], ast.unparse(node))
            for index, sign in enumerate(node.ops)
        ]
        return lambda values: all(step(values) for step in steps)

    def _step(self, left: _Part, sign: type, right: _Part, text: str) -> _Reader:
        if sign not in _SIGNS:
            raise IchxError(f"{text!r}: a condition compares with {', '.join(_SIGNS.values())}", _EXAMPLE)
        if sign in (ast.In, ast.NotIn):
            return self._membership(left, right, text, wanted=sign is ast.In)
        left, right = _as_date(left, right, text), _as_date(right, left, text)
        nothing = any(part.constant and part.read({}) is None for part in (left, right))
        if left.kind is not None and right.kind is not None and left.kind is not right.kind and not nothing:
            raise IchxError(
                f"{text!r} compares {_WORDS[left.kind]} with {_WORDS[right.kind]}", "compare values of one kind"
            )
        one, other = left.read, right.read
        if sign is ast.Eq:
            return lambda values: one(values) == other(values)
        if sign is ast.NotEq:
            return lambda values: one(values) != other(values)
        order = _ORDER[sign]

        def ordered(values: Values) -> bool:
            first, second = one(values), other(values)
            if first is None or second is None:
                return False
            try:
                return bool(order(first, second))
            except TypeError as error:
                raise IchxError(f"{text!r} compares {first!r} with {second!r}", "compare values of one kind") from error

        return ordered

    def _membership(self, left: _Part, right: _Part, text: str, *, wanted: bool) -> _Reader:
        if right.kind not in (tuple, str, None) or (right.kind is str and left.kind not in (str, None)):
            raise IchxError(f"{text!r}: `in` looks for a text in a text, or for a value in a list", _EXAMPLE)
        one, other = left.read, right.read

        def contained(values: Values) -> bool:
            whole, sought = other(values), one(values)
            if whole is None or (isinstance(whole, str) and not isinstance(sought, str)):
                return not wanted
            return (sought in whole) is wanted

        return contained

    def _part(self, node: ast.expr) -> _Part:
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | bool | int | float)):
            value = node.value
            kind = None if value is None else float if type(value) in (int, float) else type(value)
            return _Part(lambda _: value, kind, constant=True)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._part(node.operand)
            if inner.constant and inner.kind is float:
                negative = -inner.read({})
                return _Part(lambda _: negative, float, constant=True)
        if isinstance(node, ast.Tuple | ast.List):
            items = [self._part(item) for item in node.elts]
            if all(item.constant for item in items):
                listed = tuple(item.read({}) for item in items)
                return _Part(lambda _: listed, tuple, constant=True)
        if isinstance(node, ast.Name | ast.Attribute):
            return self._named(node)
        raise IchxError(f"a condition cannot have {ast.unparse(node)!r}", _EXAMPLE)

    def _named(self, node: ast.expr) -> _Part:
        name = ast.unparse(node)
        if name not in self.kinds and not self.is_recipe_value(name):
            unknown = unknown_name(name, self.kinds)
            raise IchxError(unknown.problem, f"{unknown.remedy}; a text stands in quotes")
        self.names.add(name)
        return _Part(lambda values: values[name], self.kinds.get(name))


def unknown_name(name: str, known: Mapping[str, object] | Sequence[str]) -> IchxError:
    """Return the error for a name that no experiment has."""
    return IchxError(
        f"an experiment has no value {name!r}",
        f"{did_you_mean(name, list(known))}there are {', '.join(known)}, "
        "and every value of a recipe, such as input.size or stage.full.lr",
    )


def _as_date(part: _Part, other: _Part, text: str) -> _Part:
    """Return a written text as the date that it is compared with."""
    if not (part.constant and part.kind is str and other.kind is datetime):
        return part
    try:
        date = datetime.fromisoformat(part.read({})).astimezone()
    except ValueError as error:
        raise IchxError(f"{text!r}: {part.read({})!r} is no date", 'write it like "2026-11-24"') from error
    return _Part(lambda _: date, datetime, constant=True)
