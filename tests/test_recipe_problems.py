"""Invalid recipes: every problem of a file or of settings is reported at once, with its rule."""

import dataclasses

import pytest
from base_recipe import BASE, problems

from ichx.errors import InvalidInputError
from ichx.recipe_rules import invalid_values
from ichx.recipe_text import apply_settings, from_toml


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (
            ["input.neighbours=5", f"input.windows={[[40, 80]] * 4}"],
            ["input.neighbours = 5", f"input.windows = {[[40.0, 80.0]] * 4}", 'input.centre = "slice"'],
        ),
        (
            ["input.neighbours=4", "input.centre=series"],
            [f"input.windows = {[[-1.0, -1.0], [80.0, 200.0], [600.0, 2800.0]]}"],
        ),
        (["input.neighbours=-1", "input.centre=none"], ["input.neighbours = -1"]),
        (["input.windows=[]"], ["input.windows = []"]),
        ([f"input.windows={[[40, 80]] * 10}"], [f"input.windows = {[[40.0, 80.0]] * 10}"]),
        (["input.ends=air"], ['input.ends = "air"']),
    ],
)
def test_neighbours_limit_windows_and_centring(settings: list[str], names: list[str]) -> None:
    assert [line.split(": ")[0] for line in problems(BASE, *settings)] == names


def test_all_invalid_settings_are_reported_together() -> None:
    lines = problems(BASE, "stage.balanced.lrr=1", "batch", "seed=x", "plugin=other", "stage.full.milestones=3")
    assert len(lines) == 5
    assert "'stage.balanced.lrr'" in lines[0]
    assert "'stage.balanced.lr'" in lines[0], "the nearest known name"
    assert "'batch'" in lines[1]
    assert "'plugin'" in lines[2]
    assert lines[3].startswith("stage.full.milestones = 3: ")
    assert lines[4].startswith('seed = "x": ')


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("batch=0", "0", "1 and 65536"),
        ("batch=1.5", "1.5", "integer"),
        ("batch=true", "true", "integer"),
        ("seed=-1", "-1", "0 and"),
        ("input.size=8", "8", "16 and 4096"),
        ("input.crop=300", "300", "0, or 16"),
        ("input.window_kind=linaer", '"linaer"', "linear, sigmoid"),
        ("input.ends=zero", '"zero"', "repeat, air"),
        ("input.field=10", "10.0", "40 to 1000"),
        ("input.windows=[[40,0],[1,1],[1,1]]", "[[40.0, 0.0], [1.0, 1.0], [1.0, 1.0]]", "positive"),
        ("input.windows=[[40],[1,1],[1,1]]", "[40]", "2"),
        ("input.normalize=yes", '"yes"', "none, imagenet"),
        ("model.dropout=1", "1.0", "[0, 1)"),
        ("model.drop_path=1", "1.0", "[0, 1)"),
        ("model.mask_weight=1001", "1001.0", "0 and 1000"),
        ("optimizer.name=adam", '"adam"', "radam, adamw, sgd"),
        ("optimizer.weight_decay=-1", "-1.0", "0"),
        ("optimizer.clip=-1", "-1.0", "0"),
        ("optimizer.layer_decay=0", "0.0", "(0, 1]"),
        ("optimizer.layer_decay=1.1", "1.1", "(0, 1]"),
        ("loss.label_smoothing=1", "1.0", "[0, 1)"),
        ("ema.decay=1", "1.0", "[0, 1)"),
        ("augmentation.mixup=-1", "-1.0", "0"),
        ("augmentation.cutmix=nan", "nan", "finite"),
        ("augmentation.mix_probability=2", "2.0", "[0, 1]"),
        ("augmentation.probability=1.1", "1.1", "[0, 1]"),
        ("augmentation.shift=1.0", "1.0", "[0, 1)"),
        ("augmentation.window_scale=1.0", "1.0", "[0, 1)"),
        ("augmentation.window_shift=-1", "-1.0", "0"),
        ("augmentation.grid_steps=0", "0", "1"),
        ("augmentation.elastic_sigma=0", "0.0", "positive"),
        ("augmentation.rotate=inf", "inf", "finite"),
        ("augmentation.hflip=1", "1", "true or false"),
        ("stage.full.epochs=0", "0", "1 and 10000"),
        ("stage.full.lr=0", "0.0", "(0, 10]"),
        ("stage.full.lr=nan", "nan", "finite"),
        ("stage.full.gamma=0", "0.0", "positive"),
        ("stage.full.sampling=some", '"some"', "fixed, redrawn, all"),
        ("stage.full.milestones=[2, 1]", "[2, 1]", "increasing"),
        ("stage.full.milestones=[0]", "[0]", "from 1"),
        ("stage.full.scheduler=linear", '"linear"', "multistep, cosine, onecycle"),
        ("stage.full.warmup=2", "2.0", "0"),
        ("stage.full.freeze=3", "3", "0"),
        ("stage.full.patience=-1", "-1", "0"),
        ("precision=fp8", '"fp8"', "auto, fp32, fp16, bf16"),
    ],
)
def test_invalid_values_are_reported_with_their_rule(setting: str, value: str, rule: str) -> None:
    named = f"{setting.partition('=')[0]} = {value}: "
    lines = [line for line in problems(BASE, setting) if line.startswith(named)]
    assert lines
    assert rule in lines[0].removeprefix(named)


@pytest.mark.parametrize("epochs", [0, -1])
def test_a_stage_without_epochs_is_one_problem(epochs: int) -> None:
    (line,) = problems(BASE, f"stage.full.epochs={epochs}")
    assert line.startswith(f"stage.full.epochs = {epochs}: ")


@pytest.mark.parametrize(
    ("scheduler", "ignored"),
    [("cosine", ["milestones", "gamma"]), ("onecycle", ["milestones", "gamma", "warmup"])],
)
def test_values_that_the_scheduler_ignores_are_invalid(scheduler: str, ignored: list[str]) -> None:
    settings = ["stage.full.milestones=[1]", "stage.full.gamma=0.5", "stage.full.warmup=0.5"]
    assert invalid_values(apply_settings(BASE, settings)) == []
    lines = problems(BASE, *settings, f"stage.full.scheduler={scheduler}")
    assert [line.split(" = ")[0] for line in lines] == [f"stage.full.{name}" for name in ignored]
    assert all(f"`{scheduler}`" in line for line in lines)


def test_problems_of_a_file_name_the_file() -> None:
    with pytest.raises(InvalidInputError) as caught:
        from_toml('plugin = 3\nbacth = 4\n[model]\n[[stage]]\nname = "a"\nepochs = "many"\n', source="my.toml")
    lines = caught.value.problem.splitlines()
    assert all(line.startswith("my.toml: ") for line in lines)
    assert "'bacth'" in lines[0]
    assert "'batch'" in lines[0]
    for name in ("plugin = 3", "model.backbone", "batch", "input", 'stage.a.epochs = "many"', "stage.a.lr"):
        assert any(line.startswith((f"my.toml: {name}:", f"my.toml: {name} ")) for line in lines), (name, lines)


@pytest.mark.parametrize("text", ["batch = ", "stage = 3", "input = 3", "stage = [1]", "[model]\nbackbone = ['a']"])
def test_any_other_file_is_an_input_error(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"my\.toml"):
        from_toml(text, BASE, source="my.toml")


def test_stages_need_unique_valid_names() -> None:
    doubled = dataclasses.replace(BASE, stage=(BASE.stage[0], BASE.stage[0]))
    (line,) = invalid_values(doubled)
    assert "balanced" in line
    spaced = dataclasses.replace(BASE, stage=(dataclasses.replace(BASE.stage[0], name="a b"),))
    assert '"a b"' in invalid_values(spaced)[0]
    assert invalid_values(dataclasses.replace(BASE, stage=()))[0].startswith("stage: ")


def test_unknown_names_wrong_types_and_invalid_values_are_reported_together() -> None:
    lines = problems(
        BASE,
        "batch=0",
        "bacth=4",
        "stage.full.lr=fast",
        "input.windows=[[40, 80]]",
        "precision=fp8",
        "input.windows=[[40.0, 0], [1, 2], [3, 4]]",
        "input.crop=big",
        "stage.full.epochs=two",
    )
    assert "'bacth'" in lines[0]
    assert [line.split(": ")[0] for line in lines[1:]] == [
        'input.crop = "big"',
        'stage.full.epochs = "two"',
        'stage.full.lr = "fast"',
        'precision = "fp8"',
        "input.windows = [[40.0, 0.0], [1.0, 2.0], [3.0, 4.0]]",
        "batch = 0",
    ]


def test_a_file_reports_all_its_problems_and_no_other() -> None:
    text = """
    batch = 0
    seed = {a = 1}
    input = 3
    model = {backbone = "x", dropout = 2, pretrained = "yes"}
    optimizer = {name = "adam", clip = "much"}
    stage = [{name = "one", epochs = "many", warmup = 7, freeze = 3, lr = 0}]
    """
    with pytest.raises(InvalidInputError) as caught:
        from_toml(text, source="my.toml")
    lines = [line.removeprefix("my.toml: ") for line in caught.value.problem.splitlines()]
    assert [line.split(": ")[0].removesuffix(" is missing") for line in lines] == [
        "plugin",
        'model.pretrained = "yes"',
        "input = 3",
        "stage.one.sampling",
        'stage.one.epochs = "many"',
        "seed = {a = 1}",
        'optimizer.clip = "much"',
        'optimizer.name = "adam"',
        "model.dropout = 2.0",
        "batch = 0",
        "stage.one.lr = 0.0",
    ]
    with pytest.raises(InvalidInputError) as caught:
        from_toml("stage = 3\n", BASE, source="my.toml")
    (line,) = caught.value.problem.splitlines()
    assert line.startswith("my.toml: stage = 3: ")
