"""Values of many experiments that their summaries lack, for lists: of recipes, runs and notes."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, select

from ichx.store.experiment_state import conditions
from ichx.store.selection import OTHER_VALUES, recipe_values
from ichx.store.tables import experiment, note, run


def list_values(connection: Connection, numbers: Sequence[int], names: Collection[str]) -> dict[int, dict[str, Any]]:
    """Return the values `names`, of recipes or among `OTHER_VALUES`, of each of `numbers`; None for missing ones."""
    found: dict[int, dict[str, Any]] = {number: dict.fromkeys(names) for number in numbers}
    if of_recipe := frozenset(names).difference(OTHER_VALUES):
        for number, recipe in recipes(connection, numbers).items():
            found[number] |= recipe_values(recipe, of_recipe)
    for name in {"host", "device"}.intersection(names):
        texts: dict[int, dict[str, None]] = {}
        for number, text in _pairs(connection, (run.c.experiment, run.c[name], run.c.fold, run.c.attempt), numbers):
            texts.setdefault(number, {})[text] = None
        for number, distinct in texts.items():
            found[number][name] = ", ".join(distinct)
    if "note" in names:
        for number, text in _pairs(connection, (note.c.experiment, note.c.text, note.c.id), numbers):
            found[number]["note"] = text  # the newest one comes last
    return found


def recipes(connection: Connection, numbers: Sequence[int]) -> dict[int, str]:
    """Return the recipe of each of `numbers` as TOML."""
    return dict(_pairs(connection, (experiment.c.number, experiment.c.recipe), numbers))


def _pairs(connection: Connection, columns: Sequence[Any], numbers: Sequence[int]) -> list[tuple[int, Any]]:
    """Return the first two columns, the first of which is the experiment, in the order of the other columns."""
    wanted = set(numbers)
    return [
        (number, value)
        for condition in conditions(columns[0], numbers)
        for number, value in connection.execute(select(*columns[:2]).where(condition).order_by(*columns[2:]))
        if number in wanted
    ]
