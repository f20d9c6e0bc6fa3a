"""The search space: which values of a recipe a study varies, within which bounds. Checked before anything runs.

Written `NAME=LOW..HIGH`, `NAME=log:LOW..HIGH` or `NAME=A,B,C`; names are those of `ichx.recipe.flatten`.
"""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.errors import IchxError, raise_problems
from ichx.recipe import Recipe, flatten
from ichx.recipe_text import apply_settings

if TYPE_CHECKING:
    from optuna.trial import Trial

FORMS = "NAME=LOW..HIGH, NAME=log:LOW..HIGH or NAME=A,B,C"

Value = float | int | str
"""What a trial gets for a name; a text is a choice, as TOML."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, whole ones where the recipe has whole numbers."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool

    def __str__(self) -> str:
        ends = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        return f"{self.name}={'log:' if self.log else ''}{ends[0]!r}..{ends[1]!r}"

    def draw(self, trial: "Trial") -> Value:
        """Return the value that Optuna suggests, the same one when asked again."""
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of `values`, each as TOML."""

    name: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}={','.join(self.values)}"

    def draw(self, trial: "Trial") -> Value:
        """Return the value that Optuna suggests, the same one when asked again."""
        return trial.suggest_categorical(self.name, self.values)


Dimension = Range | Choice
Space = tuple[Dimension, ...]


def default_space(recipe: Recipe) -> Space:
    """Return the space that is searched when nothing else is asked for: learning rates, weight decay, regularization.

    The learning rate of each stage from a fifth to five times the recipe's, logarithmically.
    """
    rates = [f"stage.{s.name}.lr=log:{s.lr / 5!r}..{min(s.lr * 5, 10.0)!r}" for s in recipe.stage]
    rest = ("optimizer.weight_decay=log:1e-6..1e-2", "augmentation.probability=0.2..1.0", "model.dropout=0..0.4")
    return parse_space([*rates, *rest], recipe)


def parse_space(searches: Sequence[str], recipe: Recipe) -> Space:
    """Return the space written in `searches`, with the recipe's types.

    Raises `IchxError` with all problems at once: unknown names, empty ranges, log ranges that reach 0, values that
    `recipe` could not have.
    """
    problems: list[str] = []
    found: dict[str, Dimension] = {}
    for search in searches:
        name, equals, text = (part.strip() for part in search.partition("="))
        if not equals or not text:
            problems.append(f"{search!r} is not of the form {FORMS}")
        elif name in found:
            problems.append(f"{name} is searched twice")
        else:
            dimension, wrong = _parse(name, text, recipe)
            problems += [f"{name}={text}: {line}" for line in wrong]
            if dimension is not None:
                found[name] = dimension
    raise_problems(problems, f"a search is {FORMS}; `ichx exp show NUMBER --toml` lists names and values")
    return tuple(found.values())


def settings(values: Mapping[str, Value]) -> list[str]:
    """Return drawn values as `ichx.recipe_text.apply_settings` takes them."""
    return [f"{name}={value if isinstance(value, str) else repr(value)}" for name, value in values.items()]


def _parse(name: str, text: str, recipe: Recipe) -> tuple[Dimension | None, list[str]]:
    known = flatten(recipe)
    if name not in known or name == "plugin":
        return None, _refused(recipe, name, "0")
    kind = type(known[name])
    if ".." not in text and not text.startswith("log:"):
        choice = Choice(name, _choices(text))
        if len(set(choice.values)) < max(2, len(choice.values)):
            return None, ["a choice needs two or more different values"]
        return choice, [line for value in choice.values for line in _refused(recipe, name, value)]
    if kind not in (int, float):
        return None, [f"its value {known[name]!r} is no number: give choices, A,B,C"]
    log = text.startswith("log:")
    low, high = (_number(end) for end in text.removeprefix("log:").split("..", 1))
    if low is None or high is None:
        return None, ["a range goes from one number to another, LOW..HIGH"]
    if kind is int and not (low.is_integer() and high.is_integer()):
        return None, ["this value is a whole number"]
    found = Range(name, low, high, log, kind is int)
    if not low < high:
        return None, ["the range is empty"]
    if log and low <= 0:
        return None, ["a log range must stay above 0"]
    ends = [repr(int(end) if kind is int else end) for end in (low, high)]
    return found, [line for end in ends for line in _refused(recipe, name, end)]


def _refused(recipe: Recipe, name: str, value: str) -> list[str]:
    """Return why `recipe` cannot have the value; nothing for a good one."""
    try:
        apply_settings(recipe, [f"{name}={value}"])
    except IchxError as error:
        return error.problem.splitlines()
    return []


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _choices(text: str) -> tuple[str, ...]:
    """Return the values of `A,B,C` as TOML: a list's items where they are TOML, plain texts otherwise."""
    try:
        values = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        values = [value.strip() for value in text.split(",")]
    return tuple(json.dumps(value, ensure_ascii=False) for value in values)
