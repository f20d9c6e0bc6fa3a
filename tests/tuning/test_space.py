"""Search spaces: their text and file forms, invalid ones, suggested values."""

import re
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.errors import CorruptFileError, IchxError, InvalidInputError, StorageError
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings, to_toml
from ichx.tuning.budget import format_settings, resize_stage, trial_recipe
from ichx.tuning.default_space import default_space
from ichx.tuning.joint_values import measure_joint, searchable
from ichx.tuning.space import Choice, Dimension, Range, Switch, parse_space, read_space, recorded, recorded_values
from ichx.tuning.space import to_toml as space_toml

RECIPE: Recipe = load_registry().get("tiny_resnet").recipe


def suggest(space: tuple[Dimension, ...], seed: int) -> dict[str, float | int | str]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    return {dimension.name: dimension.suggest(trial) for dimension in space}


def test_all_forms_of_a_search() -> None:
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
def test_suggested_values_are_valid_and_within_bounds(seed: int) -> None:
    searches = ["stage.balanced.lr=log:1e-4..3e-3", "batch=log:2..64", "input.window_kind=linear,sigmoid"]
    tuned = apply_settings(RECIPE, format_settings(suggest(parse_space(searches, RECIPE), seed)))
    assert 1e-4 <= tuned.stage[0].lr <= 3e-3
    assert 2 <= tuned.batch <= 64
    assert tuned.input.window_kind in ("linear", "sigmoid")


@pytest.mark.parametrize("name", sorted(load_registry().plugins))
def test_the_default_space_of_every_plugin_contains_its_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_registry().get(name).recipe
    space = {dimension.name: dimension for dimension in default_space(recipe)}
    own = searchable(recipe)
    assert all(dimension.contained(own[name]) is not None for name, dimension in space.items())
    assert 6 <= len(space) <= 8
    assert {"lr.factor", "optimizer.weight_decay", "ema.decay", "batch"} <= space.keys()
    assert ("augmentation.strength" in space) == (recipe.sequence is None)
    assert ("lr.ratio" in space) == (len(recipe.stage) > 1)
    assert ("model.drop_path" in space) == (recipe.model.drop_path > 0)
    assert isinstance(space["optimizer.weight_decay"], Switch)
    assert 0.0 in space["optimizer.weight_decay"].ends, "off exactly"
    assert "0.0" in space["ema.decay"].ends
    (tmp_path / "space.toml").write_text(space_toml(default_space(recipe)))
    assert read_space(tmp_path / "space.toml", recipe) == default_space(recipe)
    for seed in range(5):
        trial_recipe(recipe, suggest(default_space(recipe), seed), 0.5)


def test_the_default_space_contains_unusual_recipes() -> None:
    odd = ["augmentation.rotate=90", "ema.decay=0.5", "optimizer.weight_decay=0.3", "batch=1", "model.dropout=0.7"]
    odd += ["augmentation.shift=0.9", "stage.balanced.lr=10", "stage.full.lr=9.5"]
    recipe = apply_settings(RECIPE, odd)
    own = searchable(recipe)
    assert all(dimension.contained(own[dimension.name]) is not None for dimension in default_space(recipe))


def test_a_space_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        'batch = [16, 32]\ninput.window_kind = ["linear", "sigmoid"]\n'
        '[stage.balanced]\nlr = "log:1e-4..3e-3"\nmilestones = [[], [1, 2]]\n[augmentation]\nrotate = "0..30"\n',
        encoding="utf-8-sig",
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
    for text, error, values in (
        ("batch = 16", InvalidInputError, "batch = 16"),
        ("", InvalidInputError, "space.toml"),
        ("batch = ", CorruptFileError, "space.toml"),
        ('batch = "0..0"', InvalidInputError, "batch=0..0"),
        ('bach = "1..4"', InvalidInputError, "'batch'"),
    ):
        file.write_text(text)
        with pytest.raises(error, match=re.escape(values)):
            read_space(file, RECIPE)
    with pytest.raises(StorageError, match=r"none\.toml: No such file"):
        read_space(tmp_path / "none.toml", RECIPE)


def test_values_may_be_valid_only_together() -> None:
    recipe = apply_settings(RECIPE, ["input.size=96", "input.crop=0"])
    size, crop = parse_space(["input.size=88,128", "input.crop=64,112"], recipe)
    assert (size.ends, crop.ends) == (("88", "128"), ("64", "112"))
    with pytest.raises(InvalidInputError, match=r"input\.crop = 112"):
        parse_space(["input.size=88,100", "input.crop=64,112"], recipe)


def test_a_value_is_off_or_in_a_range() -> None:
    (mixup,) = parse_space(["augmentation.mixup=off,0.1..0.4"], RECIPE)
    assert mixup == Switch(Range("augmentation.mixup", 0.1, 0.4, False, False))
    assert (str(mixup), mixup.ends) == ("augmentation.mixup=off,0.1..0.4", (0.0, 0.1, 0.4))
    drawn = [suggest((mixup,), seed)["augmentation.mixup"] for seed in range(40)]
    assert 8 < drawn.count(0.0) < 32
    assert all(value == 0.0 or 0.1 <= float(value) <= 0.4 for value in drawn)
    assert [mixup.contained(value) for value in (0.0, 0.05, 0.2)] == [0.0, None, 0.2]
    for value in (0.0, 0.2):
        params = recorded((mixup,), {"augmentation.mixup": value})
        assert recorded_values(params) == {"augmentation.mixup": value}
    assert parse_space(["ema.decay=off,0.99,0.999"], RECIPE) == (Choice("ema.decay", ("0.0", "0.99", "0.999")),)
    (decay,) = parse_space(["optimizer.weight_decay=off,log:1e-5..1e-1"], RECIPE)
    assert isinstance(decay, Switch)
    assert decay.numbers.log
    for wrong in ("augmentation.mixup=off,0..0.4", "augmentation.mixup=off", "augmentation.mixup=off,0.4..0.1"):
        with pytest.raises(InvalidInputError, match=r"augmentation\.mixup=off"):
            parse_space([wrong], RECIPE)


def test_joint_values_change_several_values() -> None:
    joint: dict[str, float | int | str] = {"lr.factor": 2.0, "lr.ratio": 0.5, "augmentation.strength": 1.5}
    tried = trial_recipe(RECIPE, joint)
    own = [stage.lr for stage in RECIPE.stage]
    assert [stage.lr for stage in tried.stage] == pytest.approx([2 * own[0], own[1], own[2] / 2])
    for name in ("shift", "scale", "rotate"):
        assert getattr(tried.augmentation, name) == pytest.approx(1.5 * getattr(RECIPE.augmentation, name))
    assert tried.augmentation.probability == RECIPE.augmentation.probability
    assert measure_joint(tried, RECIPE) == pytest.approx(joint)
    each = ("augmentation.policy=each", "augmentation.noise=900", "augmentation.erase=0.2", "augmentation.shift=0.6")
    strong = trial_recipe(apply_settings(RECIPE, each), {"augmentation.strength": 2.0}).augmentation
    assert (strong.noise, strong.erase, strong.shift) == (1000, 0.4, 0.95), "at most what is valid"
    averaged = default_space(apply_settings(RECIPE, ["swa.epochs=2"]))
    assert "ema.decay" not in [dimension.name for dimension in averaged], "an average already"
    off = trial_recipe(RECIPE, {"augmentation.strength": 0.0})
    assert off.augmentation.probability == 0
    assert measure_joint(off, RECIPE)["augmentation.strength"] == 0
    assert trial_recipe(RECIPE, {"lr.factor": 1.0, "lr.ratio": 1.0, "augmentation.strength": 1.0}) == RECIPE
    with pytest.raises(IchxError, match=r"stage\.full\.lr"):
        trial_recipe(RECIPE, {"lr.factor": 1e5})


def test_windows_are_searched_by_number() -> None:
    (centre,) = parse_space(["input.windows.2.centre=50..110"], RECIPE)
    assert centre == Range("input.windows.2.centre", 50.0, 110.0, False, False)
    assert trial_recipe(RECIPE, {"input.windows.2.centre": 60.5}).input.windows[1][0] == 60.5


def test_a_resized_stage_keeps_its_proportions() -> None:
    stage = replace(RECIPE.stage[0], epochs=8, milestones=(4, 6), warmup=1.0, freeze=2, patience=4)
    assert resize_stage(stage, 4) == replace(stage, epochs=4, milestones=(2, 3), warmup=0.5, freeze=1, patience=2)
    assert resize_stage(stage, 1) == replace(stage, epochs=1, milestones=(1,), warmup=0.125, freeze=0, patience=1)
    assert resize_stage(stage, 8) is stage
    recipe = replace(RECIPE, stage=(stage, *RECIPE.stage[1:]))
    tried = trial_recipe(recipe, {"stage.balanced.epochs": 4, "batch": "8"}, 0.5)
    assert (tried.stage[0], tried.batch) == (resize_stage(resize_stage(stage, 4), 2), 8)
    assert trial_recipe(recipe, {"stage.balanced.epochs": "16"}).stage[0].milestones == (8, 12)
    with pytest.raises(IchxError, match="10000"):
        trial_recipe(recipe, {"stage.balanced.epochs": 0})
    assert to_toml(trial_recipe(recipe, {})) == to_toml(recipe)


def test_a_shorter_trial_averages_fewer_epochs() -> None:
    recipe = apply_settings(RECIPE, ["stage.full.epochs=6", "swa.epochs=4"])
    assert trial_recipe(recipe, {}, 0.5).swa.epochs == 3
    assert trial_recipe(recipe, {"stage.full.epochs": 2}).swa.epochs == 2
    recipe = apply_settings(RECIPE, ["stage.full.epochs=6", "prediction.average_last=4"])
    assert trial_recipe(recipe, {}, 0.2).prediction.average_last == 1


def test_one_error_lists_all_problems_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text('batch = 8\n[augmentation]\nrotate = "30..0"\nfoo = "1..2"\n', encoding="utf-8")
    with pytest.raises(InvalidInputError) as caught:
        read_space(file, RECIPE)
    lines = caught.value.problem.splitlines()
    assert len(lines) == 3
    for line, values in zip(lines, ("batch = 8", "augmentation.rotate=30..0", "'augmentation.foo'"), strict=True):
        assert line.startswith(f"{file}: ")
        assert values in line


def test_one_error_lists_all_problems() -> None:
    invalid = {
        "stage.balanced.lrr=1e-4..1e-3": "'stage.balanced.lr'",
        "stage.balanced.lr=1e-3..1e-4": "",
        "stage.full.lr=log:0..1e-3": "0",
        "optimizer.weight_decay=log:-1..1": "0",
        "model.dropout=0..1.5": "[0, 1)",
        "batch=1.5..3": "",
        "seed=1..many": "LOW..HIGH",
        "augmentation.scale=0..inf": "LOW..HIGH",
        "input.window_kind=linear..sigmoid": "A,B,C",
        "input.resize=bilinear,cubic": "bilinear, area",
        "input.centre=none": "two",
        "stage.rebalanced.lr": "NAME=LOW..HIGH",
        "plugin=a,b": "'plugin'",
    }
    with pytest.raises(InvalidInputError) as caught:
        parse_space([*invalid, "batch=2..4", "batch=3..5"], RECIPE)
    lines = caught.value.problem.splitlines()
    for search, values in {**invalid, "batch": "twice"}.items():
        assert [line for line in lines if search.split("=")[0] in line and values in line], (search, lines)
    assert len(lines) == len(invalid) + 1
    assert "NAME=log:LOW..HIGH" in caught.value.remedy
