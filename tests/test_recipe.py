"""A recipe: its names, its TOML form, and all that is wrong with one, told at once."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.errors import IchxError
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

GIVEN = reference_recipe("mine", "resnet18.tv_in1k", batch=64)

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
def test_toml_brings_an_equal_recipe_back(recipe: Recipe) -> None:
    assert invalid_values(recipe) == []
    again = from_toml(to_toml(recipe))
    assert again == recipe
    assert digest(again) == digest(recipe)


@given(recipes)
def test_every_value_can_be_set_by_its_name(recipe: Recipe) -> None:
    blank = dataclasses.replace(
        reference_recipe(recipe.plugin, "x", batch=1),
        stage=tuple(StageRecipe(name=s.name, sampling="all", epochs=2, lr=1.0) for s in recipe.stage),
    )
    settings = [f"{name}={typed(value)}" for name, value in flatten(recipe).items() if name != "plugin"]
    assert apply_settings(blank, settings) == recipe


def typed(value: object) -> str:
    """Return a value as a user would type it after `--set NAME=`."""
    if isinstance(value, tuple):
        return "[" + ", ".join(typed(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def test_a_digest_tells_every_value_apart() -> None:
    digests = {digest(GIVEN), digest(apply_settings(GIVEN, ["seed=1"])), digest(apply_settings(GIVEN, ["batch=63"]))}
    changed = apply_settings(GIVEN, ["stage.full.gamma=0.4999999999999999"])
    assert len(digests | {digest(changed)}) == 4
    assert len(digest(GIVEN)) == 16


def test_values_that_were_added_change_no_digest_until_they_are_used() -> None:
    """The digests of the reference's recipes from before there were neighbours: stored experiments have them."""
    registry = load_registry()
    assert [digest(model.recipe(registry)) for model in REFERENCE] == [
        "10221f0a9e298c6c",
        "dc503518ae7483db",
        "a9f945acb0793e38",
        "afb8d1b80af0f2de",
        "d58aecd7d7915741",
        "2c9f67c04db36a25",
    ]
    stacked = apply_settings(GIVEN, ["input.neighbours=1", "input.centre=series"])
    assert digest(stacked) != digest(apply_settings(GIVEN, ["input.centre=series"]))
    assert digest(from_toml(to_toml(GIVEN).replace("neighbours = 0\n", ""))) == digest(GIVEN)


@pytest.mark.parametrize(
    ("settings", "slices", "channels"),
    [
        ([], 1, 3),
        (["input.neighbours=1", "input.centre=series"], 3, 9),
        (["input.neighbours=2", "input.centre=none", "input.windows=[[40,80]]"], 5, 5),
        (["input.neighbours=3", "input.centre=series", "input.windows=[[-1,-1]]"], 7, 7),
    ],
)
def test_channels_are_slices_by_windows(settings: list[str], slices: int, channels: int) -> None:
    recipe = apply_settings(GIVEN, settings)
    assert (recipe.input.slices, recipe.input.channels) == (slices, channels)


def test_a_windows_centre_and_width_have_names() -> None:
    tuned = apply_settings(GIVEN, ["input.windows=[[-1,-1],[40,80],[80,200]]"])
    found = apply_settings(tuned, ["input.windows.2.centre=45.5", "input.windows.3.width=150"])
    assert found.input.windows == ((-1, -1), (45.5, 80), (80, 150))
    assert settable(tuned)["input.windows.2.width"] == 80
    for name in ("input.windows.1.centre", "input.windows.4.width", "input.windows.2.centr", "plugin"):
        with pytest.raises(IchxError, match=f"no value '{name}'"):
            apply_settings(tuned, [f"{name}=50"])
    with pytest.raises(IchxError, match="positive width"):
        apply_settings(tuned, ["input.windows.2.width=0"])


def test_neighbours_fit_their_windows_and_centring() -> None:
    with pytest.raises(IchxError) as caught:
        apply_settings(GIVEN, ["input.neighbours=4", "input.windows=[[40,80],[80,200]]"])
    count, windows, centre = caught.value.problem.splitlines()
    assert count == "input.neighbours = 4: must be between 0 and 3"
    assert windows.endswith("must be one or three [centre, width] pairs")
    assert centre.startswith('input.centre = "slice": must be series or none with input.neighbours')
    with pytest.raises(IchxError, match=r"input\.neighbours = -1: must be between 0 and 3"):
        apply_settings(GIVEN, ["input.neighbours=-1", "input.centre=none"])
    with pytest.raises(IchxError, match=r"three .* pairs, or one with input\.neighbours"):
        apply_settings(GIVEN, ["input.windows=[[40,80]]"])


def test_names_are_those_of_the_toml() -> None:
    flat = flatten(GIVEN)
    assert flat["batch"] == 64
    assert flat["input.size"] == 256
    assert flat["stage.balanced.lr"] == 1e-3
    assert flat["stage.full.milestones"] == (1,)
    assert flat["augmentation.grid_steps"] == 20
    assert flat["optimizer.name"] == "radam"


def test_settings_are_read_as_people_type_them() -> None:
    changed = apply_settings(
        GIVEN,
        ["stage.balanced.lr=5e-4", "input.window_kind=sigmoid", " batch = 32 ", "model.pretrained=false", "seed=7"],
    )
    assert changed.stage[0].lr == 5e-4
    assert changed.input.window_kind == "sigmoid"
    assert (changed.batch, changed.model.pretrained, changed.seed) == (32, False, 7)
    assert changed.stage[1:] == GIVEN.stage[1:]
    assert apply_settings(GIVEN, ["augmentation.rotate=20"]).augmentation.rotate == 20.0
    assert apply_settings(GIVEN, ["input.windows=[[40,80],[-1,-1],[600,2800]]"]).input.windows[0] == (40.0, 80.0)
    assert apply_settings(GIVEN, ["seed=1", "seed=2"]).seed == 2


def test_all_wrong_settings_are_told_at_once() -> None:
    settings = ["stage.balanced.lrr=1", "batch", "seed=x", "plugin=other", "stage.full.milestones=3"]
    with pytest.raises(IchxError) as caught:
        apply_settings(GIVEN, settings)
    told = caught.value.problem.splitlines()
    assert "a recipe has no value 'stage.balanced.lrr'; did you mean 'stage.balanced.lr'" in told[0]
    assert "'batch' is not of the form NAME=VALUE" in told
    assert any("no value 'plugin'" in line for line in told)
    assert 'seed = "x": must be a whole number' in told
    assert "stage.full.milestones = 3: must be a list" in told
    assert len(told) == 5
    assert "ichx plugin show" in caught.value.remedy


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("batch=0", "batch = 0: must be between 1 and 65536"),
        ("batch=1.5", "batch = 1.5: must be a whole number"),
        ("batch=true", "batch = true: must be a whole number"),
        ("seed=-1", "seed = -1: must be between 0 and"),
        ("input.size=8", "input.size = 8: must be between 16 and 4096 pixels"),
        ("input.crop=300", "input.crop = 300: must be 0, or 16 to input.size"),
        ("input.window_kind=linaer", 'input.window_kind = "linaer": must be one of linear, sigmoid'),
        ("input.windows=[[1,2],[3,4]]", "must be three [centre, width] pairs"),
        ("input.windows=[[40,0],[1,1],[1,1]]", "pairs of centre and positive width"),
        ("input.windows=[[40],[1,1],[1,1]]", "must have 2 values"),
        ("input.normalize=yes", "must be one of none, imagenet"),
        ("model.dropout=1", "model.dropout = 1.0: must be in [0, 1)"),
        ("model.drop_path=1", "model.drop_path = 1.0: must be in [0, 1)"),
        ("optimizer.name=adam", "must be one of radam, adamw, sgd"),
        ("optimizer.weight_decay=-1", "0 or more"),
        ("optimizer.clip=-1", "0 or more"),
        ("optimizer.layer_decay=0", "in (0, 1]"),
        ("optimizer.layer_decay=1.1", "in (0, 1]"),
        ("loss.label_smoothing=1", "in [0, 1)"),
        ("ema.decay=1", "in [0, 1)"),
        ("augmentation.mixup=-1", "0 or more"),
        ("augmentation.cutmix=nan", "finite"),
        ("augmentation.mix_probability=2", "in [0, 1]"),
        ("augmentation.probability=1.1", "in [0, 1]"),
        ("augmentation.shift=1.0", "in [0, 1)"),
        ("augmentation.window_scale=1.0", "in [0, 1)"),
        ("augmentation.window_shift=-1", "0 or more"),
        ("augmentation.elastic_sigma=0", "positive"),
        ("augmentation.rotate=inf", "finite"),
        ("augmentation.hflip=1", "true or false"),
        ("stage.full.epochs=0", "stage.full.epochs = 0: must be between 1 and 10000"),
        ("stage.full.lr=0", "stage.full.lr = 0.0: must be in (0, 10]"),
        ("stage.full.lr=nan", "stage.full.lr = nan"),
        ("stage.full.gamma=0", "positive"),
        ("stage.full.sampling=some", "must be one of fixed, redrawn, all"),
        ("stage.full.milestones=[2, 1]", "rising epochs from 1"),
        ("stage.full.milestones=[0]", "rising epochs from 1"),
        ("stage.full.scheduler=linear", "must be one of multistep, cosine, onecycle"),
        ("stage.full.warmup=2", "fewer epochs than the stage has"),
        ("stage.full.freeze=3", "at most the stage's epochs"),
        ("stage.full.patience=-1", "0 or more"),
        ("precision=fp8", "must be one of auto"),
    ],
)
def test_values_that_no_training_could_use(setting: str, told: str) -> None:
    with pytest.raises(IchxError) as caught:
        apply_settings(GIVEN, [setting])
    assert told in caught.value.problem


@pytest.mark.parametrize("epochs", [0, -1])
def test_a_stage_without_epochs_is_one_fault(epochs: int) -> None:
    with pytest.raises(IchxError) as caught:
        apply_settings(GIVEN, [f"stage.full.epochs={epochs}"])
    assert caught.value.problem == f"stage.full.epochs = {epochs}: must be between 1 and 10000"


def test_a_scheduler_refuses_what_it_does_not_have() -> None:
    settings = ["stage.full.milestones=[1]", "stage.full.gamma=0.5", "stage.full.warmup=0.5"]
    assert invalid_values(apply_settings(GIVEN, settings)) == []
    for scheduler, refused in (("cosine", ("milestones", "gamma")), ("onecycle", ("milestones", "gamma", "warmup"))):
        with pytest.raises(IchxError) as caught:
            apply_settings(GIVEN, [*settings, f"stage.full.scheduler={scheduler}"])
        told = caught.value.problem.splitlines()
        assert [line.split(" = ")[0] for line in told] == [f"stage.full.{name}" for name in refused]
        assert all(line.endswith(f"for `{scheduler}` has none") for line in told)


def test_values_that_were_added_leave_old_digests_alone() -> None:
    """The digests that the reference's recipes had before there was a loss, an EMA or a mixing to choose."""
    before = {
        "efficientnet_b3": "10221f0a9e298c6c",
        "resnext101_wsl": "dc503518ae7483db",
        "seresnext50": "d58aecd7d7915741",
        "efficientnet_b2": "afb8d1b80af0f2de",
        "resnext50": "2c9f67c04db36a25",
        "tiny_fine": "bdef8372e3dbbb17",
    }
    plugins = load_registry().plugins
    assert {name: digest(plugins[name].recipe) for name in before} == before


def test_a_value_that_was_added_is_part_of_the_digest_where_it_is_set() -> None:
    changes = ("loss.label_smoothing=0.1", "ema.decay=0.9", "model.drop_path=0.1", "optimizer.clip=1")
    changes += ("augmentation.mixup=0.2", "stage.full.warmup=1", "stage.full.patience=1", "stage.balanced.freeze=1")
    changed = [apply_settings(GIVEN, [change]) for change in changes]
    assert len({digest(recipe) for recipe in [GIVEN, *changed]}) == len(changes) + 1
    for recipe in changed:
        assert digest(from_toml(to_toml(recipe))) == digest(recipe)


def test_a_recipe_from_before_a_value_was_added_still_loads() -> None:
    added = ("drop_path", "layer_decay", "clip", "mixup", "cutmix", "mix_probability", "warmup", "freeze", "patience")
    added += ("[loss]", "label_smoothing", "[ema]", "decay")
    old = [line for line in to_toml(GIVEN).splitlines() if line.split(" = ")[0] not in added]
    assert from_toml("\n".join(old)) == GIVEN


def test_a_recipe_with_patience_selects() -> None:
    assert not GIVEN.selects
    assert apply_settings(GIVEN, ["stage.rebalanced.patience=1"]).selects


def test_a_partial_toml_goes_over_a_base() -> None:
    text = "batch = 8\n[input]\nsize = 128\ncrop = 0\n"
    merged = from_toml(text, GIVEN)
    assert merged == apply_settings(GIVEN, ["batch=8", "input.size=128", "input.crop=0"])
    stages = from_toml('[[stage]]\nname = "only"\nsampling = "all"\nepochs = 1\nlr = 1e-3\n', GIVEN)
    assert [stage.name for stage in stages.stage] == ["only"]


def test_what_is_wrong_with_a_file_is_told_with_its_name() -> None:
    with pytest.raises(IchxError) as caught:
        from_toml('plugin = 3\nbacth = 4\n[model]\n[[stage]]\nname = "a"\nepochs = "many"\n', source="my.toml")
    told = caught.value.problem.splitlines()
    assert all(line.startswith("my.toml: ") for line in told)
    for expected in (
        "a recipe has no value 'bacth'; did you mean 'batch'",
        "plugin = 3: must be a text",
        "model.backbone is missing",
        "batch is missing",
        "input is missing",
        'stage.a.epochs = "many": must be a whole number',
        "stage.a.lr is missing",
    ):
        assert any(expected in line for line in told), (expected, told)


@pytest.mark.parametrize("text", ["batch = ", "stage = 3", "input = 3", "stage = [1]", "[model]\nbackbone = ['a']"])
def test_any_file_that_is_no_recipe_is_a_clear_error(text: str) -> None:
    with pytest.raises(IchxError):
        from_toml(text, GIVEN)


def test_stages_have_names_of_their_own() -> None:
    doubled = dataclasses.replace(GIVEN, stage=(GIVEN.stage[0], GIVEN.stage[0]))
    assert invalid_values(doubled) == ['two stages are called "balanced"']
    spaced = dataclasses.replace(GIVEN, stage=(dataclasses.replace(GIVEN.stage[0], name="a b"),))
    assert "must be a word" in invalid_values(spaced)[0]
    assert "at least one" in invalid_values(dataclasses.replace(GIVEN, stage=()))[0]


def test_pixels_and_epochs() -> None:
    assert GIVEN.input.pixels == 224
    assert dataclasses.replace(GIVEN.input, crop=0).pixels == 256
    assert GIVEN.epochs == 8


def test_unknown_names_wrong_types_and_values_out_of_range_are_told_together() -> None:
    settings = ["batch=0", "bacth=4", "stage.full.lr=fast", "input.windows=[[40, 80]]", "precision=fp8"]
    settings += ["input.windows=[[40.0, 0], [1, 2], [3, 4]]", "input.crop=big", "stage.full.epochs=two"]
    with pytest.raises(IchxError) as caught:
        apply_settings(GIVEN, settings)
    assert [line.split(";")[0] for line in caught.value.problem.splitlines()] == [
        "a recipe has no value 'bacth'",
        'input.crop = "big": must be a whole number',
        'stage.full.epochs = "two": must be a whole number',
        'stage.full.lr = "fast": must be a number',
        'precision = "fp8": must be one of auto, fp32, fp16, bf16',
        "input.windows = [[40.0, 0.0], [1.0, 2.0], [3.0, 4.0]]: must be pairs of centre and positive width, "
        "or [-1, -1] for the file's own",
        "batch = 0: must be between 1 and 65536",
    ]


def test_all_faults_of_a_file_are_told_together_and_none_that_it_has_not() -> None:
    text = """
    batch = 0
    seed = {a = 1}
    input = 3
    model = {backbone = "x", dropout = 2, pretrained = "yes"}
    optimizer = {name = "adam", clip = "much"}
    stage = [{name = "one", epochs = "many", warmup = 7, freeze = 3, lr = 0}]
    """
    with pytest.raises(IchxError) as caught:
        from_toml(text, source="my.toml")
    assert [line.removeprefix("my.toml: ") for line in caught.value.problem.splitlines()] == [
        "plugin is missing",
        'model.pretrained = "yes": must be true or false',
        "input = 3: must be a table",
        "stage.one.sampling is missing",
        'stage.one.epochs = "many": must be a whole number',
        "seed = {a = 1}: must be a whole number",
        'optimizer.clip = "much": must be a number',
        'optimizer.name = "adam": must be one of radam, adamw, sgd',
        "batch = 0: must be between 1 and 65536",
        "model.dropout = 2.0: must be in [0, 1)",
        "stage.one.lr = 0.0: must be in (0, 10]",
    ]
    with pytest.raises(IchxError) as caught:
        from_toml("stage = 3\n", GIVEN, source="my.toml")
    assert caught.value.problem == "my.toml: stage = 3: must be a list"


def test_differences_are_told_by_name() -> None:
    first = GIVEN
    second = apply_settings(first, ["batch=32", "stage.full.lr=1e-5"])
    assert differences(first, first) == {}
    assert differences(first, second) == {"batch": (64, 32), "stage.full.lr": (8e-6, 1e-5)}
    fewer = dataclasses.replace(first, stage=first.stage[:1])
    assert differences(first, fewer)["stage.full.lr"] == (8e-6, None)
    assert differences(fewer, first)["stage.full.lr"] == (None, 8e-6)


def test_added_fields_leave_the_digest_of_older_recipes() -> None:
    """The digest that a recipe had before `model.mask_weight` was a part of it."""
    assert digest(GIVEN) == "c019020a4c140627"
    assert digest(apply_settings(GIVEN, ["model.mask_weight=0.5"])) != digest(GIVEN)
