"""The search space: which values of a recipe a study varies, within which bounds. Checked before anything runs.

Written `NAME=LOW..HIGH`, `NAME=log:LOW..HIGH` or `NAME=A,B,C`, or as a TOML file; names are those of
`ichx.recipe.settable`. What is searched when nothing is asked for is in `ichx.tuning.default_space`.
"""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichx.errors import IchxError, raise_problems
from ichx.recipe import Recipe, literal, settable
from ichx.tuning.budget import Value, trial_recipe

if TYPE_CHECKING:
    from optuna.trial import Trial

FORMS = "NAME=LOW..HIGH, NAME=log:LOW..HIGH or NAME=A,B,C"


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

    @property
    def toml(self) -> str:
        """The range as `read_space` takes it."""
        return json.dumps(str(self).removeprefix(f"{self.name}="))

    @property
    def ends(self) -> tuple[Value, ...]:
        """The lowest and the highest value."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def holds(self, value: Any) -> Value | None:
        """Return `value` of a recipe as a trial may get it; None where it is outside."""
        return value if self.low <= value <= self.high else None

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

    @property
    def toml(self) -> str:
        """The choice as `read_space` takes it."""
        return f"[{', '.join(self.values)}]"

    @property
    def ends(self) -> tuple[Value, ...]:
        """All values."""
        return self.values

    def holds(self, value: Any) -> Value | None:
        """Return `value` of a recipe as a trial may get it; None where it is no choice."""
        own = tomllib.loads(f"value = {literal(value)}")["value"]
        return next((text for text in self.values if tomllib.loads(f"value = {text}")["value"] == own), None)

    def draw(self, trial: "Trial") -> Value:
        """Return the value that Optuna suggests, the same one when asked again."""
        return trial.suggest_categorical(self.name, self.values)


Dimension = Range | Choice
Space = tuple[Dimension, ...]


def parse_space(searches: Sequence[str], recipe: Recipe) -> Space:
    """Return the space written in `searches`, with the recipe's types.

    Raises `IchxError` with all problems at once: unknown names, empty ranges, log ranges that reach 0, values that
    `recipe` could not have.
    """
    found, problems = _parsed(searches, recipe)
    raise_problems(problems, f"a search is {FORMS}; `ichx tune space NUMBER` shows the default one")
    return found


def _parsed(searches: Sequence[str], recipe: Recipe) -> tuple[Space, list[str]]:
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
    for dimension in found.values():
        others = [other for other in found.values() if other is not dimension]
        wrong = [line for value in dimension.ends for line in _refused_with(recipe, dimension.name, value, others)]
        problems += [f"{dimension}: {line}" for line in wrong]
    return tuple(found.values()), problems


def read_space(path: Path, recipe: Recipe) -> Space:
    """Return the space in the TOML file at `path`: `NAME = "LOW..HIGH"` or `NAME = [A, B, C]`, in tables or not.

    Raises `IchxError` for a file that cannot be read or is no TOML, and as `parse_space` does.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or error
        raise IchxError(f"cannot read {path}: {what}", "`ichx tune space NUMBER` prints one to begin with") from error
    except tomllib.TOMLDecodeError as error:
        raise IchxError(
            f"{path} is not valid TOML: {error}", "`ichx tune space NUMBER` prints one to begin with"
        ) from error
    found, problems = [], []
    for name, value in _flat(tables):
        if isinstance(value, str):
            found.append(f"{name}={value}")
        elif isinstance(value, list):
            found.append(f"{name}={','.join(literal(item) for item in value)}")
        else:
            problems.append(f'{name} = {literal(value)}: must be a range, "LOW..HIGH", or a list of choices')
    if not found and not problems:
        problems.append("it searches nothing")
    space, wrong = _parsed(found, recipe)
    raise_problems(
        [f"{path}: {line}" for line in (*problems, *wrong)], "`ichx tune space NUMBER` prints one to begin with"
    )
    return space


def to_toml(space: Space) -> str:
    """Return `space` as `read_space` takes it."""
    return "".join(f"{dimension.name} = {dimension.toml}\n" for dimension in space)


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parse(name: str, text: str, recipe: Recipe) -> tuple[Dimension | None, list[str]]:
    known = settable(recipe)
    if name not in known:
        return None, _refused(recipe, {name: "0"})
    kind = type(known[name])
    if ".." not in text and not text.startswith("log:"):
        choice = Choice(name, _choices(text))
        if len(set(choice.values)) < max(2, len(choice.values)):
            return None, ["a choice needs two or more different values"]
        return choice, []
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
    return found, []


def _refused_with(recipe: Recipe, name: str, value: Value, others: Sequence[Dimension]) -> list[str]:
    """Return why `recipe` cannot have the value, also not beside another one that is searched."""
    wrong = _refused(recipe, {name: value})
    if wrong and any(not _refused(recipe, {name: value, o.name: end}) for o in others for end in o.ends):
        return []
    return wrong


def _refused(recipe: Recipe, values: Mapping[str, Value]) -> list[str]:
    """Return why `recipe` cannot have the values; nothing for good ones."""
    try:
        trial_recipe(recipe, values)
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
