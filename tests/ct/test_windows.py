"""Windows in NumPy and in torch."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.ct.windows import windows_numpy, windows_torch
from ichx.recipe import REFERENCE_WINDOWS


def one(hu: list[float], window: tuple[float, float], kind: str) -> list[float]:
    return windows_numpy(np.array([hu], np.int16), (40, 80), [window], kind)[0, 0].tolist()


def test_linear_reaches_its_bounds_exactly() -> None:
    assert one([-1024, -20, 80, 130, 180, 3000], (80, 200), "linear") == pytest.approx([0, 0, 0.5, 0.75, 1, 1])
    assert one([-20, 180], (80, 200), "linear") == [0, 1]


def test_sigmoid_is_one_and_254_of_255_at_its_bounds() -> None:
    assert one([-20, 80, 180], (80, 200), "sigmoid") == pytest.approx([1 / 255, 0.5, 254 / 255], rel=1e-5)
    expected = 1 / (1 + math.exp(-(2 * math.log(254) / 2800) * (1000 - 600)))
    assert one([1000], (600, 2800), "sigmoid") == pytest.approx([expected])


def test_extremes_stay_in_range_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("linear", "sigmoid"):
            seen = one([-1024, 32767], (40, 1), kind)
            assert seen == [0, 1]


def test_each_slice_has_its_own_window() -> None:
    hu = np.full((2, 4, 5), 40, np.int16)
    header = np.array([[40, 80], [0, 160]], np.float32)
    seen = windows_numpy(hu, header, REFERENCE_WINDOWS, "linear")
    assert seen.shape == (2, 3, 4, 5)
    assert seen.dtype == np.float32
    assert (seen[0, 0] == 0.5).all()
    assert (seen[1, 0] == 0.75).all()
    assert (seen[0, 1:] == seen[1, 1:]).all()
    assert (windows_numpy(hu[1], header[1], REFERENCE_WINDOWS, "linear") == seen[1]).all()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["linear", "sigmoid"]),
    windows=st.lists(
        st.one_of(st.just((-1.0, -1.0)), st.tuples(st.integers(-500, 900).map(float), st.integers(1, 4000).map(float))),
        min_size=1,
        max_size=4,
    ),
)
def test_numpy_and_torch_agree(seed: int, kind: str, windows: list[tuple[float, float]]) -> None:
    random = np.random.default_rng(seed)
    hu = random.integers(-1024, 4000, (3, 6, 7)).astype(np.int16)
    header = np.stack([random.uniform(-100, 600, 3), random.uniform(1, 3000, 3)], 1).astype(np.float32)
    in_numpy = windows_numpy(hu, header, windows, kind)
    in_torch = windows_torch(torch.from_numpy(hu), torch.from_numpy(header), windows, kind)
    assert in_torch.dtype == torch.float32
    assert in_torch.shape == (3, len(windows), 6, 7)
    assert in_numpy.min() >= 0
    assert in_numpy.max() <= 1
    np.testing.assert_allclose(in_torch.numpy(), in_numpy, atol=2e-6)


def test_the_batch_is_not_changed() -> None:
    hu = torch.full((1, 2, 2), 100, dtype=torch.float32)
    windows_torch(hu, torch.tensor([[40.0, 80.0]]), [(80, 200)], "linear")
    assert (hu == 100).all()


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="cubic"):
        windows_numpy(np.zeros((1, 1)), (40, 80), [(40, 80)], "cubic")
    with pytest.raises(ValueError, match="cubic"):
        windows_torch(torch.zeros(1, 1, 1), torch.tensor([[40, 80]]), [(40, 80)], "cubic")


def test_channels_of_a_stack_are_ordered_by_slice():
    rng = np.random.default_rng(0)
    hu = rng.integers(-1024, 3000, (4, 3, 8, 8)).astype(np.int16)
    header = np.array([[40, 80], [35, 90], [50, 10], [600, 2800]], np.float32)
    jitter = np.stack([rng.uniform(-10, 10, (4, 3)), rng.uniform(0.8, 1.2, (4, 3))], -1).astype(np.float32)
    given = [torch.from_numpy(array) for array in (hu, header, jitter)]
    seen = windows_torch(given[0], given[1], REFERENCE_WINDOWS, "sigmoid", given[2])
    assert seen.shape == (4, 3, 3, 8, 8)
    for place in range(3):
        alone = windows_torch(given[0][:, place], given[1], REFERENCE_WINDOWS, "sigmoid", given[2])
        assert torch.equal(seen[:, place], alone)
