"""`ichx exp diff`: the differences between experiments, in recipes and scores."""

from typing import TYPE_CHECKING

import typer

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson, Numbers, Tta
from ichx.cli.score_comparison import print_comparison
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.experiments.differences import differing_values
from ichx.formatting import format_recipe_value, format_score, format_value

if TYPE_CHECKING:
    from ichx.evaluation.seed_spread import SeedSpread

DIGEST_LENGTH = 12
"""Characters of a digest that are printed."""


def diff(numbers: Numbers, tta: Tta = "none", as_json: AsJson = False) -> None:
    """Compare experiments: recipe values that differ, and scores.

    The scores of two experiments are compared by a paired bootstrap over patients.

    Example: `ichx exp diff 5 6`
    """
    if len(set(numbers)) < 2:
        raise typer.BadParameter("Use at least two different experiments.")
    from ichx.store import marks

    scores = spread = None
    with session() as project:
        found = [project.store.experiment(number) for number in dict.fromkeys(numbers)]
        one, two = found[:2]
        comparable = one.label_digest == two.label_digest
        if len(found) == 2 and one.folds_done and two.folds_done and comparable:
            from ichx.evaluation.compare import compare_scores

            scores = compare_scores(project, one, two, tta=tta)
        if len(found) == 2 and one.score is not None and two.score is not None and comparable:
            from ichx.evaluation.seed_spread import seed_spread

            spread = seed_spread(project.store, found)
    values = differing_values(found)
    if as_json:
        numbers_text = [str(e.number) for e in found]
        print_json(
            {
                "values": {name: dict(zip(numbers_text, row, strict=True)) for name, row in values.items()},
                "score": {str(e.number): e.score for e in found},
                "marks": {str(e.number): marks(e) for e in found},
                "scores": scores,
                "seeds": spread,
            }
        )
        return
    if not values:
        same = "data and folds" if any(e.external for e in found) else "recipe, data and folds"
        info(f"The experiments have the same {same}.")
    rows = [(name, *(_format(name, value) for value in row)) for name, row in values.items()]
    if scores is None and any(e.folds_done for e in found):
        rows.append(("OOF score", *map(format_score, found)))
    if rows:
        for e in found:
            console.print(f"experiment {e.number}: {e.name}", markup=False)
        print_table("", ("value", *(f"exp {e.number}" for e in found)), rows)
    if scores is not None:
        print_comparison(scores, one, two)
        if spread is not None and one.score is not None and two.score is not None:
            _print_spread(spread, abs(one.score - two.score))
    elif len(found) == 2 and not comparable:
        info("The experiments have different slices or labels, so their scores cannot be compared.")
    elif len(found) == 2:
        unfinished = [str(e.number) for e in found if not e.folds_done]
        info(f"No scores to compare: no finished fold in experiment {' and '.join(unfinished)}.")


def _print_spread(spread: "SeedSpread", difference: float) -> None:
    """Print how much scores differ between seeds, and whether the difference of two experiments exceeds that."""
    groups = "; ".join(", ".join(map(str, numbers)) for numbers in spread.groups)
    verdict = "may be noise of the seed" if difference <= spread.noise else "is larger than that of seeds"
    info(
        f"Experiments that differ only in their seed ({groups}) have scores with a standard deviation of "
        f"{format_value(spread.deviation)}. The difference {format_value(difference)} {verdict} "
        f"(95 % are below {format_value(spread.noise)})."
    )


def _format(name: str, value: object) -> str:
    text = format_recipe_value(value)
    return text[:DIGEST_LENGTH] if name.endswith("_digest") else text
