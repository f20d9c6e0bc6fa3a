"""The commands of the README in a workspace with a dataset, and the reference experiments."""

import json
import re
import sqlite3
import tomllib
from pathlib import Path

import pytest
from conftest import Program

from ichx.plugins import load_registry
from ichx.plugins.reference import reference_files
from ichx.recipe_text import from_toml


def test_the_first_experiment(ichx: Program, dataset_copy: Path) -> None:
    done = ichx("exp", "new", "--plugin", "resnext50", "--size", "378", "--sigmoid", cwd=dataset_copy)
    assert done.code == 0
    assert done.out == "experiment 1: resnext50-378-sigmoid on ph v1\n"
    assert "`ichx run 1`" in done.err
    recipe = from_toml(ichx("exp", "show", 1, "--toml", cwd=dataset_copy).out)
    assert recipe == load_registry().get("resnext50").recipe


def test_run_6_of_the_reference_without_network(
    ichx: Program, dataset_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is set to offline, which raises the same error as a machine without network."""
    made = ichx("exp", "new", "--reference", cwd=dataset_copy)
    assert made.code == 0
    assert "experiment 6: reference-6 on ph v1" in made.out
    assert re.search("resnext101_wsl.*CC BY-NC 4.0", made.err)
    shown = json.loads(ichx("exp", "show", 6, "--json", cwd=dataset_copy).out)["experiment"]
    assert (shown["plugin"], shown["size"], shown["window_kind"]) == ("resnext50", 378, "sigmoid")

    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(dataset_copy / "no-hub"))
    done = ichx("run", "6", "--json", cwd=dataset_copy)
    done.check_error("process", "resnext50_32x4d.tv_in1k")
    assert "--weights FILE" in done.error["remedy"]
    assert "--no-pretrained" in done.error["remedy"]
    assert not (dataset_copy / "experiments" / "6" / "start.json").exists()
    assert json.loads(ichx("exp", "show", 6, "--json", cwd=dataset_copy).out)["runs"] == []


def test_the_ensemble(ichx: Program, trained_copy: Path) -> None:
    done = ichx("ensemble", "--top", "4", "--tta", "hflip", cwd=trained_copy)
    assert done.code == 0
    assert "ensemble 1 on ph, tta hflip" in done.out
    assert "blend, nested" in done.out
    for name in ("tiny_resnet-32-", "tiny_efficientnet-32-", "tiny_byobnet-32-"):
        assert name in done.out
    assert re.search("warning: (?=.*3).*4", done.err)
    path = trained_copy / done.out.split("submission for ph-test: ")[1].split(" (")[0]
    assert path.read_text().startswith("ID,Label\n")


def test_the_reference_is_registered_in_order(ichx: Program, dataset_copy: Path) -> None:
    made = json.loads(ichx("exp", "new", "--reference", "--json", cwd=dataset_copy).out)
    files = reference_files(load_registry())
    assert [e["number"] for e in made] == [1, 2, 3, 4, 5, 6]
    for experiment, (name, text) in zip(made, files.items(), strict=True):
        assert name == f"reference-{experiment['number']}-{experiment['plugin']}.toml"
        assert tomllib.loads(experiment["recipe"]) == tomllib.loads(text)


def test_a_recipe_file_round_trip(ichx: Program, dataset_copy: Path) -> None:
    text = ichx("plugin", "show", "efficientnet_b3", "--toml", cwd=dataset_copy).out
    (dataset_copy / "my.toml").write_text(text)
    done = ichx("exp", "new", "--from", "my.toml", "--set", "stage.balanced.lr=5e-4", cwd=dataset_copy)
    assert done.code == 0
    recipe = from_toml(ichx("exp", "show", 1, "--toml", cwd=dataset_copy).out)
    assert recipe.stage[0].lr == 5e-4
    assert recipe.input == load_registry().get("efficientnet_b3").recipe.input


def test_show_and_list(ichx: Program, trained_root: Path) -> None:
    shown = ichx("exp", "show", 1, cwd=trained_root).out
    for expected in ("tiny_resnet-32-", "(done)", "ph version 1", "2 of 2 done", "with hflip", "6/6"):
        assert expected in shown
    listed = ichx("exp", "list", cwd=trained_root).out
    assert "3 experiments" in listed
    assert listed.index("tiny_byobnet") < listed.index("tiny_resnet"), "newest first"


def test_show_has_the_recipe_values_that_differ_from_the_default(ichx: Program, dataset_copy: Path) -> None:
    settings = ("--set", "stage.full.lr=5e-6", "--set", "batch=32")
    assert ichx("exp", "new", "--plugin", "resnext50", *settings, cwd=dataset_copy).code == 0
    changes = json.loads(ichx("exp", "show", 1, "--json", cwd=dataset_copy).out)["recipe_changes"]
    assert changes == {
        "stage.full.lr": {"recipe": 5e-6, "default": 8e-6},
        "batch": {"recipe": 32, "default": 64},
    }
    shown = ichx("exp", "show", 1, cwd=dataset_copy)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.out.splitlines() if "│" in line]
    assert rows == [["stage.full.lr", "5e-06", "8e-06"], ["batch", "32", "64"]]
    everything = ichx("exp", "show", 1, "--recipe", cwd=dataset_copy).out
    assert "stage.balanced.lr" in everything
    assert "stage.balanced.lr" not in shown.out


def test_show_without_the_plugin_prints_the_recipe(ichx: Program, dataset_copy: Path) -> None:
    assert ichx("exp", "new", "--plugin", "tiny_resnet", cwd=dataset_copy).code == 0
    with sqlite3.connect(dataset_copy / "db" / "ichx.db") as connection:
        connection.execute("UPDATE experiment SET plugin = 'absent'")
    connection.close()
    shown = ichx("exp", "show", 1, cwd=dataset_copy)
    assert "[[stage]]" in shown.out
    assert "absent" in shown.err
    assert json.loads(ichx("exp", "show", 1, "--json", cwd=dataset_copy).out)["recipe_changes"] is None
