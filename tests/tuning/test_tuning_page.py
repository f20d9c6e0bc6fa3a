"""What docs/tuning.md says of the default space is what is searched."""

import re
from pathlib import Path

from ichx.plugins import load_registry
from ichx.tuning.default_space import AVERAGES, RANGES, WEIGHT_DECAYS, default_space

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"


def rows() -> dict[str, str]:
    """Return what the page says is searched, by the first name of each row of its first table."""
    lines = PAGE.read_text(encoding="utf-8").partition("## What is searched")[2].partition("A space of your own")[0]
    return dict(re.findall(r"^\| `([^`]+)`[^|]*\| ([^|]+?) \|", lines, flags=re.MULTILINE))


def generic(name: str) -> str:
    """Return the name of a value as the page has it: of the first stage, or of the second window."""
    name = re.sub(r"^stage\.\w+\.", "stage.balanced.", name)
    return re.sub(r"^input\.windows\.\d\.", "input.windows.2.", name)


def test_every_searched_value_is_on_the_page() -> None:
    recipe = load_registry().get("resnext50").recipe
    assert {generic(dimension.name) for dimension in default_space(recipe)} == rows().keys()


def test_the_bounds_are_those_on_the_page() -> None:
    told = rows()
    for name, (low, high) in RANGES.items():
        assert told[name].startswith(f"{low:g} to {high:g}"), name
    for name, values in (("optimizer.weight_decay", WEIGHT_DECAYS), ("ema.decay", AVERAGES)):
        assert [float(text) for text in told[name].split(", ")] == list(values)
