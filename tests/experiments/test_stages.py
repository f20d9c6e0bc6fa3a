"""A recipe may have any number of stages: the same commands register, run, show, tune and report it."""

import json
from pathlib import Path

import pytest
from conftest import Program

from ichx.plugins import load_registry
from ichx.recipe_text import apply_settings, to_toml

pytestmark = pytest.mark.slow

BASE = to_toml(
    apply_settings(
        load_registry().get("tiny_efficientnet").recipe, ["input.size=32", "input.crop=0", "batch=32", "precision=fp32"]
    )
).partition("[[stage]]")[0]

STAGES = {
    "one": ('name = "only"\nsampling = "all"\nepochs = 1\nlr = 1e-3\n',),
    "five": (
        'name = "head"\nsampling = "fixed"\nepochs = 1\nlr = 1e-2\nfreeze = 1\n',
        'name = "balanced"\nsampling = "fixed"\nepochs = 2\nlr = 6e-3\nscheduler = "onecycle"\n',
        'name = "rebalanced"\nsampling = "redrawn"\nepochs = 1\nlr = 3e-3\nwarmup = 0.5\n',
        'name = "full"\nsampling = "all"\nepochs = 2\nlr = 1e-3\nscheduler = "cosine"\nwarmup = 1.0\n',
        'name = "last"\nsampling = "all"\nepochs = 2\nlr = 1e-4\nmilestones = [1]\ngamma = 0.5\n',
    ),
}


@pytest.mark.parametrize("count", STAGES)
def test_the_commands_take_any_number_of_stages(dataset_copy: Path, ichx: Program, count: str) -> None:
    file = dataset_copy / "mine.toml"
    file.write_text(BASE + "".join(f"\n[[stage]]\n{stage}" for stage in STAGES[count]))
    made = ichx("exp", "new", "--from", file, cwd=dataset_copy)
    assert made.code == 0, made.err

    run = ichx("run", 1, "--fold", 0, "--device", "cpu", cwd=dataset_copy)
    assert run.code == 0, run.err
    shown = ichx("exp", "show", 1, "--json", cwd=dataset_copy)
    trained = [(epoch["stage"], epoch["epoch"]) for epoch in json.loads(shown.out)["history"]["0"]]
    expected = []
    for stage in STAGES[count]:
        values = dict(line.split(" = ") for line in stage.splitlines())
        expected += [(values["name"].strip('"'), epoch) for epoch in range(1, int(values["epochs"]) + 1)]
    assert trained == expected
    assert [line.split(":")[0] for line in run.err.splitlines() if ": loss " in line] == [
        f"  {name} {epoch}" for name, epoch in expected
    ]
    names = list(dict.fromkeys(name for name, _ in expected))
    table = ichx("exp", "show", 1, cwd=dataset_copy)
    assert f"{len(expected)}/{len(expected)}" in table.out
    recipe = ichx("exp", "show", 1, "--recipe", cwd=dataset_copy).out
    assert [name for name in names if f"stage.{name}.epochs" not in recipe] == []

    report = ichx("report", 1, cwd=dataset_copy)
    assert report.code == 0, report.err
    page = next((dataset_copy / "experiments" / "1").glob("*.html")).read_text(encoding="utf-8")
    for name in names:
        epochs = sum(n == name for n, _ in expected)
        assert f"{name} ({epochs} epoch{'s' if epochs > 1 else ''})" in page

    tuned = ichx("tune", 1, "--trials", 1, "--device", "cpu", "--json", cwd=dataset_copy)
    assert tuned.code == 0, tuned.err
    space = json.loads(tuned.out)["space"]
    searched = {line.split("=")[0] for line in space}
    assert ("lr.factor" in searched, "lr.ratio" in searched) == (True, len(names) > 1)
    assert json.loads(tuned.out)["trials"][0]["score"] is not None
