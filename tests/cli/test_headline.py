"""The headline commands, verbatim, in a workspace with a dataset; and the experiments that they speak of."""

import json
import tomllib
from pathlib import Path

import pytest
from conftest import Program

from ichx.plugins import load_registry
from ichx.plugins.reference import reference_files
from ichx.recipe_text import from_toml


def test_the_first_experiment_as_typed(ichx: Program, dataset_copy: Path) -> None:
    done = ichx("exp", "new", "--plugin", "resnext50", "--size", "378", "--sigmoid", cwd=dataset_copy)
    assert done.code == 0
    assert done.out == "experiment 1: resnext50-378-sigmoid on ph v1\n"
    assert "next: `ichx run 1`" in done.err
    recipe = from_toml(ichx("exp", "show", 1, "--toml", cwd=dataset_copy).out)
    assert recipe == load_registry().get("resnext50").recipe


def test_run_6_of_the_reference_without_network_says_how_to_get_weights(
    ichx: Program, dataset_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is told to be offline; the error is the one that a machine without network shows."""
    made = ichx("exp", "new", "--reference", cwd=dataset_copy)
    assert made.code == 0
    assert "experiment 6: reference-6 on ph v1" in made.out
    assert "resnext101_wsl: its pretrained weights are licensed CC BY-NC 4.0" in made.err
    shown = json.loads(ichx("exp", "show", 6, "--json", cwd=dataset_copy).out)["experiment"]
    assert (shown["plugin"], shown["size"], shown["window_kind"]) == ("resnext50", 378, "sigmoid")

    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(dataset_copy / "no-hub"))
    done = ichx("run", "6", cwd=dataset_copy)
    assert done.code == 1
    problem, remedy = done.err.splitlines()[-2:]
    assert problem.startswith("error: the pretrained weights of resnext50_32x4d.tv_in1k cannot be downloaded: ")
    assert remedy.strip() == (
        "give them with --weights FILE (safetensors or .pth), or train from random weights with --no-pretrained"
    )
    assert not (dataset_copy / "experiments" / "6" / "start.json").exists()
    assert json.loads(ichx("exp", "show", 6, "--json", cwd=dataset_copy).out)["runs"][0]["state"] == "failed"


def test_the_ensemble_as_typed(ichx: Program, trained_copy: Path) -> None:
    done = ichx("ensemble", "--top", "4", "--tta", "hflip", cwd=trained_copy)
    assert done.code == 0
    assert "ensemble 1 on ph, tta hflip" in done.out
    assert "blend, nested" in done.out
    for name in ("tiny_resnet-32-", "tiny_efficientnet-32-", "tiny_byobnet-32-"):
        assert name in done.out
    assert "3 complete experiments instead of 4" in done.err
    path = trained_copy / done.out.split("submission for ph-test: ")[1].split(" (")[0]
    assert path.read_text().startswith("ID,Label\n")


def test_the_reference_is_registered_in_its_order(ichx: Program, dataset_copy: Path) -> None:
    made = json.loads(ichx("exp", "new", "--reference", "--json", cwd=dataset_copy).out)
    files = reference_files(load_registry())
    assert [e["number"] for e in made] == [1, 2, 3, 4, 5, 6]
    for experiment, (name, text) in zip(made, files.items(), strict=True):
        assert name == f"reference-{experiment['number']}-{experiment['plugin']}.toml"
        assert tomllib.loads(experiment["recipe"]) == tomllib.loads(text)
    refused = ichx("exp", "new", "--reference", "--size", 128, cwd=dataset_copy)
    assert refused.code == 1
    assert "--reference takes nothing but --dataset" in refused.err


def test_a_recipe_goes_out_as_a_file_and_comes_back(ichx: Program, dataset_copy: Path) -> None:
    text = ichx("plugin", "show", "efficientnet_b3", "--toml", cwd=dataset_copy).out
    (dataset_copy / "my.toml").write_text(text)
    done = ichx("exp", "new", "--from", "my.toml", "--set", "stage.balanced.lr=5e-4", cwd=dataset_copy)
    assert done.code == 0
    recipe = from_toml(ichx("exp", "show", 1, "--toml", cwd=dataset_copy).out)
    assert recipe.stage[0].lr == 5e-4
    assert recipe.input == load_registry().get("efficientnet_b3").recipe.input


def test_an_experiment_as_people_see_it(ichx: Program, trained_root: Path) -> None:
    shown = ichx("exp", "show", 1, cwd=trained_root).out
    for expected in ("tiny_resnet-32-", "(done)", "ph version 1", "2 of 2 done", "with hflip", "6/6", "[[stage]]"):
        assert expected in shown
    listed = ichx("exp", "list", cwd=trained_root).out
    assert "3 experiments" in listed
    assert listed.index("tiny_byobnet") < listed.index("tiny_resnet"), "the newest first"
