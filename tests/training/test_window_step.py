"""Windows on the device equal those in NumPy."""

import dataclasses

import numpy as np
import pytest
import torch
from timm.models import adapt_input_conv

from ichx.ct.windows import windows_numpy
from ichx.recipe import InputRecipe
from ichx.training.window_step import PART, WindowStep


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


def test_normalizing_is_optional() -> None:
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


@pytest.mark.parametrize(("neighbours", "windows"), [(0, 1), (0, 5), (0, 9), (1, 2), (4, 1), (2, 3)])
def test_statistics_of_colours_repeat_over_any_number_of_channels(neighbours: int, windows: int) -> None:
    recipe = InputRecipe(16, windows=((40.0, 80.0),) * windows, neighbours=neighbours, normalize="imagenet")
    shape = (2, recipe.slices, 16, 16) if neighbours else (2, 16, 16)
    hu, header = torch.full(shape, 40, dtype=torch.int16), torch.tensor([[40.0, 80.0]] * 2)
    found = WindowStep(recipe)(hu, header)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((0.5 - mean) / std)[torch.arange(recipe.channels) % 3]
    torch.testing.assert_close(found[0, :, 0, 0], expected)


def test_equal_slices_give_pretrained_weights_the_response_of_one() -> None:
    """Three slices in three windows, with timm's adaptation of the first convolution and repeated statistics."""
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    adapted = adapt_input_conv(9, weight)
    one = InputRecipe(16, normalize="imagenet")
    three = InputRecipe(16, normalize="imagenet", neighbours=1, centre="series")
    hu = torch.randint(-1024, 2000, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    header = torch.tensor([[40.0, 80.0], [30.0, 100.0]])
    alone = torch.nn.functional.conv2d(WindowStep(one)(hu, header), weight)
    stacked = torch.nn.functional.conv2d(WindowStep(three)(hu[:, None].repeat(1, 3, 1, 1), header), adapted)
    torch.testing.assert_close(stacked, alone, rtol=1e-4, atol=1e-4)
