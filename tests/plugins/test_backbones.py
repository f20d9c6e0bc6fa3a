"""Backbones are checked before anything is registered, against a list that is cached per version of timm."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Program, clean_environment

from ichx.errors import NotFoundError
from ichx.plugins import Plugin, backbones, load_registry
from ichx.plugins.contract import reference_recipe

LISTED = {
    "resnet18": "",
    "resnet18.a1_in1k": "apache-2.0",
    "resnet50.a1_in1k": "apache-2.0",
    "vit_nc.tag": "cc-by-nc-4.0",
    "test_resnet.r160_in1k": "apache-2.0",
}


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's cache, with a short list of the installed timm."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = backbones.cache_file()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(LISTED))
    backbones.timm_backbones.cache_clear()
    yield path
    backbones.timm_backbones.cache_clear()


def check(plugin: str, backbone: str) -> None:
    found = load_registry().get(plugin)
    backbones.check_backbone(found, replace(found.recipe, model=replace(found.recipe.model, backbone=backbone)))


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("plugin", ["resnext50", "tiny_resnet", "tiny_unet", "unet_resnext50"])
def test_an_unknown_name_is_refused_with_the_nearest(plugin: str) -> None:
    for wrong in ("ResNet-18", "resnet18.a1_in22k", "resnet_18"):
        with pytest.raises(NotFoundError) as caught:
            check(plugin, wrong)
        assert repr(wrong) in caught.value.problem
        assert "'resnet18'" in caught.value.remedy or "'resnet18.a1_in1k'" in caught.value.remedy
    for known in ("resnet18", "resnet18.a1_in1k", "hf-hub:timm/resnet18", "local-dir:/weights"):
        check(plugin, known)


@pytest.mark.usefixtures("listed")
def test_a_plugin_with_networks_of_its_own_names_them() -> None:
    check("tiny_fine", "fine_resnet8_thin")
    with pytest.raises(NotFoundError, match="fine_resnet9") as caught:
        check("tiny_fine", "fine_resnet9")
    assert "fine_resnet8, fine_resnet8_thin" in caught.value.remedy


@pytest.mark.usefixtures("listed")
def test_an_undeclared_builder_accepts_any_name() -> None:
    recipe = reference_recipe("ours", "resnet18", batch=1)
    plugin = Plugin("ours", "", recipe, build=lambda recipe, pretrained: None)
    assert plugin.backbones is None
    backbones.check_backbone(plugin, replace(recipe, model=replace(recipe.model, backbone="anything")))
    assert Plugin("ours", "", recipe).backbones == "timm"


def test_the_list_of_timm_has_names_tags_and_licences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backbones.cache_file().parent.mkdir()
    backbones.cache_file().write_text("[damaged")
    backbones.timm_backbones.cache_clear()
    found = backbones.timm_backbones()
    assert all(timm.is_model(name) for name in found)
    assert {"resnet50", "tf_efficientnet_b3_ap"} <= found.keys()  # the second one is deprecated
    assert found["resnext101_32x8d.fb_wsl_ig1b_ft_in1k"] == "cc-by-nc-4.0"
    assert json.loads(backbones.cache_file().read_text()) == found
    assert f"timm-{timm.__version__}" in backbones.cache_file().name
    backbones.timm_backbones.cache_clear()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backbones.timm_backbones.cache_clear()
    assert "resnet50" in backbones.timm_backbones()
    backbones.timm_backbones.cache_clear()


@pytest.mark.usefixtures("listed")
def test_commands_refuse_it_and_name_the_experiment_after_it(ichx: Program, dataset_copy: Path) -> None:
    wrong = ("exp", "new", "--plugin", "tiny_resnet", "--backbone", "resnet180", "--json")
    ichx(*wrong, cwd=dataset_copy).check_error("not_found", "'resnet180'")
    assert json.loads(ichx("exp", "list", "--json", cwd=dataset_copy).out) == []
    new = ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 32, "--backbone", "resnet18", cwd=dataset_copy)
    assert "experiment 1: tiny_resnet-resnet18-32-linear on ph v1" in new.out
    assert "model.backbone" in ichx("exp", "show", 1, cwd=dataset_copy).out
    clone = ("exp", "clone", 1, "--set", "model.backbone=resnet180", "--json")
    ichx(*clone, cwd=dataset_copy).check_error("not_found", "'resnet180'")
    tune = ("tune", 1, "--trials", 1, "--search", "model.backbone=resnet18,resnet180", "--json")
    ichx(*tune, cwd=dataset_copy).check_error("not_found", "'resnet180'")
    named = ichx("exp", "clone", 1, "--set", "model.backbone=resnet50.a1_in1k", cwd=dataset_copy)
    assert "experiment 2: tiny_resnet-resnet50.a1_in1k-32-linear on ph v1" in named.out


def test_no_torch_is_imported_for_it(listed: Path, dataset_copy: Path) -> None:
    code = (
        "import sys; from ichx.cli.app import main; sys.argv = ['ichx', 'exp', 'new', '--plugin', 'tiny_resnet', "
        "'--backbone', 'vit_nc.tag']\n"
        "try: main()\nfinally: print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    environment = clean_environment(XDG_CACHE_HOME=str(listed.parents[1]))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=dataset_copy, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False", done
    assert "vit_nc.tag" in done.stderr  # the notice of its licence
    assert "CC BY-NC 4.0" in done.stderr


def test_an_equal_experiment_is_reported(ichx: Program, dataset_copy: Path) -> None:
    new = ("exp", "new", "--plugin", "tiny_resnet", "--size", 32)
    assert "other experiment" not in ichx(*new, cwd=dataset_copy).err
    assert "other experiment" not in ichx(*new, "--set", "seed=1", cwd=dataset_copy).err
    third = ichx(*new, "--name", "the same", cwd=dataset_copy)
    assert (third.code, "1 other experiment" in third.err) == (0, True)
    assert "1 (tiny_resnet-32-linear: new)" in third.err
    assert "`ichx exp rm 3`" in third.err
    assert "2 other experiments" in ichx("exp", "clone", 1, cwd=dataset_copy).err
    ichx("exp", "rm", 3, "--yes", cwd=dataset_copy)
    ichx("exp", "rm", 4, "--yes", cwd=dataset_copy)
    assert "1 (tiny_resnet-32-linear: new)" in ichx(*new, cwd=dataset_copy).err
    ichx("exp", "new", "--reference", cwd=dataset_copy)
    example = ichx("exp", "new", "--plugin", "resnext50", "--size", 378, "--sigmoid", cwd=dataset_copy)
    assert "(reference-6: new)" in example.err
