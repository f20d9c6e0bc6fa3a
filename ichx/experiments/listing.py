"""Lists of experiments for the terminal, CSV and the browser: columns, the user's choice of them, and cells.

Which experiments are in a list: `ichx.store.selection`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from ichx.errors import InvalidInputError
from ichx.formatting import format_duration, format_value, shown_marks
from ichx.preferences import read_preference, save_preference
from ichx.store import marks
from ichx.store.selection import FIELD_TYPES, OTHER_VALUES, is_recipe_value

if TYPE_CHECKING:
    from ichx.recipe import Recipe
    from ichx.store import ExperimentSummary, Store

DEFAULT_COLUMNS: Final = ("number", "name", "dataset", "folds_done", "state", "score")
HEADS: Final = {
    "number": "exp",
    "folds_done": "folds",
    "score": "OOF score",
    "score_tta": "all views",
    "seconds": "time",
}
"""Headers that differ from the name of the value."""
_PREFERENCE: Final = "exp list columns"

OtherValues = Mapping[int, Mapping[str, Any]]
"""By number of the experiment: the values of recipes, runs and notes that `Store.list_values` returns."""


@dataclass(frozen=True)
class Cell:
    """A value in a list, ready for `format_value`."""

    value: object
    marks: tuple[str, ...] = ()
    """Caveats of a score; they accompany it wherever it is shown."""


def is_column(name: str) -> bool:
    """Return whether lists can have a column of that name."""
    return name in FIELD_TYPES or name in OTHER_VALUES or is_recipe_value(name)


def is_sortable(name: str) -> bool:
    """Return whether lists can be sorted by that column."""
    return name not in OTHER_VALUES and is_column(name)


def head_of(name: str) -> str:
    """Return the header of a column."""
    return HEADS.get(name, name if "." in name else name.replace("_", " "))


def check_columns(names: Iterable[str]) -> tuple[str, ...]:
    """Return the columns `names`, each once.

    Raises:
        InvalidInputError: A name is unknown, or there is none.
    """
    found = tuple(dict.fromkeys(stripped for name in names if (stripped := name.strip())))
    for name in found:
        if not is_column(name):
            from ichx.store.expression import unknown_name

            raise unknown_name(name, (*FIELD_TYPES, *OTHER_VALUES))
    if not found:
        raise InvalidInputError("No columns are chosen.", "Use e.g. number,name,score, or `default`.")
    return found


def saved_columns(store: "Store") -> tuple[str, ...]:
    """Return the columns that this user has chosen for all lists, else the default ones."""
    # Version 0.1 saved them in the store, for all users of it.
    saved = read_preference(_PREFERENCE) or store.setting(_PREFERENCE)
    known = map(str, saved if isinstance(saved, list) else ())
    return tuple(filter(is_column, known)) or DEFAULT_COLUMNS


def save_columns(names: Sequence[str]) -> None:
    """Save the columns of all further lists of this user; raise `StorageError` if the file cannot be written."""
    save_preference(_PREFERENCE, list(names))


def other_values(store: "Store", found: Sequence["ExperimentSummary"], shown: Iterable[str]) -> OtherValues:
    """Return the values of the columns `shown` that summaries lack."""
    names = {name for name in shown if name not in FIELD_TYPES}
    return store.list_values([e.number for e in found], names) if names else {}


def recipe_columns(stages: Iterable[str]) -> list[str]:
    """Return the names of the columns with recipe values, of recipes with these `stages`."""
    from typing import get_type_hints

    from ichx.recipe import Recipe, StageRecipe

    found = []
    for name, kind in get_type_hints(Recipe).items():
        part = next((option for option in (kind, *getattr(kind, "__args__", ())) if is_dataclass(option)), None)
        if name == "stage":
            inner = [spec.name for spec in fields(StageRecipe) if spec.name != "name"]
            found += [f"stage.{stage}.{value}" for stage in stages for value in inner]
        elif name != "plugin":
            found += [name] if part is None else [f"{name}.{spec.name}" for spec in fields(part)]
    return found


def differing_columns(store: "Store", found: Sequence["ExperimentSummary"], shown: Sequence[str]) -> tuple[str, ...]:
    """Return number and name, those columns of `shown` that differ in `found`, and all recipe values that do."""
    from ichx.recipe import flatten

    recipes = [flatten(_recipe(text)) for text in store.recipes([e.number for e in found if not e.external]).values()]
    of_recipes = dict.fromkeys(name for recipe in recipes for name in recipe)
    # a value that some recipes lack, e.g. the name of a stage, differs only if it does in the others
    values = {name: {repr(recipe[name]) for recipe in recipes if name in recipe} for name in of_recipes}
    differing = [name for name in of_recipes if len(values[name]) > 1]
    names = [name for name in shown if name in FIELD_TYPES or name in OTHER_VALUES or name not in of_recipes]
    others = other_values(store, found, names)
    kept = [
        name for name in names if name in ("number", "name") or len({plain_text(e, name, others) for e in found}) > 1
    ]
    return (*kept, *(name for name in differing if name != "plugin" or "plugin" not in kept))


@lru_cache(maxsize=1000)
def _recipe(text: str) -> "Recipe":
    from ichx.recipe_text import from_toml

    return from_toml(text)


def cell(e: "ExperimentSummary", name: str, others: OtherValues, *, folds_shown: bool) -> Cell:
    """Return a value for a table; scores have their marks, except those that a column of folds shows."""
    if name not in FIELD_TYPES:
        value = others[e.number][name]
        if isinstance(value, tuple):
            return Cell(json.dumps(value))
        return Cell(f"{value:g}" if isinstance(value, float) else value)
    if name in ("score", "score_tta"):
        value, spread = (e.score, e.spread) if name == "score" else (e.score_tta, None)
        if value is None:
            return Cell(None)
        text = value if spread is None else f"{format_value(value)} ± {format_value(spread)}"
        return Cell(text, shown_marks(e, folds_shown=folds_shown))
    texts = {
        "folds_done": f"{e.folds_done}/{e.folds}",
        "dataset": f"{e.dataset} v{e.dataset_version}",
        "seconds": None if e.seconds is None else format_duration(e.seconds),
        "tags": ", ".join(e.tags) or None,
    }
    return Cell(texts[name] if name in texts else getattr(e, name))


def plain_text(e: "ExperimentSummary", name: str, others: OtherValues) -> str:
    """Return a value for CSV and Markdown: complete, and the same in each locale."""
    value = getattr(e, name) if name in FIELD_TYPES else others[e.number][name]
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return " ".join(map(str, value)) if name == "tags" else json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def plain_table(
    store: "Store", found: Sequence["ExperimentSummary"], shown: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return the headers and rows of a list for CSV and Markdown; the last column has the marks of the score."""
    others = other_values(store, found, shown)
    rows = [[*(plain_text(e, name, others) for name in shown), "; ".join(marks(e))] for e in found]
    return [*shown, "marks"], rows
