"""Search spaces: what is written, what is refused, what is drawn."""

import re
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.errors import IchxError
from ichx.plugins import load_registry
from ichx.recipe import Recipe, settable
from ichx.recipe_text import apply_settings, to_toml
from ichx.tuning.budget import resized, settings, trial_recipe
from ichx.tuning.default_space import default_space
from ichx.tuning.space import Choice, Range, parse_space, read_space
from ichx.tuning.space import to_toml as space_toml

RECIPE: Recipe = load_registry().get("tiny_resnet").recipe


def draw(space: tuple[Range | Choice, ...], seed: int) -> dict[str, float | int | str]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    return {dimension.name: dimension.draw(trial) for dimension in space}


def test_three_forms() -> None:
    space = parse_space(
        [
            "stage.balanced.lr=log:1e-4..3e-3",
            "augmentation.rotate = 0..30",
            "stage.full.epochs=1..4",
            "input.window_kind=linear,sigmoid",
            "batch=16, 32",
            "stage.balanced.milestones=[],[1, 2]",
            "augmentation.hflip=true,false",
        ],
        RECIPE,
    )
    assert space == (
        Range("stage.balanced.lr", 1e-4, 3e-3, True, False),
        Range("augmentation.rotate", 0.0, 30.0, False, False),
        Range("stage.full.epochs", 1.0, 4.0, False, True),
        Choice("input.window_kind", ('"linear"', '"sigmoid"')),
        Choice("batch", ("16", "32")),
        Choice("stage.balanced.milestones", ("[]", "[1, 2]")),
        Choice("augmentation.hflip", ("true", "false")),
    )
    assert parse_space([str(dimension) for dimension in space], RECIPE) == space


@given(st.integers(0, 2**31))
def test_what_is_drawn_is_a_recipe_within_its_bounds(seed: int) -> None:
    searches = ["stage.balanced.lr=log:1e-4..3e-3", "batch=log:2..64", "input.window_kind=linear,sigmoid"]
    tuned = apply_settings(RECIPE, settings(draw(parse_space(searches, RECIPE), seed)))
    assert 1e-4 <= tuned.stage[0].lr <= 3e-3
    assert 2 <= tuned.batch <= 64
    assert tuned.input.window_kind in ("linear", "sigmoid")


@pytest.mark.parametrize("name", sorted(load_registry().plugins))
def test_every_plugin_has_a_default_space_that_holds_its_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_registry().get(name).recipe
    space = {dimension.name: dimension for dimension in default_space(recipe)}
    own = settable(recipe)
    assert all(dimension.holds(own[name]) is not None for name, dimension in space.items())
    first = space[f"stage.{recipe.stage[0].name}.lr"]
    assert isinstance(first, Range)
    assert first.log
    assert (first.low, first.high) == pytest.approx((recipe.stage[0].lr / 10, recipe.stage[0].lr * 10))
    wanted = ("optimizer.weight_decay", "batch", "augmentation.mixup", "augmentation.window_shift", "model.dropout")
    assert {*wanted, "ema.decay", "loss.label_smoothing", f"stage.{recipe.stage[-1].name}.epochs"} <= space.keys()
    assert any(name.startswith("input.windows.") for name in space)
    (tmp_path / "space.toml").write_text(space_toml(default_space(recipe)))
    assert read_space(tmp_path / "space.toml", recipe) == default_space(recipe)
    for seed in range(5):
        trial_recipe(recipe, draw(default_space(recipe), seed), 0.5)


def test_a_recipe_outside_of_the_usual_bounds_is_held_too() -> None:
    odd = ["augmentation.rotate=90", "ema.decay=0.5", "optimizer.weight_decay=0.3", "batch=1", "model.dropout=0.7"]
    recipe = apply_settings(RECIPE, odd)
    own = settable(recipe)
    assert all(dimension.holds(own[dimension.name]) is not None for dimension in default_space(recipe))


def test_a_space_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        'batch = [16, 32]\ninput.window_kind = ["linear", "sigmoid"]\n'
        '[stage.balanced]\nlr = "log:1e-4..3e-3"\nmilestones = [[], [1, 2]]\n[augmentation]\nrotate = "0..30"\n'
    )
    assert read_space(file, RECIPE) == parse_space(
        [
            "batch=16,32",
            "input.window_kind=linear,sigmoid",
            "stage.balanced.lr=log:1e-4..3e-3",
            "stage.balanced.milestones=[],[1, 2]",
            "augmentation.rotate=0..30",
        ],
        RECIPE,
    )
    for text, problem in {
        "batch = 16": 'batch = 16: must be a range, "LOW..HIGH", or a list',
        "": "searches nothing",
        "batch = ": "is not valid TOML",
        'batch = "0..0"': "the range is empty",
        'bach = "1..4"': "'batch'",
    }.items():
        file.write_text(text)
        with pytest.raises(IchxError, match=re.escape(problem)):
            read_space(file, RECIPE)
    with pytest.raises(IchxError, match=r"cannot read .*none.toml: No such file"):
        read_space(tmp_path / "none.toml", RECIPE)


def test_values_that_only_fit_beside_others_may_be_searched_together() -> None:
    recipe = apply_settings(RECIPE, ["input.size=96", "input.crop=0"])
    size, crop = parse_space(["input.size=88,128", "input.crop=64,112"], recipe)
    assert (size.ends, crop.ends) == (("88", "128"), ("64", "112"))
    with pytest.raises(IchxError, match=r"input\.crop = 112"):
        parse_space(["input.size=88,100", "input.crop=64,112"], recipe)


def test_windows_are_searched_by_their_numbers() -> None:
    (centre,) = parse_space(["input.windows.2.centre=50..110"], RECIPE)
    assert centre == Range("input.windows.2.centre", 50.0, 110.0, False, False)
    assert trial_recipe(RECIPE, {"input.windows.2.centre": 60.5}).input.windows[1][0] == 60.5


def test_a_stage_keeps_its_shape_at_another_length() -> None:
    stage = replace(RECIPE.stage[0], epochs=8, milestones=(4, 6), warmup=1.0, freeze=2, patience=4)
    assert resized(stage, 4) == replace(stage, epochs=4, milestones=(2, 3), warmup=0.5, freeze=1, patience=2)
    assert resized(stage, 1) == replace(stage, epochs=1, milestones=(1,), warmup=0.125, freeze=0, patience=1)
    assert resized(stage, 8) is stage
    recipe = replace(RECIPE, stage=(stage, *RECIPE.stage[1:]))
    found = trial_recipe(recipe, {"stage.balanced.epochs": 4, "batch": "8"}, 0.5)
    assert (found.stage[0], found.batch) == (resized(resized(stage, 4), 2), 8)
    assert trial_recipe(recipe, {"stage.balanced.epochs": "16"}).stage[0].milestones == (8, 12)
    with pytest.raises(IchxError, match="between 1 and 10000"):
        trial_recipe(recipe, {"stage.balanced.epochs": 0})
    assert to_toml(trial_recipe(recipe, {})) == to_toml(recipe)


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('batch = 8\n[augmentation]\nrotate = "30..0"\nfoo = "1..2"\n', encoding="utf-8")
    with pytest.raises(IchxError) as caught:
        read_space(file, RECIPE)
    told = caught.value.problem.splitlines()
    assert len(told) == 3
    for line, expected in zip(told, ("must be a range", "the range is empty", "'augmentation.foo'"), strict=True):
        assert line.startswith(f"{file}: ")
        assert expected in line


def test_all_problems_are_told_at_once() -> None:
    wrong = {
        "stage.balanced.lrr=1e-4..1e-3": "'stage.balanced.lr'",
        "stage.balanced.lr=1e-3..1e-4": "the range is empty",
        "stage.full.lr=log:0..1e-3": "above 0",
        "optimizer.weight_decay=log:-1..1": "above 0",
        "model.dropout=0..1.5": "must be in [0, 1)",
        "batch=1.5..3": "whole number",
        "seed=1..many": "from one number to another",
        "augmentation.scale=0..inf": "from one number to another",
        "input.window_kind=linear..sigmoid": "is no number",
        "input.resize=bilinear,cubic": "must be one of bilinear, area",
        "input.centre=none": "two or more",
        "stage.rebalanced.lr": "is not of the form",
        "plugin=a,b": "'plugin'",
    }
    with pytest.raises(IchxError) as caught:
        parse_space([*wrong, "batch=2..4", "batch=3..5"], RECIPE)
    lines = caught.value.problem.splitlines()
    for search, expected in {**wrong, "batch is": "searched twice"}.items():
        assert [line for line in lines if search.split("=")[0] in line and expected in line], (search, lines)
    assert len(lines) == len(wrong) + 1
    assert "NAME=log:LOW..HIGH" in caught.value.remedy
