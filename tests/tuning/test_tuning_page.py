"""The default search space equals the table in docs/tuning.md."""

import re
from pathlib import Path

from ichx.plugins import load_registry
from ichx.tuning.default_space import AVERAGES, RANGES, WEIGHT_DECAYS, default_space

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"


def rows() -> dict[str, str]:
    """Return the ranges in the page's table of the default space, by the first name of each row."""
    lines = (
        PAGE.read_text(encoding="utf-8").partition("## Default search space")[2].partition("## Custom search space")[0]
    )
    return dict(re.findall(r"^\| `([^`]+)`[^|]*\| ([^|]+?) \|", lines, flags=re.MULTILINE))


def generic(name: str) -> str:
    """Return the name of a value on the page, which lists the first stage and the second window."""
    name = re.sub(r"^stage\.\w+\.", "stage.balanced.", name)
    return re.sub(r"^input\.windows\.\d\.", "input.windows.2.", name)


def test_every_searched_value_is_on_the_page() -> None:
    recipes = [load_registry().get(name).recipe for name in ("resnext50", "gru_stack")]
    searched = {generic(dimension.name) for recipe in recipes for dimension in default_space(recipe)}
    assert searched == rows().keys()


def test_the_bounds_are_those_on_the_page() -> None:
    ranges = rows()
    for name, (low, high) in RANGES.items():
        assert ranges[name].startswith(f"{low:g} to {high:g}"), name
    for name, values in (("optimizer.weight_decay", WEIGHT_DECAYS), ("ema.decay", AVERAGES)):
        assert [float(text) for text in ranges[name].split(", ")] == list(values)
