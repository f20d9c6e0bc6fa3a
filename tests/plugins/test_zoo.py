"""The model zoo: the reference's models as the design's table has them, and networks that build and compute."""

import socket
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ichx.errors import InvalidInputError, NotFoundError, ProcessError, UnsupportedError
from ichx.plugins import Registry, load_registry
from ichx.plugins.contract import REFERENCE_STAGES, build_timm
from ichx.plugins.cost import network_cost
from ichx.plugins.reference import REFERENCE, reference_files
from ichx.recipe import Recipe
from ichx.recipe_rules import invalid_values
from ichx.recipe_text import apply_settings, from_toml
from ichx.training.network_head import head_names
from ichx.training.optimizers import make_optimizer, take_step
from ichx.training.weights import load_file
from ichx.training.window_step import STATISTICS

ROOT = Path(__file__).resolve().parents[2]

TABLE = {
    # number: plugin, backbone with its weight tag, size, crop, windows, batch
    1: ("efficientnet_b3", "tf_efficientnet_b3.aa_in1k", 256, 224, "linear", 128),
    2: ("resnext101_wsl", "resnext101_32x8d.fb_wsl_ig1b_ft_in1k", 256, 224, "linear", 64),
    3: ("seresnext50", "legacy_seresnext50_32x4d.in1k", 256, 224, "linear", 128),
    4: ("efficientnet_b2", "tf_efficientnet_b2.aa_in1k", 256, 224, "linear", 128),
    5: ("seresnext50", "legacy_seresnext50_32x4d.in1k", 256, 224, "linear", 128),
    6: ("resnext50", "resnext50_32x4d.tv_in1k", 378, 0, "sigmoid", 64),
}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="module")
def reference(registry: Registry) -> dict[int, Recipe]:
    return {number: model.recipe(registry) for number, model in enumerate(REFERENCE, start=1)}


@pytest.mark.parametrize("number", TABLE)
def test_the_reference_is_as_published(reference: dict[int, Recipe], number: int) -> None:
    recipe = reference[number]
    image = recipe.input
    plugin, backbone, size, crop, kind, batch = TABLE[number]
    found = (recipe.plugin, recipe.model.backbone, image.size, image.crop, image.window_kind, recipe.batch)
    assert found == (plugin, backbone, size, crop, kind, batch)
    assert image.windows == ((-1, -1), (80, 200), (600, 2800))
    assert (image.centre, image.resize, image.normalize) == ("slice", "bilinear", "none")
    assert (recipe.model.pretrained, recipe.optimizer.name, recipe.optimizer.decoupled) == (True, "radam", True)
    regularized = (recipe.model.dropout, recipe.model.drop_path, recipe.model.bn_momentum)
    assert regularized == ((0.3, 0.2, 0.01) if "efficientnet" in plugin else (0, 0, 0))
    assert recipe.augmentation.crop_first == (crop > 0)


@pytest.mark.parametrize("number", TABLE)
def test_its_stages(reference: dict[int, Recipe], number: int) -> None:
    balanced, rebalanced, full = reference[number].stage
    assert [s.name for s in (balanced, rebalanced, full)] == ["balanced", "rebalanced", "full"]
    assert [s.sampling for s in (balanced, rebalanced, full)] == ["fixed", "redrawn", "all"]
    assert [s.scheduler for s in (balanced, rebalanced, full)] == ["multistep"] * 3
    if number == 5:
        assert (balanced.lr, balanced.epochs, balanced.milestones, balanced.gamma) == (8e-4, 2, (1,), 0.5)
    else:
        assert (balanced.lr, balanced.epochs, balanced.milestones) == (1e-3, 4, ())
    assert (rebalanced.lr, rebalanced.epochs, rebalanced.milestones) == (1e-5, 2, ())
    assert (full.lr, full.epochs, full.milestones, full.gamma) == (8e-6, 2, (1,), 0.5)


def test_its_augmentation(reference: dict[int, Recipe]) -> None:
    for recipe in reference.values():
        a = recipe.augmentation
        assert (a.probability, a.hflip, a.shift, a.scale, a.rotate) == (0.75, True, 0.05, 0.075, 25.0)
        assert (a.grid_steps, a.grid_limit, a.anchors, a.elastic_alpha) == (20, 0.25, 5.0, 0.0)


def test_the_files_in_experiments_are_written_from_the_plugins(registry: Registry) -> None:
    written = reference_files(registry)
    there = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "experiments").glob("*.toml")}
    assert there == written, "write them anew: python -m ichx.plugins.reference experiments"
    for number, text in enumerate(written.values(), start=1):
        assert from_toml(text) == REFERENCE[number - 1].recipe(registry)


def test_every_recipe_of_the_zoo_can_be_trained(registry: Registry) -> None:
    for plugin in registry.plugins.values():
        assert invalid_values(plugin.recipe) == []
        assert plugin.weights_licence
        if plugin.kind == "slice" and plugin.build is build_timm:
            assert "." in plugin.recipe.model.backbone, "weight tags are always written out"


def test_the_licence_of_research_only_weights_is_shown(registry: Registry) -> None:
    assert "CC BY-NC 4.0" in registry.get("resnext101_wsl").notice
    assert registry.get("resnext50").notice == ""


def test_a_crop_applies_at_the_plugins_size_only(registry: Registry) -> None:
    plugin = registry.get("efficientnet_b3")
    assert plugin.recipe_for() == plugin.recipe
    assert plugin.recipe_for(size=256).input.crop == 224
    assert plugin.recipe_for(size=512).input.crop == 0
    assert plugin.recipe_for(size=512, crop=448).input.crop == 448
    assert plugin.recipe_for(crop=0).input.pixels == 256
    assert plugin.recipe_for(kind="sigmoid").input.window_kind == "sigmoid"
    with pytest.raises(InvalidInputError, match="300 px.*256 px"):
        plugin.recipe_for(crop=300)


@pytest.mark.parametrize("name", [name for name in load_registry().plugins if name.startswith("tiny_")])
@pytest.mark.parametrize("size", [32, 64])
def test_tiny_networks_are_tiny_and_give_six_logits(registry: Registry, name: str, size: int) -> None:
    plugin = registry.get(name)
    recipe = plugin.recipe_for(size=size)
    model = plugin.build(recipe, False).eval()
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    with torch.inference_mode():
        assert model(torch.zeros(2, recipe.input.channels, size, size)).shape == (2, 6)
    assert not recipe.model.pretrained


@pytest.mark.parametrize("name", ["tiny_fine", "tiny_resnet", "tiny_byobnet", "tiny_efficientnet", "tiny_fine_25d"])
@pytest.mark.parametrize(("neighbours", "windows"), [(1, 3), (2, 1), (3, 1)])
def test_networks_take_the_recipes_channels(registry: Registry, name: str, neighbours: int, windows: int) -> None:
    plugin = registry.get(name)
    settings = ["input.centre=series", f"input.neighbours={neighbours}", f"input.windows={[[40, 80]] * windows}"]
    recipe = apply_settings(plugin.recipe, settings)
    model = plugin.build(recipe, False).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, recipe.input.channels, 32, 32)).shape == (2, 6)


def test_three_slices_in_one_window_are_the_three_channels_of_pretrained_weights(registry: Registry) -> None:
    image = registry.get("resnext50_25d").recipe.input
    assert (image.slices, len(image.windows), image.channels, image.centre) == (3, 1, 3, "series")
    image = registry.get("tiny_fine_25d").recipe.input
    assert (image.slices, len(image.windows), image.channels, image.centre) == (3, 3, 9, "series")


def test_dropout_reaches_the_network(registry: Registry) -> None:
    plugin = registry.get("tiny_resnet")
    model = plugin.build(apply_settings(plugin.recipe, ["model.dropout=0.9"]), False).train()
    images = torch.rand(4, 3, 32, 32)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(model(images), model(images))


def test_stochastic_depth_reaches_the_network_or_is_refused(registry: Registry) -> None:
    plugin = registry.get("tiny_resnet")
    model = plugin.build(apply_settings(plugin.recipe, ["model.drop_path=0.3"]), False)
    depths = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert depths
    assert max(depths) == pytest.approx(0.3)
    plugin = registry.get("seresnext50")
    with pytest.raises(UnsupportedError):
        plugin.build(apply_settings(plugin.recipe, ["model.drop_path=0.3"]), False)


def test_an_unknown_backbone_is_a_clear_error(registry: Registry) -> None:
    plugin = registry.get("tiny_resnet")
    for backbone in ("resnot50.a1_in1k", "resnet18.no_such_tag"):
        recipe = apply_settings(plugin.recipe, [f"model.backbone={backbone}"])
        with pytest.raises(NotFoundError) as caught:
            plugin.build(recipe, True)
        assert backbone in caught.value.problem


def test_the_stages_of_model_1_are_the_default() -> None:
    assert sum(stage.epochs for stage in REFERENCE_STAGES) == 8


def test_a_silent_hub_is_asked_once(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's client would retry for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and never answers
        server.settimeout(0)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("ichx.plugins.timm_classifier.HUB_SECONDS", 0.3)
        recipe = registry.get("resnext50").recipe
        with pytest.raises(ProcessError, match=recipe.model.backbone) as caught:
            build_timm(recipe, True)
        assert "--no-pretrained" in caught.value.remedy
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_cached_weights_need_no_hub(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import safetensors.torch

    from ichx.plugins.timm_classifier import _check_hub

    recipe = registry.get("resnext50").recipe
    snapshot = tmp_path / f"models--timm--{recipe.model.backbone}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / f"models--timm--{recipe.model.backbone}" / "refs").mkdir()
    (tmp_path / f"models--timm--{recipe.model.backbone}" / "refs" / "main").write_text("abc")
    safetensors.torch.save_file({"x": torch.zeros(1)}, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    _check_hub(recipe.model.backbone)


def test_the_momentum_of_batch_norms_is_the_recipes(registry: Registry) -> None:
    recipe = registry.get("tiny_efficientnet").recipe
    for value, expected in ((0.0, {0.1}), (0.01, {0.01})):
        network = build_timm(apply_settings(recipe, [f"model.bn_momentum={value}"]), pretrained=False)
        norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        assert {layer.momentum for layer in norms} == expected


MODERN = ("convnext_small", "efficientnetv2_m", "maxvit_tiny", "hgnetv2_b4", "caformer_s18", "seresnextaa101d")


@pytest.mark.slow
@pytest.mark.parametrize("name", [p.name for p in load_registry().plugins.values() if p.kind == "slice"])
def test_the_declared_cost_is_that_of_the_network(registry: Registry, name: str) -> None:
    plugin = registry.get(name)
    assert network_cost(plugin, plugin.recipe) == plugin.cost


@pytest.mark.parametrize("name", MODERN)
def test_a_modern_recipe_fits_its_backbone(registry: Registry, name: str) -> None:
    plugin = registry.get(name)
    config = timm.get_pretrained_cfg(plugin.recipe.model.backbone)
    assert config is not None
    assert (config.license or "").lower() == plugin.weights_licence.lower() == "apache-2.0"
    assert plugin.recipe.input.pixels in {size[-1] for size in (config.input_size, config.test_input_size) if size} | {
        384
    }
    mean, std = STATISTICS[plugin.recipe.input.normalize]
    assert (tuple(config.mean), tuple(config.std)) == (mean, std)
    for recipe in (plugin.recipe, plugin.presets["three-stage"]):
        assert invalid_values(recipe) == []
        assert (recipe.optimizer.name, recipe.model.drop_path > 0, recipe.ema.decay > 0) == ("adamw", True, True)
        assert all(stage.scheduler == "cosine" and stage.warmup > 0 for stage in recipe.stage)
    assert [stage.sampling for stage in plugin.presets["three-stage"].stage] == ["fixed", "redrawn", "all"]


SMALL = {
    "convnext_small": "convnext_atto",
    "efficientnetv2_m": "tf_efficientnetv2_b0",
    "maxvit_tiny": "maxvit_pico_rw_256",
    "hgnetv2_b4": "hgnetv2_b0",
    "caformer_s18": "caformer_s18",
    "seresnextaa101d": "seresnextaa101d_32x8d",
}
"""The smallest backbone of each family; the last two have no smaller one."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODERN)
def test_a_modern_network_learns_and_reads_a_file_of_timm(registry: Registry, name: str, tmp_path: Path) -> None:
    recipe = apply_settings(registry.get(name).recipe, ["input.size=96", f"model.backbone={SMALL[name]}"])
    torch.manual_seed(0)
    network = build_timm(recipe, pretrained=False).train()
    optimizer = make_optimizer(recipe.optimizer, recipe.stage[0], network)
    images, labels = torch.rand(4, 3, 96, 96), torch.eye(6)[:4]
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(images), labels)
        loss.backward()
        take_step(optimizer, network, recipe.optimizer.clip, None)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    size = {"img_size": 96} if "maxvit" in name else {}
    timms = timm.create_model(SMALL[name], pretrained=False, **size)
    save_file(timms.state_dict(), tmp_path / "timm.safetensors")
    fresh, notes = build_timm(recipe, pretrained=False), []
    load_file(fresh, tmp_path / "timm.safetensors", notes.append)
    loaded = fresh.state_dict()
    stored = timms.state_dict()
    different = {key for key, value in stored.items() if not torch.equal(loaded[key], value)}
    assert different == {key for key in stored if stored[key].shape != loaded[key].shape}, notes
    assert different <= head_names(fresh)


def test_the_page_of_models_has_each_with_its_cost(registry: Registry) -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for plugin in registry.plugins.values():
        if plugin.kind == "slice":
            assert plugin.cost is not None
            row = next(line for line in page.splitlines() if line.startswith(f"| `{plugin.name}` |"))
            assert f"| {plugin.cost.parameters:g} M | {plugin.cost.gmacs:g} |" in row
            assert f"`{plugin.recipe.model.backbone}`" in row
