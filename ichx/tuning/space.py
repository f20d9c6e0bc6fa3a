"""Search spaces: the values of a recipe that a study varies, and their bounds. Checked before any trial.

A search is written `NAME=LOW..HIGH`, `NAME=log:LOW..HIGH`, `NAME=off,LOW..HIGH` or `NAME=A,B,C`, or in a TOML file.
Names are those of `ichx.tuning.joint_values.searchable`. The default space is in `ichx.tuning.default_space`.
"""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ichx.errors import CorruptFileError, IchxError, StorageError, raise_problems
from ichx.files import read_text
from ichx.recipe import Recipe, literal
from ichx.text import parse_toml
from ichx.tuning.budget import Value, trial_recipe
from ichx.tuning.joint_values import searchable

if TYPE_CHECKING:
    from optuna.trial import Trial

FORMS: Final = "NAME=LOW..HIGH, NAME=log:LOW..HIGH, NAME=off,LOW..HIGH or NAME=A,B,C"
FILE_REMEDY: Final = "Run `ichx tune space NUMBER` to print one to start from."


OFF: Final = "off"
"""Written for a value of 0 that turns something off."""
SWITCH: Final = ".on"
"""Suffix of the name under which Optuna records whether a value is off; it records the number only if it is on."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    name: str
    low: float
    high: float
    log: bool
    """Whether the range is searched logarithmically."""
    integer: bool
    """Whether only integers are searched."""

    def __str__(self) -> str:
        low, high = self.ends
        return f"{self.name}={'log:' if self.log else ''}{low!r}..{high!r}"

    @property
    def toml(self) -> str:
        """The range as `read_space` takes it."""
        return json.dumps(str(self).removeprefix(f"{self.name}="))

    @property
    def ends(self) -> tuple[Value, ...]:
        """The lowest and the highest value."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def contained(self, value: Any) -> Value | None:
        """Return a recipe's `value` as a trial has it; None if it is out of range."""
        return value if self.low <= value <= self.high else None

    def recorded(self, value: Value) -> dict[str, Value]:
        """Return a contained `value` as Optuna records it."""
        return {self.name: value}

    def suggest(self, trial: "Trial") -> Value:
        """Return the value that Optuna suggests; repeated calls return the same value."""
        if self.integer:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    name: str
    values: tuple[str, ...]
    """In TOML syntax."""

    def __str__(self) -> str:
        return f"{self.name}={','.join(self.values)}"

    @property
    def toml(self) -> str:
        """The choice as `read_space` takes it."""
        return f"[{', '.join(self.values)}]"

    @property
    def ends(self) -> tuple[Value, ...]:
        """All values."""
        return self.values

    def contained(self, value: Any) -> Value | None:
        """Return a recipe's `value` as a trial has it; None if it is not among the choices."""
        own = parse_toml(f"value = {literal(value)}")["value"]
        return next((text for text in self.values if parse_toml(f"value = {text}")["value"] == own), None)

    def recorded(self, value: Value) -> dict[str, Value]:
        """Return a contained `value` as Optuna records it."""
        return {self.name: value}

    def suggest(self, trial: "Trial") -> Value:
        """Return the value that Optuna suggests; repeated calls return the same value."""
        return trial.suggest_categorical(self.name, self.values)


@dataclass(frozen=True)
class Switch:
    """Off, which is 0, or a number of a range."""

    numbers: Range

    def __str__(self) -> str:
        return f"{self.name}={OFF},{str(self.numbers).removeprefix(f'{self.name}=')}"

    @property
    def name(self) -> str:
        """Name of the value."""
        return self.numbers.name

    @property
    def toml(self) -> str:
        """The search as `read_space` takes it."""
        return json.dumps(str(self).removeprefix(f"{self.name}="))

    @property
    def ends(self) -> tuple[Value, ...]:
        """0, the lowest and the highest value."""
        return (self._off, *self.numbers.ends)

    def contained(self, value: Any) -> Value | None:
        """Return a recipe's `value` as a trial has it; None if it is neither 0 nor in the range."""
        return self._off if value == 0 else self.numbers.contained(value)

    def recorded(self, value: Value) -> dict[str, Value]:
        """Return a contained `value` as Optuna records it."""
        if value == 0:
            return {f"{self.name}{SWITCH}": OFF}
        return {f"{self.name}{SWITCH}": "on"} | self.numbers.recorded(value)

    def suggest(self, trial: "Trial") -> Value:
        """Return the value that Optuna suggests; repeated calls return the same value."""
        state = trial.suggest_categorical(f"{self.name}{SWITCH}", (OFF, "on"))
        return self._off if state == OFF else self.numbers.suggest(trial)

    @property
    def _off(self) -> Value:
        return 0 if self.numbers.integer else 0.0


Dimension = Range | Choice | Switch
Space = tuple[Dimension, ...]


def parse_space(searches: Sequence[str], recipe: Recipe) -> Space:
    """Return the space that `searches` describe, with the types of `recipe`.

    Raises:
        InvalidInputError: Unknown names, empty ranges, log ranges that include 0, values that `recipe` cannot have.
            All problems are in one error.
    """
    space, problems = _parse_all(searches, recipe)
    raise_problems(problems, f"Write a search as {FORMS}. Run `ichx tune space NUMBER` for the default space.")
    return space


def read_space(path: Path, recipe: Recipe) -> Space:
    """Return the space in the TOML file `path`: `NAME = "LOW..HIGH"` or `NAME = [A, B, C]`, in tables or not.

    Raises:
        StorageError: The file cannot be read.
        CorruptFileError: The file is not TOML.
        InvalidInputError: As in `parse_space`.
    """
    try:
        tables = parse_toml(read_text(path))
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.", FILE_REMEDY) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CorruptFileError(f"{path} is not valid TOML: {error}.", FILE_REMEDY) from error
    searches, problems = [], []
    for name, value in _flatten(tables):
        if isinstance(value, str):
            searches.append(f"{name}={value}")
        elif isinstance(value, list):
            searches.append(f"{name}={','.join(literal(item) for item in value)}")
        else:
            problems.append(f'{name} = {literal(value)}: must be a range "LOW..HIGH" or a list of choices')
    if not searches and not problems:
        problems.append("no searches")
    space, more = _parse_all(searches, recipe)
    raise_problems([f"{path}: {problem}" for problem in (*problems, *more)], FILE_REMEDY)
    return space


def recorded(space: Space, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return contained `values` of the space by name, as Optuna records them."""
    return {
        key: value
        for dimension in space
        if dimension.name in values
        for key, value in dimension.recorded(values[dimension.name]).items()
    }


def recorded_values(params: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values that Optuna has recorded for a trial, with 0 for those that are off."""
    values = {name: value for name, value in params.items() if not name.endswith(SWITCH)}
    off = [name.removesuffix(SWITCH) for name, state in params.items() if name.endswith(SWITCH) and state == OFF]
    return values | dict.fromkeys(off, 0.0)


def to_toml(space: Space) -> str:
    """Return `space` as `read_space` takes it."""
    return "".join(f"{dimension.name} = {dimension.toml}\n" for dimension in space)


def _flatten(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parse_all(searches: Sequence[str], recipe: Recipe) -> tuple[Space, list[str]]:
    """Return the valid dimensions and all problems."""
    problems: list[str] = []
    found: dict[str, Dimension] = {}
    for search in searches:
        name, equals, text = (part.strip() for part in search.partition("="))
        if not equals or not text:
            problems.append(f"{search!r}: must be {FORMS}")
        elif name in found:
            problems.append(f"{name}: searched twice")
        else:
            dimension, lines = _parse(name, text, recipe)
            problems += [f"{name}={text}: {line}" for line in lines]
            if dimension is not None:
                found[name] = dimension
    for dimension in found.values():
        others = [other for other in found.values() if other is not dimension]
        lines = [line for value in dimension.ends for line in _value_problems(recipe, dimension.name, value, others)]
        problems += [f"{dimension}: {line}" for line in lines]
    return tuple(found.values()), problems


def _parse(name: str, text: str, recipe: Recipe) -> tuple[Dimension | None, list[str]]:
    known = searchable(recipe)
    if name not in known:
        return None, _recipe_problems(recipe, {name: "0"})
    kind = type(known[name])
    first, _, rest = (part.strip() for part in text.partition(","))
    if first == OFF and kind in (int, float):
        if ".." not in rest and not rest.startswith("log:"):
            return _parse(name, f"0,{rest}" if kind is int else f"0.0,{rest}", recipe)
        numbers, problems = _parse(name, rest, recipe)
        if isinstance(numbers, Range) and numbers.low <= 0:
            return None, ["the range after off must be above 0"]
        return Switch(numbers) if isinstance(numbers, Range) else None, problems
    if ".." not in text and not text.startswith("log:"):
        choice = Choice(name, _choices(text))
        if len(set(choice.values)) < max(2, len(choice.values)):
            return None, ["needs two or more different values"]
        return choice, []
    if kind not in (int, float):
        return None, [f"the value {known[name]!r} is not a number; list choices as A,B,C"]
    log = text.startswith("log:")
    low, high = (_finite_number(end) for end in text.removeprefix("log:").split("..", 1))
    if low is None or high is None:
        return None, ["a range needs two numbers, LOW..HIGH"]
    if kind is int and not (low.is_integer() and high.is_integer()):
        return None, ["must be integers"]
    if not low < high:
        return None, ["the range is empty"]
    if log and low <= 0:
        return None, ["a log range must be above 0"]
    return Range(name, low, high, log, kind is int), []


def _value_problems(recipe: Recipe, name: str, value: Value, others: Sequence[Dimension]) -> list[str]:
    """Return why `recipe` cannot have the value; no problems if it can with the value of another dimension."""
    problems = _recipe_problems(recipe, {name: value})
    if problems and any(not _recipe_problems(recipe, {name: value, o.name: end}) for o in others for end in o.ends):
        return []
    return problems


def _recipe_problems(recipe: Recipe, values: Mapping[str, Value]) -> list[str]:
    """Return why `recipe` cannot have the values together."""
    try:
        trial_recipe(recipe, values)
    except IchxError as error:
        return error.problem.splitlines()
    return []


def _finite_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _choices(text: str) -> tuple[str, ...]:
    """Return the values of `A,B,C` in TOML syntax: items of a TOML list if possible, otherwise strings."""
    try:
        values = parse_toml(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        values = [value.strip() for value in text.split(",")]
    return tuple(json.dumps(value, ensure_ascii=False) for value in values)
