"""Measures of networks: what is measured, and where it is stored and found again."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ichx.cli.app import app
from ichx.plugins import load_registry
from ichx.plugins.measures import NetworkMeasure, find_measure, save_measure
from ichx.recipe_text import apply_settings
from ichx.training import network_measure
from ichx.training.device import choose_hardware
from ichx.training.network_measure import measure_network

MEASURE = NetworkMeasure(
    device="cpu, fp32 (a test)",
    batch=16,
    measured_batch=4,
    train_rate=12.5,
    train_gb=1.5,
    predict_batch=64,
    predict_rate=100.0,
    predict_gb=0.5,
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_measure, "STEP_SECONDS", 0.1)


@pytest.mark.parametrize("name", ["tiny_resnet", "tiny_unet", "tiny_fine_25d"])
def test_memory_grows_with_the_batch_and_speed_is_positive(short: None, name: str) -> None:
    plugin = load_registry().get(name)
    found = {}
    for batch in (4, 16, 64):
        recipe = apply_settings(plugin.recipe, [f"batch={batch}", "precision=fp32"])
        hardware = choose_hardware("cpu", "fp32", recipe.input.pixels)
        found[batch] = measure_network(lambda recipe=recipe: plugin.build(recipe, False), recipe, hardware, print)
    one = found[16]
    assert (one.batch, one.measured_batch, one.predict_batch) == (16, 4, 64)
    assert one.train_rate > 0 < one.predict_rate
    steps = [found[64].train_gb - found[16].train_gb, found[16].train_gb - found[4].train_gb]
    assert steps[0] == pytest.approx(4 * steps[1], rel=0.2)
    parameters = sum(p.numel() for p in plugin.build(plugin.recipe, False).parameters())
    assert found[4].train_gb > 4 * 4 * parameters / 1e9, "weights, gradients and two moments"
    image = plugin.recipe.input
    assert 0 < found[4].predict_gb < found[64].train_gb
    assert steps[1] > 12 * 4 * image.channels * image.pixels**2 / 1e9, "more than the images"


def test_measuring_leaves_the_random_state(short: None) -> None:
    plugin = load_registry().get("tiny_resnet")
    before = torch.random.get_rng_state()
    hardware = choose_hardware("cpu", "fp32", 64)
    measure_network(lambda: plugin.build(plugin.recipe, False), plugin.recipe, hardware, print)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_measure_is_found_for_its_recipe_machine_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_registry().get("tiny_resnet").recipe
    assert find_measure(recipe) is None
    assert save_measure(recipe, MEASURE)
    assert find_measure(recipe) == MEASURE
    assert find_measure(apply_settings(recipe, ["batch=4"])) is None
    monkeypatch.setattr("ichx.plugins.measures.version", lambda name: "0.0")
    assert find_measure(recipe) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": 3}', "null"])
def test_a_damaged_file_is_no_measure(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    recipe = load_registry().get("tiny_resnet").recipe
    save_measure(recipe, MEASURE)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(content)
    assert find_measure(recipe) is None


def test_a_home_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert not save_measure(load_registry().get("tiny_resnet").recipe, MEASURE)


def test_the_command_measures_once_and_lists_the_figures(short: None) -> None:
    run = CliRunner().invoke
    assert json.loads(run(app, ["plugin", "show", "tiny_resnet", "--json"]).stdout)["measure"] is None
    assert "speed: -" in run(app, ["plugin", "show", "tiny_resnet"]).stdout
    measured = run(app, ["plugin", "show", "tiny_resnet", "--measure", "--device", "cpu", "--json"])
    found = json.loads(measured.stdout)["measure"]
    assert found["train_rate"] > 0
    assert json.loads(run(app, ["plugin", "show", "tiny_resnet", "--json"]).stdout)["measure"] == found
    listed = {plugin["name"]: plugin["measure"] for plugin in json.loads(run(app, ["plugin", "list", "--json"]).stdout)}
    assert listed["tiny_resnet"] == found
    assert listed["tiny_fine"] is None
    assert f"{found['train_rate']:.3g} images/s" in run(app, ["plugin", "show", "tiny_resnet"]).stdout
    assert run(app, ["plugin", "show", "gru", "--measure"]).exit_code == 1
    assert run(app, ["plugin", "show", "tiny_resnet", "--measure", "--toml"]).exit_code == 2
