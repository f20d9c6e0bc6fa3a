"""Optimizers: torch's own, with groups whose rates and weight decay fit the layers; and one step of one."""

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from ichx.plugins import load_registry
from ichx.plugins.layer_depth import layer_numbers
from ichx.recipe import OptimizerRecipe, StageRecipe
from ichx.recipe_text import apply_settings
from ichx.training.network_head import head_names, train_all, train_head
from ichx.training.optimizers import make_optimizer, take_step

STAGE = StageRecipe(name="a", sampling="all", epochs=5, lr=8e-4)


def small(**changes: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return model, make_optimizer(OptimizerRecipe(**changes), STAGE, model)


def test_the_references_optimizer_decays_every_weight() -> None:
    model, optimizer = small(weight_decay=0.01)
    assert isinstance(optimizer, torch.optim.RAdam)
    [group] = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["scale"]) == (8e-4, 0.01, 1.0)
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_others_decay_neither_norms_nor_biases(name: str, kind: type) -> None:
    model, optimizer = small(name=name, weight_decay=0.05)
    assert isinstance(optimizer, kind)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {n: decays[id(p)] for n, p in model.named_parameters()} == {
        "0.weight": 0.05,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.05,
        "2.bias": 0.0,
    }


@pytest.mark.parametrize(
    ("name", "torchs"),
    [
        ("radam", lambda p: torch.optim.RAdam(p, lr=8e-4)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=8e-4, weight_decay=0.0)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=8e-4, momentum=0.9, nesterov=True)),
    ],
)
def test_steps_are_torchs(name: str, torchs: Any) -> None:
    model, optimizer = small(name=name)
    other, _ = small()
    reference = torchs(other.parameters())
    for seed in range(7):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        for net in (model, other):
            net(x).square().sum().backward()
        take_step(optimizer, model, 0.0, None)
        reference.step()
        reference.zero_grad()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("decoupled", [True, False])
def test_decay_of_radam_is_the_authors_over_200_steps(decoupled: bool) -> None:
    """Algorithm 2 of Liu et al. 2020; their program subtracts the decay from the weights, with the rate as factor."""
    rate, decay, beta_1, beta_2 = 8e-4, 0.1, 0.9, 0.999
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    model = nn.Module()
    model.weight = weight
    recipe = OptimizerRecipe(weight_decay=decay, decoupled=decoupled)
    optimizer = make_optimizer(recipe, StageRecipe(name="a", sampling="all", epochs=5, lr=rate), model)
    w, mean, square = weight.detach().clone(), torch.zeros(3).double(), torch.zeros(3).double()
    for step in range(1, 201):
        x = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        (weight * x).sum().square().backward()
        take_step(optimizer, model, 0.0, None)
        gradient = 2 * (w * x).sum() * x
        if decoupled:
            w = w - rate * decay * w
        else:
            gradient = gradient + decay * w
        mean, square = beta_1 * mean + (1 - beta_1) * gradient, beta_2 * square + (1 - beta_2) * gradient**2
        longest = 2 / (1 - beta_2) - 1
        length = longest - 2 * step * beta_2**step / (1 - beta_2**step)
        update = mean / (1 - beta_1**step)
        if length > 5:
            share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            update = share**0.5 * update * (1 - beta_2**step) ** 0.5 / (square.sqrt() + 1e-8)
        w = w - rate * update
    torch.testing.assert_close(weight.detach(), w, rtol=1e-9, atol=1e-12)


def test_parameters_that_timm_exempts_are_not_decayed() -> None:
    model = timm.create_model("test_vit.r160_in1k", num_classes=6)
    optimizer = make_optimizer(OptimizerRecipe(name="adamw", weight_decay=0.1), STAGE, model)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decays[id(p)] for name, p in model.named_parameters()}
    assert found["pos_embed"] == found["cls_token"] == found["norm.weight"] == found["head.bias"] == 0
    assert found["patch_embed.proj.weight"] == found["head.weight"] == 0.1


@pytest.mark.parametrize(
    "backbone",
    ["test_resnet.r160_in1k", "test_efficientnet.r160_in1k", "test_vit.r160_in1k", "legacy_seresnext50_32x4d"],
)
def test_layer_wise_rates_are_timms(backbone: str) -> None:
    model = timm.create_model(backbone, num_classes=6)
    recipe = OptimizerRecipe(name="adamw", weight_decay=0.1, layer_decay=0.7)
    ours = {
        id(p): (group["scale"], group["weight_decay"])
        for group in make_optimizer(recipe, STAGE, model).param_groups
        for p in group["params"]
    }
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    timms = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(model, 0.1, spared, layer_decay=0.7)
        for p in group["params"]
    }
    assert ours.keys() == timms.keys()
    for key, value in ours.items():
        assert value == pytest.approx(timms[key])
    head = head_names(model)
    scales = {name: ours[id(p)][0] for name, p in model.named_parameters()}
    assert {scales[name] for name in head} == {1.0}
    assert min(scales.values()) < 0.7**2


class Own(nn.Module):
    """A network that is not timm's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"stem": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4), "deep": nn.Linear(4, 4)})
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder["deep"](self.encoder["norm"](self.encoder["stem"](x)))
        logits: torch.Tensor = self.head(self.drop(x))
        return logits


def test_other_networks_have_layers_by_name() -> None:
    model = Own()
    numbers = layer_numbers(model)
    assert [numbers[f"{name}.weight"] for name in ("encoder.stem", "encoder.norm", "encoder.deep", "head")] == [
        0,
        1,
        2,
        3,
    ]
    optimizer = make_optimizer(OptimizerRecipe(layer_decay=0.5), STAGE, model)
    assert [group["scale"] for group in optimizer.param_groups] == [0.125, 0.25, 0.5, 1.0]
    assert head_names(model) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("backbone", ["test_resnet.r160_in1k", "convnext_atto.d2_in1k", "caformer_s18"])
def test_the_encoder_of_a_u_net_has_the_layers_of_its_backbone(backbone: str) -> None:
    plugin = load_registry().get("tiny_unet")
    state = torch.random.get_rng_state()
    model = plugin.build(apply_settings(plugin.recipe, [f"model.backbone={backbone}"]), False)
    torch.random.set_rng_state(state)
    numbers = layer_numbers(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    timms = layer_numbers(timm.create_model(backbone, num_classes=6))
    flat = {name.replace(".", "_"): number for name, number in timms.items()}
    encoder = {name: n for name, n in numbers.items() if name.startswith("encoder.")}
    assert encoder == {name: flat[name.removeprefix("encoder.model.").replace(".", "_")] for name in encoder}
    assert len(set(encoder.values())) > 3
    assert {n for name, n in numbers.items() if name not in encoder} == {max(encoder.values()) + 1}


def test_a_head_learns_alone() -> None:
    model = Own()
    model.encoder["stem"].bias.requires_grad_(False)  # the plugin's own choice
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(OptimizerRecipe(name="adamw", weight_decay=0.1), STAGE, model)
    train_head(model, learning)
    assert (model.training, model.encoder["norm"].training, model.drop.training) == (True, False, True)
    model(torch.randn(8, 3)).sum().backward()
    take_step(optimizer, model, 0.0, None)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}

    train_all(model, learning)
    assert model.encoder["norm"].training
    model(torch.randn(8, 3)).sum().backward()
    take_step(optimizer, model, 0.0, None)
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert still == {"encoder.stem.bias"}


def test_gradients_are_clipped_to_the_norm() -> None:
    """SGD's first Nesterov step moves by 1.9 times the gradient: by its direction, with the norm of the clip."""
    parameter = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        parameter.weight.zero_()
    optimizer = torch.optim.SGD(parameter.parameters(), lr=1.0)
    parameter(torch.tensor([[3.0, 4.0]])).sum().backward()
    take_step(optimizer, parameter, 1.0, None)
    torch.testing.assert_close(parameter.weight, torch.tensor([[-0.6, -0.8]]))
    assert parameter.weight.grad is None


@pytest.mark.parametrize(("value", "expected"), [(3.0, [[-0.6, -0.8]]), (float("inf"), [[0.0, 0.0]])])
def test_scaled_gradients_are_unscaled_before_clipping(value: float, expected: list[list[float]]) -> None:
    parameter = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        parameter.weight.zero_()
    optimizer = torch.optim.SGD(parameter.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(parameter(torch.tensor([[value, 4.0]])).sum()).backward()
    take_step(optimizer, parameter, 1.0, scaler)
    torch.testing.assert_close(parameter.weight, torch.tensor(expected))
    assert scaler.get_scale() == (1024.0 if value == 3.0 else 512.0)
