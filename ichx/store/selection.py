"""Which experiments a list shows and in which order: what may be asked for, and what each asked-for value is called.

Parsing conditions and recipes is imported when it is asked for: a plain list must be there at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ichx.errors import IchxError

if TYPE_CHECKING:
    from ichx.store.expression import Expression

KINDS: Mapping[str, type] = {
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
    "archived": bool,
}
"""What an experiment is selected, sorted and listed by, beside the values of its recipe."""

STATES = ("new", "running", "stalled", "dead", "stopped", "failed", "partial", "done")
"""The states that an experiment may be in."""


@dataclass(frozen=True)
class Selection:
    """What is asked for. `kind` is `experiment`, `trial`, or None for both; `archived` and `trashed` None are both.

    `tags` must all be there; of `states` one. `since` is a date of registration. `where` is a condition as
    `ichx.store.expression` reads it; `sort` a name of `KINDS` or of a recipe's values, after `-` the largest first.
    By default the newest stand first.
    """

    dataset: str | None = None
    kind: str | None = "experiment"
    parent: int | None = None
    tags: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    since: datetime | None = None
    archived: bool | None = None
    trashed: bool | None = False
    where: str | None = None
    sort: str | None = None

    def __post_init__(self) -> None:
        """Raise `IchxError` for a state, a condition or an order that there is not."""
        for state in self.states:
            if state not in STATES:
                raise IchxError(f"no experiment is ever {state!r}", f"states are {', '.join(STATES)}")
        self.condition()
        name = self.sorted_by
        if name is not None and name not in KINDS and not is_recipe_value(name):
            from ichx.store.expression import unknown_name

            raise unknown_name(name, KINDS)

    @property
    def sorted_by(self) -> str | None:
        """The name that is sorted by."""
        return None if self.sort is None else self.sort.removeprefix("-")

    def condition(self) -> "Expression | None":
        """Return what `where` says."""
        if self.where is None:
            return None
        from ichx.store.expression import parse_expression

        return parse_expression(self.where, KINDS, is_recipe_value)


EXPERIMENTS = Selection()
"""All experiments that are neither trials nor in the trash."""


def is_recipe_value(name: str) -> bool:
    """Tell whether some recipe may have a value of that name, such as `input.size` or `stage.full.lr`."""
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


def recipe_values(recipe: str, names: "frozenset[str] | set[str]") -> dict[str, Any]:
    """Return the values `names` of a recipe in TOML; None for those that it does not have."""
    import tomllib

    tables = tomllib.loads(recipe)
    stages = {stage["name"]: stage for stage in tables.get("stage", ())}
    found: dict[str, Any] = {}
    for name in names:
        *path, last = name.split(".")
        table = stages.get(path[1], {}) if path[:1] == ["stage"] else tables.get(path[0], {}) if path else tables
        value = table.get(last)
        found[name] = tuple(value) if isinstance(value, list) else value
    return found
