"""`docs/recipe.md` lists every value of a recipe with its default."""

import dataclasses
import re
import typing
from pathlib import Path

from ichx.recipe import Recipe, SequenceRecipe, StageRecipe, literal
from ichx.recipe_rules import CHOICES

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"\| `([^`]+)` \| (.+?) \| (.+) \| ([^|]*) ?\|")


def fields(kind: type, prefix: str = "") -> dict[str, str]:
    """Return the expected default of each value of the dataclass `kind`, by dotted name."""
    found: dict[str, str] = {}
    hints = typing.get_type_hints(kind)
    for spec in dataclasses.fields(kind):
        if spec.name == "stage":
            found |= fields(StageRecipe, "stage.*.")
        elif spec.name == "sequence":
            found |= fields(SequenceRecipe, "sequence.")
        elif dataclasses.is_dataclass(hints[spec.name]):
            found |= fields(hints[spec.name], f"{spec.name}.")
        elif spec.default is dataclasses.MISSING:
            found[prefix + spec.name] = "required"
        else:
            found[prefix + spec.name] = f"`{literal(spec.default)}`"
    return found


def rows() -> dict[str, tuple[str, str]]:
    """Return default and meaning by value."""
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    matches = [ROW.fullmatch(line) for line in text.splitlines() if line.startswith("| `")]
    assert all(matches), "every row has four cells"
    found = [(m[1], (m[2], m[3])) for m in matches if m]
    assert len(dict(found)) == len(found), "a value is listed twice"
    return dict(found)


def test_every_value_has_a_row_with_its_default() -> None:
    assert {name: default for name, (default, _) in rows().items()} == fields(Recipe)


def test_every_choice_is_explained() -> None:
    page = rows()
    for name, choices in CHOICES.items():
        missing = [choice for choice in choices if f"`{choice}`" not in page[name][1]]
        assert not missing, name


def test_the_readme_links_to_the_page() -> None:
    assert "(docs/recipe.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
