"""Selection of the slices in a report."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.evaluation.metric import score
from ichx.labels import LABELS
from ichx.report.gallery import SAMPLE, STRIP, WORST, select_slices


def draw(sizes: list[int], seed: int, positive: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return random labels, probabilities and series codes for series of these sizes; a share of them is positive."""
    random = np.random.default_rng(seed)
    series = np.repeat(np.arange(len(sizes)), sizes)
    has_positives = random.random(len(sizes)) < positive
    labels = ((random.random((len(series), len(LABELS))) < 0.3) & has_positives[series, None]).astype(float)
    labels[:, -1] = labels[:, :-1].max(axis=1)
    return labels, random.random(labels.shape), series


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 99))
def test_the_worst_slices_have_the_highest_loss_of_their_series(sizes: list[int], seed: int) -> None:
    labels, predicted, series = draw(sizes, seed)
    losses = np.array([score(labels[i : i + 1], predicted[i : i + 1]) for i in range(len(series))])
    worst = select_slices(labels, predicted, series).worst
    assert len(worst) == min(WORST, len(sizes))
    assert worst[0] == losses.argmax()
    assert (np.diff(losses[worst]) <= 0).all()
    assert len(set(series[worst])) == len(worst)
    assert all(losses[row] == losses[series == series[row]].max() for row in worst)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 99))
def test_half_of_the_sample_is_positive_if_possible(sizes: list[int], seed: int) -> None:
    labels, predicted, series = draw(sizes, seed)
    sample = select_slices(labels, predicted, series).sample
    positive = int(labels[:, -1].sum())
    expected = [min(SAMPLE // 2, positive), min(SAMPLE // 2, len(labels) - positive)]
    assert [int(labels[sample, -1].sum()), int((1 - labels[sample, -1]).sum())] == expected
    assert len(set(sample)) == len(sample)
    assert (select_slices(labels, predicted, series).sample == sample).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=15), st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_strip_is_one_series_in_order(sizes: list[int], seed: int, positive: float) -> None:
    labels, predicted, series = draw(sizes, seed, positive)
    found = select_slices(labels, predicted, series)
    (selected,) = set(series[found.strip])
    assert found.strip_total == sizes[selected]
    assert min(found.strip_total, STRIP // 2) <= len(found.strip) <= STRIP
    assert (np.diff(found.strip) > 0).all()
    if labels.any():
        assert labels[series == selected].any()


def test_the_strip_has_the_median_loss() -> None:
    labels, predicted, series = draw([10] * 3, 0, positive=1.0)
    for one, (p_true, p_false) in enumerate(((0.9, 0.1), (0.6, 0.4), (0.2, 0.8))):
        rows = series == one
        predicted[rows] = np.where(labels[rows] == 1, p_true, p_false)
    assert set(series[select_slices(labels, predicted, series).strip]) == {1}
