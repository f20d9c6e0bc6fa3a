"""The moving average of the weights is timm's."""

import copy

import torch
from timm.utils import ModelEmaV3
from torch import nn

from ichx.training.weight_average import WeightAverage


def test_it_is_timms_model_ema_v3() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(2, 3, 8, 8))
    ours, timms = WeightAverage(model, 0.8), ModelEmaV3(model, decay=0.8, use_warmup=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 21):
        model(torch.randn(8, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ours.update()
        timms.update(model, step=step)
        if step == 1:
            assert all(torch.equal(a, b) for a, b in zip(ours.module.parameters(), model.parameters(), strict=True))
    expected = timms.module.state_dict()
    for name, value in ours.module.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert ours.module.state_dict()["1.num_batches_tracked"] == 21
    assert not torch.equal(ours.module.state_dict()["1.running_mean"], model.state_dict()["1.running_mean"])


def test_the_average_continues_from_its_state() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    whole, first, second = (WeightAverage(model, 0.9) for _ in range(3))
    for step in range(10):
        with torch.no_grad():
            model.weight.add_(torch.randn(3, 3))
        whole.update()
        (first if step < 5 else second).update()
        if step == 4:
            second.restore(copy.deepcopy(first.state()))
    assert torch.equal(whole.module.weight, second.module.weight)
