"""Conditions on predicted probabilities, e.g. `any>=0.95|any<=0.02`: which slices or pixels get pseudo-labels.

Python's parser parses the text, and this module interprets the tree for all slices at once; nothing is executed. A
condition compares labels with numbers (< <= > >=) and joins comparisons by `|` (or), `&` (and) and parentheses.
"""

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ichx.errors import InvalidInputError, did_you_mean
from ichx.labels import LABELS

MAX_LENGTH: Final = 500
"""Maximum number of characters of a condition."""

Bools = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float64]
_Test = Callable[[Probabilities], Bools]

_COMPARISONS: Final[dict[type, Callable[[Any, Any], Any]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EXAMPLE: Final = f"Use e.g. 'any>=0.95|any<=0.02'. Labels: {', '.join(LABELS)}."


@dataclass(frozen=True)
class KeepRule:
    """A parsed condition."""

    text: str
    matches: _Test
    """Maps probabilities `(N, 6)` to whether each slice meets the condition, `(N,)`."""


def parse_keep_rule(text: str) -> KeepRule:
    """Return the condition in `text`. Raises `InvalidInputError` if it is invalid."""
    if len(text) > MAX_LENGTH:
        raise InvalidInputError(f"The condition has {len(text)} characters.", f"Use at most {MAX_LENGTH}.")
    words = text.replace("||", "|").replace("&&", "&").replace("|", " or ").replace("&", " and ").strip()
    try:
        return KeepRule(text, _condition(ast.parse(words, mode="eval").body, text))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInputError(f"Invalid condition {text[:60]!r}.", _EXAMPLE) from error


def _condition(node: ast.expr, text: str) -> _Test:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, text) for value in node.values]
        joined = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return lambda p: joined.reduce([part(p) for part in parts])
    if isinstance(node, ast.Compare):
        return _comparison(node, text)
    raise InvalidInputError(f"{ast.unparse(node)!r} in the condition {text!r} is not a comparison.", _EXAMPLE)


def _comparison(node: ast.Compare, text: str) -> _Test:
    operands = [_operand(inner, text) for inner in (node.left, *node.comparators)]
    signs = []
    for sign in node.ops:
        if type(sign) not in _COMPARISONS:
            raise InvalidInputError(f"Invalid operator in {text!r}. Operators are <, <=, > and >=.", _EXAMPLE)
        signs.append(_COMPARISONS[type(sign)])
    if all(isinstance(operand, float) for operand in operands):
        raise InvalidInputError(f"{ast.unparse(node)!r} in the condition {text!r} has no label.", _EXAMPLE)

    def test(p: Probabilities) -> Bools:
        values = [operand if isinstance(operand, float) else p[:, operand] for operand in operands]
        steps = [sign(a, b) for sign, a, b in zip(signs, values, values[1:], strict=False)]
        return np.broadcast_to(np.logical_and.reduce(np.broadcast_arrays(*steps)), (len(p),))

    return test


def _operand(node: ast.expr, text: str) -> float | int:
    """Return a number as a float, or the column of a label."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        number = float(node.value)  # type: ignore[arg-type]  # checked in the line above
        if not 0 <= number <= 1:
            raise InvalidInputError(f"Invalid probability in {text!r}: {number:g}.", "Use 0 to 1.")
        return number
    if isinstance(node, ast.Name):
        if node.id not in LABELS:
            raise InvalidInputError(f"Unknown label {node.id!r} in {text!r}.", did_you_mean(node.id, LABELS) + _EXAMPLE)
        return LABELS.index(node.id)
    raise InvalidInputError(f"{ast.unparse(node)!r} in the condition {text!r} is no label or number.", _EXAMPLE)
