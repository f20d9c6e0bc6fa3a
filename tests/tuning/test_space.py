"""Search spaces: what is written, what is refused, what is drawn."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.errors import IchxError
from ichx.plugins import load_registry
from ichx.recipe import Recipe, flatten
from ichx.recipe_text import apply_settings
from ichx.tuning.space import Choice, Range, default_space, parse_space, settings

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
def test_every_plugin_has_a_default_space(name: str) -> None:
    recipe = load_registry().get(name).recipe
    space = {dimension.name: dimension for dimension in default_space(recipe)}
    first = space[f"stage.{recipe.stage[0].name}.lr"]
    assert isinstance(first, Range)
    assert first.log
    assert (first.low, first.high) == pytest.approx((recipe.stage[0].lr / 5, recipe.stage[0].lr * 5))
    assert set(space) - {f"stage.{stage.name}.lr" for stage in recipe.stage} == {
        "optimizer.weight_decay",
        "augmentation.probability",
        "model.dropout",
    }
    assert set(space) <= set(flatten(recipe))


def test_all_problems_are_told_at_once() -> None:
    wrong = {
        "stage.balanced.lrr=1e-4..1e-3": "did you mean 'stage.balanced.lr'",
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
        "plugin=a,b": "no value 'plugin'",
    }
    with pytest.raises(IchxError) as caught:
        parse_space([*wrong, "batch=2..4", "batch=3..5"], RECIPE)
    lines = caught.value.problem.splitlines()
    for search, expected in {**wrong, "batch is": "searched twice"}.items():
        assert [line for line in lines if search.split("=")[0] in line and expected in line], (search, lines)
    assert len(lines) == len(wrong) + 1
    assert "NAME=log:LOW..HIGH" in caught.value.remedy
