"""The default search space equals the table in docs/tuning.md."""

import re
from pathlib import Path

from ichx.plugins import load_registry
from ichx.tuning.default_space import AVERAGES, DROP_PATHS, default_space
from ichx.tuning.space import Choice, Range, Switch

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("## Default search space")[2].partition("## Warm start")[0]


def rows() -> dict[str, str]:
    """Return the ranges in the page's table of the default space by name."""
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", SECTION, flags=re.MULTILINE))


def test_the_table_is_the_space_of_a_plugin() -> None:
    space = {dimension.name: dimension for dimension in default_space(load_registry().get("resnext50").recipe)}
    assert space.keys() == rows().keys()
    for name, text in rows().items():
        dimension = space[name]
        if isinstance(dimension, Choice):
            continue
        numbers = dimension.numbers if isinstance(dimension, Switch) else dimension
        low, high = (repr(float(end)).replace("1e-05", "1e-5").removesuffix(".0") for end in numbers.ends)
        assert f"{low} to {high}" in text, name
        assert ("logarithmic" in text, text.startswith("off, or")) == (numbers.log, isinstance(dimension, Switch))
    averages = [float(number) for number in re.findall(r"[\d.]+", rows()["ema.decay"])]
    assert averages == list(AVERAGES)
    assert isinstance(space["lr.factor"], Range)


def test_values_of_other_recipes_are_on_the_page() -> None:
    for plugin in ("gru_stack", "convnext_small"):
        names = {dimension.name for dimension in default_space(load_registry().get(plugin).recipe)}
        assert all(f"`{name}`" in SECTION for name in names)
    assert "off or {} to {}".format(*DROP_PATHS) in SECTION
