"""Gradient checkpointing and synchronized batch norms: the same training, with less memory or several processes."""

import copy

import pytest
import timm
import torch
from torch import nn

from ichx.errors import UnsupportedError
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings
from ichx.training.device import Hardware
from ichx.training.distributed import Group
from ichx.training.learner import Learner
from ichx.training.recomputation import check_recomputation, recompute_activations
from ichx.training.runtime import Runtime, synchronize_batch_norms
from ichx.training.weights import Start, make_model


def small(plugin: str, *settings: str) -> Recipe:
    image = ("input.size=64", "input.crop=0", "model.pretrained=false", "model.checkpointing=true")
    return apply_settings(load_registry().get(plugin).recipe, [*image, *settings])


@pytest.mark.parametrize(
    "plugin", ["tiny_resnet", "tiny_byobnet", "tiny_efficientnet", "tiny_unet", "efficientnet_b2", "hgnetv2_b4"]
)
def test_a_step_is_the_same_and_keeps_less(plugin: str) -> None:
    recipe = small(plugin)
    torch.manual_seed(0)
    network = load_registry().get(plugin).build(recipe, False).train()
    other = copy.deepcopy(network)
    recompute_activations(other, recipe)
    images = torch.rand(4, 3, 64, 64)
    kept = []
    for model in (network, other):
        torch.manual_seed(1)  # of dropout and stochastic depth
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(images).square().mean()
        loss.backward()
        kept.append(sum(saved.values()))
    assert kept[1] < kept[0]
    for (name, one), two in zip(network.named_parameters(), other.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is not None and two.grad is not None:
            assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-6), name
    for (name, one), two in zip(network.named_buffers(), other.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            assert torch.allclose(one, two), name
    assert list(network.state_dict()) == list(other.state_dict())


@pytest.mark.parametrize("plugin", ["seresnext50", "tiny_fine"])
def test_a_backbone_without_it_is_refused_before_anything_else(plugin: str) -> None:
    recipe = small(plugin)
    with pytest.raises(UnsupportedError, match=recipe.model.backbone):
        make_model(load_registry().get(plugin), recipe, Start("random"), print)
    network = load_registry().get(plugin).build(recipe, False)
    runtime = Runtime(Hardware(torch.device("cpu"), "fp32", "a test"))
    with pytest.raises(UnsupportedError, match=recipe.model.backbone):
        Learner(recipe, 0, network, runtime, print)


def test_the_check_leaves_it_off() -> None:
    recipe = small("tiny_resnet")
    network = load_registry().get("tiny_resnet").build(recipe, False)
    check_recomputation(network, recipe)
    assert not network.grad_checkpointing


def test_synchronized_batch_norms_keep_activations_and_names() -> None:
    network = timm.create_model("test_efficientnet", num_classes=6).eval()
    converted = synchronize_batch_norms(copy.deepcopy(network), torch.device("cuda"))
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len([layer for layer in converted.modules() if isinstance(layer, nn.SyncBatchNorm)]) == len(norms) > 0
    assert list(converted.state_dict()) == list(network.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(converted.eval()(images), network(images), atol=1e-6)


def test_they_are_refused_on_cpus_and_without_effect_in_one_process() -> None:
    recipe = small("tiny_resnet", "model.sync_bn=true", "model.checkpointing=false")
    network = load_registry().get("tiny_resnet").build(recipe, False)
    hardware = Hardware(torch.device("cpu"), "fp32", "a test")
    with pytest.raises(UnsupportedError) as caught:
        Learner(recipe, 0, network, Runtime(hardware, Group(0, 2)), print)
    assert "model.sync_bn=false" in caught.value.remedy
    learner = Learner(recipe, 0, network, Runtime(hardware), print)
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in learner.network.modules())
