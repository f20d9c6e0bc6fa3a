"""Recipes: names, TOML form, digests, settings, and invalid values, which are reported together."""

import dataclasses
import json
from typing import Any

import pytest
from base_recipe import BASE, problems
from hypothesis import given
from hypothesis import strategies as st

from ichx.errors import InvalidInputError
from ichx.plugins import load_registry
from ichx.plugins.contract import reference_recipe
from ichx.plugins.reference import REFERENCE
from ichx.recipe import (
    AugmentationRecipe,
    EmaRecipe,
    InputRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    StageRecipe,
    differences,
    digest,
    flatten,
    settable,
)
from ichx.recipe_rules import invalid_values
from ichx.recipe_text import apply_settings, from_toml, to_toml

shares = st.floats(0, 0.99)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True).filter(str.isidentifier)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=20)
windows = st.tuples(st.floats(-2000, 2000), st.floats(1e-3, 5000)) | st.just((-1.0, -1.0))
common: dict[str, st.SearchStrategy[Any]] = {
    "name": names,
    "sampling": st.sampled_from(["fixed", "redrawn", "all"]),
    "epochs": st.integers(2, 10000),
    "lr": st.floats(1e-12, 10),
    "freeze": st.integers(0, 2),
    "patience": st.integers(0, 99),
}
warmups = st.floats(0, 1.99)
milestones = st.sets(st.integers(1, 99), max_size=3).map(lambda s: tuple(sorted(s)))
stages = (
    st.builds(StageRecipe, **common, warmup=warmups, milestones=milestones, gamma=st.floats(1e-6, 10))
    | st.builds(StageRecipe, **common, warmup=warmups, scheduler=st.just("cosine"))
    | st.builds(StageRecipe, **common, scheduler=st.just("onecycle"))
)
recipes = st.builds(
    Recipe,
    plugin=texts,
    model=st.builds(ModelRecipe, backbone=texts, pretrained=st.booleans(), dropout=shares, drop_path=shares),
    input=st.builds(
        InputRecipe,
        size=st.integers(64, 4096),
        crop=st.integers(16, 64) | st.just(0),
        windows=st.tuples(windows, windows, windows),
        window_kind=st.sampled_from(["linear", "sigmoid"]),
        centre=st.sampled_from(["none", "slice", "series"]),
        resize=st.sampled_from(["bilinear", "area"]),
        normalize=st.sampled_from(["none", "imagenet"]),
    ),
    stage=st.lists(stages, min_size=1, max_size=3, unique_by=lambda s: s.name).map(tuple),
    batch=st.integers(1, 65536),
    seed=st.integers(0, 2**32 - 1),
    precision=st.sampled_from(["auto", "fp32", "fp16", "bf16"]),
    optimizer=st.builds(
        OptimizerRecipe,
        name=st.sampled_from(["radam", "adamw", "sgd"]),
        weight_decay=st.floats(0, 1),
        layer_decay=st.floats(0.01, 1),
        clip=st.floats(0, 10),
    ),
    augmentation=st.builds(
        AugmentationRecipe,
        probability=st.floats(0, 1),
        shift=shares,
        rotate=st.floats(0, 90),
        mixup=st.floats(0, 2),
        cutmix=st.floats(0, 2),
        mix_probability=st.floats(0, 1),
    ),
    loss=st.builds(LossRecipe, label_smoothing=shares),
    ema=st.builds(EmaRecipe, decay=shares),
)


@given(recipes)
def test_toml_round_trip_returns_an_equal_recipe(recipe: Recipe) -> None:
    assert invalid_values(recipe) == []
    copy = from_toml(to_toml(recipe))
    assert copy == recipe
    assert digest(copy) == digest(recipe)


@given(recipes)
def test_every_value_can_be_set_by_its_name(recipe: Recipe) -> None:
    blank = dataclasses.replace(
        reference_recipe(recipe.plugin, "x", batch=1),
        stage=tuple(StageRecipe(name=s.name, sampling="all", epochs=2, lr=1.0) for s in recipe.stage),
    )
    settings = [f"{name}={typed(value)}" for name, value in flatten(recipe).items() if name != "plugin"]
    assert apply_settings(blank, settings) == recipe


def typed(value: object) -> str:
    """Return a value as a user types it after `--set NAME=`."""
    if isinstance(value, tuple):
        return "[" + ", ".join(typed(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def test_a_setting_of_every_stage() -> None:
    changed = apply_settings(BASE, ["stage.*.epochs=7", f"stage.{BASE.stage[0].name}.epochs=3"])
    assert [stage.epochs for stage in changed.stage] == [3] + [7] * (len(BASE.stage) - 1)
    assert len(BASE.stage) > 1
    with pytest.raises(InvalidInputError, match=r"'stage\.\*\.epoch'. Did you mean 'stage\.[a-z]+\.epochs'"):
        apply_settings(BASE, ["stage.*.epoch=7"])
    with pytest.raises(InvalidInputError, match=r"stage\.\*\.name"):
        apply_settings(BASE, ["stage.*.name=x"])


def test_every_value_changes_the_digest() -> None:
    digests = {digest(BASE), digest(apply_settings(BASE, ["seed=1"])), digest(apply_settings(BASE, ["batch=63"]))}
    changed = apply_settings(BASE, ["stage.full.gamma=0.4999999999999999"])
    assert len(digests | {digest(changed)}) == 4
    assert len(digest(BASE)) == 16


VERSION_0_1 = (
    "optimizer.decoupled=false",
    "augmentation.crop_first=false",
    "model.dropout=0",
    "model.drop_path=0",
    "model.bn_momentum=0",
)
"""Values in which the recipes of the reference differed."""


def test_digests_of_stored_recipes_stay_the_same() -> None:
    """Digests of the first version: fields that later versions added do not change them."""
    registry = load_registry()
    assert [digest(apply_settings(model.recipe(registry), VERSION_0_1)) for model in REFERENCE] == [
        "10221f0a9e298c6c",
        "dc503518ae7483db",
        "a9f945acb0793e38",
        "afb8d1b80af0f2de",
        "d58aecd7d7915741",
        "2c9f67c04db36a25",
    ]
    assert digest(apply_settings(registry.plugins["seresnext50"].recipe, VERSION_0_1)) == "d58aecd7d7915741"
    assert digest(registry.plugins["tiny_fine"].recipe) == "bdef8372e3dbbb17"
    assert digest(apply_settings(BASE, VERSION_0_1)) == "c019020a4c140627"


@pytest.mark.parametrize(
    "change",
    [
        "input.neighbours=1",
        "loss.label_smoothing=0.1",
        "ema.decay=0.9",
        "model.drop_path=0.1",
        "model.mask_weight=0.5",
        "model.bn_momentum=0.01",
        "model.checkpointing=true",
        "model.sync_bn=true",
        "input.field=200",
        "optimizer.clip=1",
        "augmentation.crop_first=true",
        "optimizer.decoupled=true",
        "augmentation.mixup=0.2",
        "stage.full.warmup=1",
        "stage.full.patience=1",
        "stage.balanced.freeze=1",
    ],
)
def test_added_fields_are_in_the_digest_when_they_are_set(change: str) -> None:
    centred = apply_settings(BASE, [*VERSION_0_1, "input.centre=series"])
    changed = apply_settings(centred, [change])
    assert digest(changed) != digest(centred)
    assert digest(from_toml(to_toml(changed))) == digest(changed)


def test_a_recipe_without_the_added_fields_loads() -> None:
    added = ("drop_path", "mask_weight", "neighbours", "layer_decay", "clip", "mixup", "cutmix", "mix_probability")
    added += (
        "warmup",
        "freeze",
        "patience",
        "[loss]",
        "label_smoothing",
        "study_pooling",
        "study_weight",
        "study_start",
        "[ema]",
        "decay",
    )
    old = [line for line in to_toml(BASE).splitlines() if line.split(" = ")[0] not in added]
    assert from_toml("\n".join(old)) == BASE


@pytest.mark.parametrize(
    ("settings", "slices", "channels"),
    [
        ([], 1, 3),
        (["input.neighbours=1", "input.centre=series"], 3, 9),
        (["input.neighbours=2", "input.centre=none", "input.windows=[[40,80]]"], 5, 5),
        (["input.neighbours=3", "input.centre=series", "input.windows=[[-1,-1]]"], 7, 7),
        (["input.neighbours=4", "input.centre=series", "input.windows=[[40,80]]"], 9, 9),
        (["input.neighbours=1", "input.centre=series", "input.windows=[[40,80],[80,200]]"], 3, 6),
        (["input.neighbours=3", "input.centre=series"], 7, 21),
        (["input.windows=[[40,80]]"], 1, 1),
        ([f"input.windows={[[40, 80]] * 9}"], 1, 9),
    ],
)
def test_channels_are_slices_times_windows(settings: list[str], slices: int, channels: int) -> None:
    recipe = apply_settings(BASE, settings)
    assert (recipe.input.slices, recipe.input.channels) == (slices, channels)


def test_centre_and_width_of_a_window_can_be_set() -> None:
    recipe = apply_settings(BASE, ["input.windows=[[-1,-1],[40,80],[80,200]]"])
    changed = apply_settings(recipe, ["input.windows.2.centre=45.5", "input.windows.3.width=150"])
    assert changed.input.windows == ((-1, -1), (45.5, 80), (80, 150))
    assert settable(recipe)["input.windows.2.width"] == 80
    for name in ("input.windows.1.centre", "input.windows.4.width", "input.windows.2.centr", "plugin"):
        (line,) = problems(recipe, f"{name}=50")
        assert repr(name) in line
    (line,) = problems(recipe, "input.windows.2.width=0")
    assert line.startswith("input.windows = [[-1.0, -1.0], [40.0, 0.0], [80.0, 200.0]]: ")


def test_values_have_the_names_of_the_toml() -> None:
    flat = flatten(BASE)
    assert flat["batch"] == 64
    assert flat["input.size"] == 256
    assert flat["stage.balanced.lr"] == 1e-3
    assert flat["stage.full.milestones"] == (1,)
    assert flat["augmentation.grid_steps"] == 20
    assert flat["optimizer.name"] == "radam"


def test_settings_accept_what_people_type() -> None:
    changed = apply_settings(
        BASE,
        ["stage.balanced.lr=5e-4", "input.window_kind=sigmoid", " batch = 32 ", "model.pretrained=false", "seed=7"],
    )
    assert changed.stage[0].lr == 5e-4
    assert changed.input.window_kind == "sigmoid"
    assert (changed.batch, changed.model.pretrained, changed.seed) == (32, False, 7)
    assert changed.stage[1:] == BASE.stage[1:]
    assert apply_settings(BASE, ["augmentation.rotate=20"]).augmentation.rotate == 20.0
    assert apply_settings(BASE, ["input.windows=[[40,80],[-1,-1],[600,2800]]"]).input.windows[0] == (40.0, 80.0)
    assert apply_settings(BASE, ["seed=1", "seed=2"]).seed == 2


def test_a_recipe_with_patience_selects_by_score() -> None:
    assert not BASE.selects
    assert apply_settings(BASE, ["stage.rebalanced.patience=1"]).selects


def test_partial_toml_changes_a_base() -> None:
    text = "batch = 8\n[input]\nsize = 128\ncrop = 0\n"
    assert from_toml(text, BASE) == apply_settings(BASE, ["batch=8", "input.size=128", "input.crop=0"])
    stages = from_toml('[[stage]]\nname = "only"\nsampling = "all"\nepochs = 1\nlr = 1e-3\n', BASE)
    assert [stage.name for stage in stages.stage] == ["only"]


def test_pixels_and_epochs() -> None:
    assert BASE.input.pixels == 224
    assert dataclasses.replace(BASE.input, crop=0).pixels == 256
    assert BASE.epochs == 8


def test_differences_have_the_names_of_the_values() -> None:
    changed = apply_settings(BASE, ["batch=32", "stage.full.lr=1e-5"])
    assert differences(BASE, BASE) == {}
    assert differences(BASE, changed) == {"batch": (64, 32), "stage.full.lr": (8e-6, 1e-5)}
    fewer = dataclasses.replace(BASE, stage=BASE.stage[:1])
    assert differences(BASE, fewer)["stage.full.lr"] == (8e-6, None)
    assert differences(fewer, BASE)["stage.full.lr"] == (None, 8e-6)
