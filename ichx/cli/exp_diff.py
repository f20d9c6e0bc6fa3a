"""`ichx exp diff`: what differs between experiments, in their recipes and in their results."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichx.cli.formatting import format_score
from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import Numbers, Tta
from ichx.cli.score_comparison import show_scores
from ichx.cli.session import session
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ichx.store import Experiment

LONG = 10
"""A number of more characters is told with fewer digits."""

_PINS = ("plugin", "dataset", "dataset_version", "label_digest", "fold_set", "fold_digest")


def diff(
    numbers: Numbers,
    tta: Tta = "none",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Compare experiments: only the values that differ, and their scores; of two, paired over the same patients.

    Example: `ichx exp diff 5 6`
    """
    if len(set(numbers)) < 2:
        raise typer.BadParameter("name two different experiments or more")
    from ichx.store import marks

    scores = None
    with session() as project:
        found = [project.store.experiment(number) for number in dict.fromkeys(numbers)]
        one, two = found[:2]
        comparable = one.label_digest == two.label_digest
        if len(found) == 2 and one.folds_done and two.folds_done and comparable:
            from ichx.evaluation.compare import compare_scores

            scores = compare_scores(project, one, two, tta=tta)
    values = _values(found)
    if as_json:
        print_json(
            {
                "values": {name: dict(zip(map(_number, found), row, strict=True)) for name, row in values.items()},
                "score": {_number(e): e.score for e in found},
                "marks": {_number(e): marks(e) for e in found},
                "scores": scores,
            }
        )
        return
    if not values:
        info("their recipes, data and folds are the same")
    results = [("OOF score", *map(format_score, found))] if scores is None and any(e.folds_done for e in found) else []
    rows = [(name, *(_told(name, value) for value in row)) for name, row in values.items()] + results
    if rows:
        for e in found:
            console.print(f"experiment {e.number}: {e.name}", markup=False)
        print_table("", ("", *(f"exp {e.number}" for e in found)), rows)
    if scores is not None:
        show_scores(scores, one, two)
    elif len(found) == 2 and not comparable:
        info("they have other slices or labels: their scores cannot be compared")
    elif len(found) == 2:
        unrun = [str(e.number) for e in found if not e.folds_done]
        info(f"no scores to compare: no fold is finished of experiment {' and '.join(unrun)}")


def _values(found: "Sequence[Experiment]") -> dict[str, tuple[Any, ...]]:
    """Return by name what the experiments are pinned to and their recipes' values, where these are not all the same."""
    from ichx.recipe import flatten
    from ichx.recipe_text import from_toml

    recipes = [flatten(from_toml(e.recipe)) for e in found]
    rows = {name: tuple(getattr(e, name) for e in found) for name in _PINS}
    for name in dict.fromkeys(name for recipe in recipes for name in recipe):
        rows.setdefault(name, tuple(recipe.get(name) for recipe in recipes))
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _number(e: "Experiment") -> str:
    return str(e.number)


def _told(name: str, value: object) -> str:
    """Return a value as TOML has it, texts without quotes; a dash for one that a recipe does not have.

    Of numbers with many digits, such as a search draws, the first six are told.
    """
    from ichx.recipe import literal

    if value is None or isinstance(value, str):
        return (value or "-")[: 12 if name.endswith("_digest") else None]
    if isinstance(value, tuple):
        return "[" + ", ".join(_told("", item) for item in value) + "]"
    if isinstance(value, float) and len(literal(value)) > LONG:
        return f"{value:.6g}"
    return literal(value)
