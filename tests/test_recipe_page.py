"""The page on the recipe has every value, with the default that it has, and no other."""

import dataclasses
import re
import typing
from pathlib import Path

from ichx.recipe import Recipe, StageRecipe
from ichx.recipe_rules import CHOICES
from ichx.recipe_text import literal

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"\| `([^`]+)` \| (.+?) \| (.+) \| ([^|]*) ?\|")


def fields(kind: type, prefix: str = "") -> dict[str, str]:
    """Return what the page must say is the default of each value of `kind`."""
    found: dict[str, str] = {}
    hints = typing.get_type_hints(kind)
    for spec in dataclasses.fields(kind):
        if spec.name == "stage":
            found |= fields(StageRecipe, "stage.*.")
        elif dataclasses.is_dataclass(hints[spec.name]):
            found |= fields(hints[spec.name], f"{spec.name}.")
        elif spec.default is dataclasses.MISSING:
            found[prefix + spec.name] = "required"
        else:
            found[prefix + spec.name] = f"`{literal(spec.default)}`"
    return found


def rows() -> dict[str, tuple[str, str]]:
    """Return the page's rows by value: its default and its meaning."""
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    matches = [ROW.fullmatch(line) for line in text.splitlines() if line.startswith("| `")]
    assert all(matches), "every row has four cells"
    found = [(m[1], (m[2], m[3])) for m in matches if m]
    assert len(dict(found)) == len(found), "no value stands twice"
    return dict(found)


def test_every_value_is_on_the_page_with_its_default() -> None:
    assert {name: default for name, (default, _) in rows().items()} == fields(Recipe)


def test_every_choice_is_explained() -> None:
    page = rows()
    for name, choices in CHOICES.items():
        missing = [choice for choice in choices if f"`{choice}`" not in page[name][1]]
        assert not missing, name


def test_the_readme_links_to_it() -> None:
    assert "(docs/recipe.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
