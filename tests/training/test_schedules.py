"""Learning rates equal those of torch's schedulers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ichx.recipe import StageRecipe
from ichx.training.schedules import learning_rate


@given(
    lr=st.floats(1e-6, 1.0),
    gamma=st.floats(0.1, 1.0),
    milestones=st.sets(st.integers(1, 12), max_size=4).map(sorted).map(tuple),
)
def test_multistep_rates_are_torchs(lr: float, gamma: float, milestones: tuple[int, ...]) -> None:
    stage = StageRecipe(name="a", sampling="all", epochs=12, lr=lr, milestones=milestones, gamma=gamma)
    optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones), gamma)
    for epoch in range(stage.epochs):
        given_by_torch = optimizer.param_groups[0]["lr"]
        assert [learning_rate(stage, epoch, part) for part in (0.0, 0.99)] == pytest.approx([given_by_torch] * 2)
        optimizer.step()
        scheduler.step()


def test_cosine_rates_are_torchs_step_by_step() -> None:
    stage = StageRecipe(name="a", sampling="all", epochs=3, lr=6e-3, scheduler="cosine")
    steps = 7
    optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=stage.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.epochs * steps)
    expected = []
    for _ in range(stage.epochs * steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates = [learning_rate(stage, epoch, step / steps) for epoch in range(stage.epochs) for step in range(steps)]
    assert rates == pytest.approx(expected)
    assert rates[0] == stage.lr
    assert 0 < rates[-1] < 0.01 * stage.lr


def test_one_cycle_rates_are_torchs() -> None:
    """torch's phases end on its steps 0.3 n - 1 and n - 1; between those ends the curve is the same."""
    stage = StageRecipe(name="a", sampling="all", epochs=4, lr=2e-3, scheduler="onecycle")
    steps = 1000
    optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.lr, total_steps=steps, cycle_momentum=False)
    top, end = 0.3 * steps - 1, steps - 1
    rates = []
    for step in range(steps):
        done = 0.3 * step / top if step <= top else 0.3 + 0.7 * (step - top) / (end - top)
        epoch, part = divmod(done * stage.epochs, 1)
        rates.append(learning_rate(stage, int(epoch), part))
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(stage.lr)
    assert rates[0] == pytest.approx(stage.lr / 25)
    assert rates[-1] == pytest.approx(stage.lr / 25e4)


@pytest.mark.parametrize("scheduler", ["multistep", "cosine"])
def test_a_warm_up_is_torchs_linear_one(scheduler: str) -> None:
    steps, warm = 8, 12  # steps of an epoch and of the warm-up
    stage = StageRecipe(name="a", sampling="all", epochs=4, lr=6e-3, scheduler=scheduler, warmup=warm / steps)
    optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=stage.lr)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warm)
    after: torch.optim.lr_scheduler.LRScheduler = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, stage.epochs * steps - warm)
        if scheduler == "cosine"
        else torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    )
    torchs = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, after], [warm])
    for epoch in range(stage.epochs):
        for step in range(steps):
            assert learning_rate(stage, epoch, step / steps) == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            torchs.step()


def test_a_warm_up_and_a_milestone_apply_together() -> None:
    stage = StageRecipe(name="a", sampling="all", epochs=3, lr=1.0, milestones=(1,), gamma=0.5, warmup=2.0)
    assert [learning_rate(stage, epoch, 0.0) for epoch in range(3)] == pytest.approx([0.01, 0.5 * 0.505, 0.5])
