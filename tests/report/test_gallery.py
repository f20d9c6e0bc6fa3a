"""Which slices a report shows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.evaluation.metric import score
from ichx.labels import LABELS
from ichx.report.gallery import SAMPLE, STRIP, WORST, choose


def drawn(sizes: list[int], seed: int, bleeding: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities and series of as many slices per series as `sizes` says; some series bleed."""
    random = np.random.default_rng(seed)
    series = np.repeat(np.arange(len(sizes)), sizes)
    bleeds = random.random(len(sizes)) < bleeding
    labels = ((random.random((len(series), len(LABELS))) < 0.3) & bleeds[series, None]).astype(float)
    labels[:, -1] = labels[:, :-1].max(axis=1)
    return labels, random.random(labels.shape), series


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 99))
def test_the_worst_slices_are_the_worst_of_their_series(sizes: list[int], seed: int) -> None:
    labels, predicted, series = drawn(sizes, seed)
    losses = np.array([score(labels[i : i + 1], predicted[i : i + 1]) for i in range(len(series))])
    worst = choose(labels, predicted, series).worst
    assert len(worst) == min(WORST, len(sizes))
    assert worst[0] == losses.argmax()
    assert (np.diff(losses[worst]) <= 0).all()
    assert len(set(series[worst])) == len(worst)
    assert all(losses[row] == losses[series == series[row]].max() for row in worst)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 99))
def test_the_sample_is_half_positive_where_it_can_be(sizes: list[int], seed: int) -> None:
    labels, predicted, series = drawn(sizes, seed)
    sample = choose(labels, predicted, series).sample
    positive = int(labels[:, -1].sum())
    expected = [min(SAMPLE // 2, positive), min(SAMPLE // 2, len(labels) - positive)]
    assert [int(labels[sample, -1].sum()), int((1 - labels[sample, -1]).sum())] == expected
    assert len(set(sample)) == len(sample)
    assert (choose(labels, predicted, series).sample == sample).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=15), st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_strip_is_one_series_in_order(sizes: list[int], seed: int, bleeding: float) -> None:
    labels, predicted, series = drawn(sizes, seed, bleeding)
    found = choose(labels, predicted, series)
    (chosen,) = set(series[found.strip])
    assert found.strip_total == sizes[chosen]
    assert min(found.strip_total, STRIP // 2) <= len(found.strip) <= STRIP
    assert (np.diff(found.strip) > 0).all()
    if labels.any():
        assert labels[series == chosen].any()


def test_the_strip_is_of_middling_loss() -> None:
    labels, predicted, series = drawn([10] * 3, 0, bleeding=1.0)
    for one, (p_true, p_false) in enumerate(((0.9, 0.1), (0.6, 0.4), (0.2, 0.8))):
        rows = series == one
        predicted[rows] = np.where(labels[rows] == 1, p_true, p_false)
    assert set(series[choose(labels, predicted, series).strip]) == {1}
