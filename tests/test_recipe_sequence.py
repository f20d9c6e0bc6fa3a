"""Recipes of networks over series: a `[sequence]` table in place of what describes images."""

import pytest

from ichx.errors import InvalidInputError
from ichx.plugins import load_registry
from ichx.plugins.contract import Plugin
from ichx.recipe import IMAGE_TABLES, differences, digest, flatten, settable
from ichx.recipe_text import apply_settings, from_toml, to_toml

REGISTRY = load_registry()
SEQUENCES = [plugin for plugin in REGISTRY.plugins.values() if plugin.kind == "sequence"]


@pytest.mark.parametrize("plugin", SEQUENCES, ids=lambda plugin: plugin.name)
def test_toml_round_trip(plugin: Plugin) -> None:
    recipe = apply_settings(plugin.recipe, ["sequence.seeds=3", "sequence.noise=0.1"])
    text = to_toml(recipe)
    assert from_toml(text) == from_toml("", recipe) == recipe
    assert not [table for table in IMAGE_TABLES if f"[{table}]" in text]
    assert not [name for name in flatten(recipe) if name.split(".")[0] in IMAGE_TABLES]
    assert digest(recipe) != digest(plugin.recipe)
    assert differences(plugin.recipe, recipe).keys() == {"sequence.seeds", "sequence.noise"}


def test_recipes_for_images_have_no_sequence() -> None:
    recipe = REGISTRY.get("tiny_resnet").recipe
    assert "sequence" not in to_toml(recipe)
    assert not [name for name in settable(recipe) if name.startswith("sequence")]
    with pytest.raises(InvalidInputError, match="'sequence.width'"):
        apply_settings(recipe, ["sequence.width=8"])


@pytest.mark.parametrize("setting", ["input.size=64", "model.dropout=0.5", "augmentation.mixup=0.1"])
def test_recipes_for_series_have_no_image(setting: str) -> None:
    recipe = REGISTRY.get("gru_stack").recipe
    name, _, value = setting.partition("=")
    with pytest.raises(InvalidInputError, match=f"'{name}'"):
        apply_settings(recipe, [setting])
    table, _, key = name.partition(".")
    with pytest.raises(InvalidInputError, match=f"'{table}'"):
        from_toml(f"[{table}]\n{key} = {value}\n", recipe)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["sequence.inputs=[]", "sequence.residual=false"], "sequence.inputs = []"),
        (['sequence.inputs=["pixels"]', "sequence.residual=false"], 'sequence.inputs = ["pixels"]'),
        (['sequence.inputs=["logits", "logits"]'], 'sequence.inputs = ["logits", "logits"]'),
        (['sequence.inputs=["features"]'], "sequence.residual = true"),
        (["sequence.projection=8"], "sequence.projection = 8"),
        (["sequence.projection_kind=ica"], 'sequence.projection_kind = "ica"'),
        (["sequence.parts=0"], "sequence.parts = 0"),
        (["sequence.seeds=65"], "sequence.seeds = 65"),
        (["sequence.dropout=1"], "sequence.dropout = 1.0"),
        (["sequence.reverse=1.5"], "sequence.reverse = 1.5"),
        (["sequence.noise=-1"], "sequence.noise = -1.0"),
        (["sequence.average_last=3", "ema.decay=0.9"], "sequence.average_last = 3"),
        (["optimizer.clip=1"], "optimizer.clip = 1.0"),
    ],
)
def test_invalid_values(settings: list[str], named: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        apply_settings(REGISTRY.get("gru_stack").recipe, settings)
    (line,) = caught.value.problem.splitlines()
    assert line.startswith(f"{named}: ")


def test_the_number_of_heads() -> None:
    recipe = REGISTRY.get("gru_stack").recipe
    for settings, heads in (
        (["sequence.parts=5", "sequence.seeds=2"], 10),
        (['sequence.inputs=["features", "logits"]', "sequence.seeds=2"], 2),
    ):
        given = apply_settings(recipe, settings).sequence
        assert given is not None
        assert given.heads == heads


def test_a_plugin_has_what_its_kind_needs() -> None:
    one, other = REGISTRY.get("gru_stack"), REGISTRY.get("tiny_resnet")
    with pytest.raises(ValueError, match="gru_stack"):
        Plugin(name="gru_stack", summary="", recipe=one.recipe, kind="sequence")
    with pytest.raises(ValueError, match="gru_stack"):
        Plugin(name="gru_stack", summary="", recipe=one.recipe)
    with pytest.raises(ValueError, match="tiny_resnet"):
        Plugin(name="tiny_resnet", summary="", recipe=other.recipe, build_sequence=one.build_sequence)
    assert one.recipe_for() == one.recipe
    with pytest.raises(InvalidInputError, match="gru_stack"):
        one.recipe_for(size=64)
