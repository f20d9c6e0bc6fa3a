"""The pieces of the method: loss, windows on the device, optimizer and scheduler."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ichx.ct.windows import windows_numpy
from ichx.evaluation.metric import probabilities, score
from ichx.recipe import InputRecipe, StageRecipe
from ichx.training.method import PART, WindowStep, learning_rate, weighted_loss


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_loss_is_the_score(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 3, (n, 6)).astype(np.float32)
    labels = (rng.random((n, 6)) < 0.3).astype(np.float32)
    loss = weighted_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss.item() == pytest.approx(score(labels, probabilities(logits)), rel=1e-5)


def test_the_loss_is_computed_in_float32_under_mixed_precision() -> None:
    logits = torch.full((4, 6), 12.0, dtype=torch.bfloat16, requires_grad=True)
    loss = weighted_loss(logits, torch.ones(4, 6))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log1p(np.exp(-12.0)), rel=1e-4)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).all()


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
def test_the_window_step_is_the_numpy_window(kind: str) -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1024, 3000, (5, 16, 16)).astype(np.int16)
    header = np.array([[40, 80], [35, 90], [50, 1], [600, 2800], [-600, 1500]], np.float32)
    recipe = InputRecipe(size=16, window_kind=kind)
    found = WindowStep(recipe)(torch.from_numpy(hu), torch.from_numpy(header))
    assert found.shape == (5, 3, 16, 16)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), windows_numpy(hu, header, recipe.windows, kind), atol=2e-6)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
def test_jitter_moves_each_slices_windows(kind: str) -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1024, 3000, (4, 16, 16)).astype(np.int16)
    header = np.array([[40, 80], [35, 90], [50, 10], [600, 2800]], np.float32)
    jitter = np.stack([rng.uniform(-10, 10, (4, 3)), rng.uniform(0.8, 1.2, (4, 3))], -1).astype(np.float32)
    recipe = InputRecipe(size=16, window_kind=kind)
    found = WindowStep(recipe)(torch.from_numpy(hu), torch.from_numpy(header), torch.from_numpy(jitter))
    for index in range(4):
        own = [header[index], *recipe.windows[1:]]
        moved = [(w[0] + j[0], w[1] * j[1]) for w, j in zip(own, jitter[index], strict=True)]
        expected = windows_numpy(hu[index], header[index], moved, kind)
        np.testing.assert_allclose(found[index].numpy(), expected, atol=5e-6)


def test_normalizing_is_for_weights_that_want_it() -> None:
    hu, header = torch.full((1, 2, 2), 40, dtype=torch.int16), torch.tensor([[40.0, 80.0]])
    plain = WindowStep(InputRecipe(size=16))(hu, header)
    normalized = WindowStep(InputRecipe(size=16, normalize="imagenet"))(hu, header)
    expected = (plain[0, :, 0, 0] - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(normalized[0, :, 0, 0], expected)
    assert not WindowStep(InputRecipe(size=16, normalize="imagenet")).state_dict()


@pytest.mark.parametrize("windows", [((40.0, 80.0),), ((-1.0, -1.0), (80.0, 200.0), (600.0, 2800.0))])
def test_neighbours_are_channels_slice_by_slice(windows: tuple[tuple[float, float], ...]) -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1024, 3000, (4, 5, 16, 16)).astype(np.int16)
    header = np.array([[40, 80], [35, 90], [50, 10], [600, 2800]], np.float32)
    recipe = InputRecipe(size=16, windows=windows, centre="series", neighbours=2)
    found = WindowStep(recipe)(torch.from_numpy(hu), torch.from_numpy(header))
    assert found.shape == (4, recipe.channels, 16, 16)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for place in range(5):
        # The file's own window is the middle slice's for all of them, so that they can be compared.
        expected = windows_numpy(hu[:, place], header, windows, "linear")
        of_slice = found[:, place * len(windows) : (place + 1) * len(windows)]
        np.testing.assert_allclose(of_slice.numpy(), expected, atol=2e-6)


def test_neighbours_move_with_their_slices_windows() -> None:
    rng = np.random.default_rng(0)
    hu = torch.from_numpy(rng.integers(-100, 200, (4, 1, 8, 8)).astype(np.int16)).expand(4, 3, 8, 8)
    jitter = torch.from_numpy(rng.uniform(0.8, 1.2, (4, 1, 2)).astype(np.float32))
    step = WindowStep(InputRecipe(size=16, windows=((40.0, 80.0),), centre="series", neighbours=1))
    found = step(hu, torch.tensor([[40.0, 80.0]] * 4), jitter)
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(found[:, 0], found[:, 2])
    assert not torch.equal(found, step(hu, torch.tensor([[40.0, 80.0]] * 4)))


@pytest.mark.parametrize(("neighbours", "windows"), [(1, 1), (2, 1), (1, 3)])
def test_normalizing_repeats_the_colours_as_their_weights_are(neighbours: int, windows: int) -> None:
    given = ((40.0, 80.0),) * windows
    plain = InputRecipe(size=16, windows=given, centre="series", neighbours=neighbours)
    hu, header = torch.full((1, plain.slices, 2, 2), 40, dtype=torch.int16), torch.tensor([[40.0, 80.0]])
    found = WindowStep(dataclasses.replace(plain, normalize="imagenet"))(hu, header)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = [(0.5 - mean[i % 3]) / std[i % 3] for i in range(plain.channels)]
    assert found[0, :, 0, 0].tolist() == pytest.approx(expected)


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


@pytest.mark.parametrize("normalize", ["none", "imagenet"])
@pytest.mark.parametrize("jittered", [True, False])
def test_windows_in_parts_are_the_same(normalize: str, jittered: bool) -> None:
    rng = np.random.default_rng(0)
    hu = torch.from_numpy(rng.integers(-1024, 3000, (7, 160, 160)).astype(np.int16))
    header = torch.from_numpy(np.stack([rng.uniform(30, 50, 7), rng.uniform(60, 100, 7)], -1).astype(np.float32))
    jitter = torch.from_numpy(rng.uniform(0.9, 1.1, (7, 3, 2)).astype(np.float32)) if jittered else None
    step = WindowStep(InputRecipe(size=160, normalize=normalize))
    assert len(hu) > PART // hu[0].numel() > 1, "there are several parts, of several slices, and a ragged one"
    found = step.in_parts(hu, header, jitter)
    assert torch.equal(found, step(hu, header, jitter))
    assert found.is_contiguous(memory_format=torch.channels_last)


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


def test_a_warm_up_and_a_milestone_are_both_heeded() -> None:
    stage = StageRecipe(name="a", sampling="all", epochs=3, lr=1.0, milestones=(1,), gamma=0.5, warmup=2.0)
    assert [learning_rate(stage, epoch, 0.0) for epoch in range(3)] == pytest.approx([0.01, 0.5 * 0.505, 0.5])


def test_label_smoothing_moves_labels_towards_a_half() -> None:
    logits, labels = torch.tensor([[2.0, -1.0] * 3]), torch.tensor([[1.0, 0.0] * 3])
    smooth = weighted_loss(logits, labels, 0.2)
    torch.testing.assert_close(smooth, weighted_loss(logits, torch.tensor([[0.9, 0.1] * 3])))
    at_one, at_zero = (0.9 * np.log1p(np.exp(-z)) + 0.1 * np.log1p(np.exp(z)) for z in (2.0, 1.0))
    assert smooth.item() == pytest.approx((3 * at_one + 4 * at_zero) / 7, rel=1e-6)  # `any`, the last, counts twice
