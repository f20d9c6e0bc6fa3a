"""Selecting and sorting experiments: the request, its fields and their types. Conditions: `expression`.

Parsers of conditions and recipes are imported on demand, because a plain list must start fast.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ichx.errors import InvalidInputError
from ichx.text import parse_toml

if TYPE_CHECKING:
    from ichx.store.expression import Expression
    from ichx.store.snapshots import Kind

FIELD_TYPES: Mapping[str, type] = {
    "number": float,
    "name": str,
    "plugin": str,
    "size": float,
    "window_kind": str,
    "dataset": str,
    "dataset_version": float,
    "fold_set": str,
    "folds": float,
    "folds_done": float,
    "subset": float,
    "state": str,
    "stage": str,
    "seconds": float,
    "score": float,
    "spread": float,
    "score_tta": float,
    "spread_tta": float,
    "tags": tuple,
    "parent": float,
    "kind": str,
    "created": datetime,
    "selected": bool,
    "leaked": bool,
    "transductive": bool,
    "archived": bool,
}
"""Fields that conditions, sorting and columns accept, besides the values of recipes; numbers are `float`."""

OTHER_VALUES = ("host", "device", "note")
"""Further columns of lists: the machines and devices of the runs, and the newest note."""

_LINES = re.compile(
    r"(?:\w+ = (?:[^\n\r\[{]|\[(?=[^\n\r]*\]\n))[^\n\r]*\n|\[\w+\]\n|\[\[stage\]\]\n|\n)*+",
)
"""A recipe as ichx writes it: each value and each header of a table has one line."""

_VALUES: dict[tuple[bytes, frozenset[str]], Mapping[str, Any]] = {}
"""Values of recipes that were read, by digest of the text: a server lists the same experiments again and again."""
_MAX_VALUES = 30_000

_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?P<fraction>(?:\.\d+)?(?:[eE][+-]?\d+)?)", re.ASCII)

STATES = ("new", "running", "stalled", "dead", "stopped", "failed", "partial", "done")
"""States of an experiment."""


@dataclass(frozen=True)
class Selection:
    """A request for experiments. By default the newest come first, without trials and the trash."""

    dataset: str | None = None
    kind: "Kind | None" = "experiment"
    """None for both."""
    parent: int | None = None
    numbers: tuple[int, ...] | None = None
    """Only these experiments; None for all."""
    recipe_digest: str | None = None
    tags: tuple[str, ...] = ()
    """All of them must be present."""
    states: tuple[str, ...] = ()
    """One of them must match; empty for all."""
    since: datetime | None = None
    """Earliest time of registration."""
    archived: bool | None = None
    """None for both."""
    trashed: bool | None = False
    """None for both."""
    where: str | None = None
    """A condition; see `ichx.store.expression`."""
    sort: str | None = None
    """A name of `FIELD_TYPES` or of a recipe value, with a leading `-` for descending order."""

    def __post_init__(self) -> None:
        """Raise `InvalidInputError` for an unknown state, an invalid condition or an unknown sort key."""
        for state in self.states:
            if state not in STATES:
                raise InvalidInputError(f"Unknown state: {state!r}.", f"States are {', '.join(STATES)}.")
        self.condition()
        name = self.sort_key
        if name is not None and name not in FIELD_TYPES and not is_recipe_value(name):
            from ichx.store.expression import unknown_name

            raise unknown_name(name, FIELD_TYPES)

    @property
    def sort_key(self) -> str | None:
        """Name of the value to sort by."""
        return None if self.sort is None else self.sort.removeprefix("-")

    def condition(self) -> "Expression | None":
        """Return the parsed condition."""
        if self.where is None:
            return None
        from ichx.store.expression import parse_expression

        return parse_expression(self.where, FIELD_TYPES, is_recipe_value)


EXPERIMENTS = Selection()
"""All experiments that are neither trials nor in the trash."""


def is_recipe_value(name: str) -> bool:
    """Return whether a recipe can have a value of that name, e.g. `input.size` or `stage.full.lr`."""
    import typing

    from ichx.recipe import Recipe, StageRecipe

    first, *rest = name.split(".")
    hints = typing.get_type_hints(Recipe)
    if first not in hints or first == "plugin":
        return False
    if first == "stage":
        return len(rest) == 2 and rest[1] in {spec.name for spec in fields(StageRecipe)} - {"name"}
    if is_dataclass(hints[first]):
        return len(rest) == 1 and rest[0] in {spec.name for spec in fields(hints[first])}
    return not rest


def recipe_values(recipe: str, names: "frozenset[str] | set[str]") -> Mapping[str, Any]:
    """Return the values `names` of a recipe in TOML; None for those that it lacks."""
    key = (blake2b(recipe.encode(errors="surrogatepass"), digest_size=16).digest(), frozenset(names))
    known = _VALUES.get(key)
    if known is not None:
        return known
    written_by_ichx = '"""' not in recipe and "'''" not in recipe and _LINES.fullmatch(recipe) is not None
    found = _search_values(recipe, names) if written_by_ichx else _parse_values(recipe, names)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    if len(_VALUES) >= _MAX_VALUES:
        _VALUES.clear()
    return _VALUES.setdefault(key, values)


def _parse_values(recipe: str, names: "frozenset[str] | set[str]") -> dict[str, Any]:
    tables = parse_toml(recipe)
    stages = {stage["name"]: stage for stage in tables.get("stage", ())}
    found: dict[str, Any] = {}
    for name in names:
        *path, last = name.split(".")
        table = stages.get(path[1], {}) if path[:1] == ["stage"] else tables.get(path[0], {}) if path else tables
        found[name] = table.get(last)
    return found


def _search_values(recipe: str, names: "frozenset[str] | set[str]") -> dict[str, Any]:
    """Like `_parse_values` for a recipe with one line per value, a hundred times as fast: lists read thousands."""
    text, found = f"\n{recipe}", {}
    for name in names:
        *path, last = name.split(".")
        start, end = _table(text, path)
        at = text.find(f"\n{last} = ", start, end)
        found[name] = None if at < 0 else _parse_literal(text[at + len(last) + 4 : text.index("\n", at + 1)])
    return found


def _table(text: str, path: list[str]) -> tuple[int, int]:
    """Return where the lines of a table begin and end, each with the line break before it; both are 0 if missing."""
    if not path:
        return 0, _end(text, 0)
    header = "\n[[stage]]\n" if path[0] == "stage" else f"\n[{path[0]}]\n"
    start = text.find(header)
    while start >= 0:
        start += len(header) - 1
        end = _end(text, start)
        name = text.find("\nname = ", start, end) if path[0] == "stage" else -1
        if path[0] != "stage" or _parse_literal(text[name + 8 : text.index("\n", name + 1)]) == path[1]:
            return start, end
        start = text.find(header, end - 1)
    return 0, 0


def _end(text: str, start: int) -> int:
    """Return the end of a table whose lines begin at `start`."""
    end = text.find("\n[", start)
    return len(text) if end < 0 else end + 1


def _parse_literal(text: str) -> Any:
    number = _NUMBER.fullmatch(text)
    if number is None:
        return _parse_text(text)
    return float(text) if number["fraction"] else int(text)


@lru_cache(maxsize=1000)
def _parse_text(text: str) -> Any:
    return parse_toml(f"value = {text}")["value"]
