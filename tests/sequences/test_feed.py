"""Batches of series: windows, padding, places, parts, augmentation, and merged predictions."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simulated import feed_of, simulate

from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.recipe import Recipe, SequenceRecipe
from ichx.recipe_text import apply_settings
from ichx.sequences.augmentation import remaining, with_noise
from ichx.sequences.feed import LoadedSeries, SequenceFeed
from ichx.sequences.windows import LONGEST, windows_of
from ichx.training.feed import EpochPlan


def recipe_of(*settings: str) -> Recipe:
    return apply_settings(load_registry().get("gru_stack").recipe, ("sequence.parts=3", *settings))


def training_batch(feed: SequenceFeed, epoch: int = 0, size: int = 4) -> LoadedSeries:
    return next(iter(feed.training_batches(EpochPlan(0, epoch, feed.epoch_rows(0, epoch), size))))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_windows_cover_every_series_in_order(lengths: list[int]) -> None:
    series = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    windows = windows_of(series)
    for number, rows in enumerate(series):
        own = [window for window in windows if window.series == number]
        assert len(own) == 1 or len(rows) > LONGEST
        assert np.array_equal(np.unique(np.concatenate([window.slices for window in own])), rows)
        for window in own:
            assert len(window.slices) <= LONGEST
            assert np.array_equal(window.slices, rows[window.start : window.start + LONGEST])
        for one, following in pairwise(own):
            assert 0 < following.start - one.start <= LONGEST // 2


def test_a_study_of_3000_slices_is_predicted_in_windows() -> None:
    data = simulate([3000, 1])
    feed = SequenceFeed(data, recipe_of())
    rows = feed.rows(np.arange(2))
    assert len(rows) == 93 + 1
    truth = np.random.default_rng(0).normal(size=(3001, 6)).astype(np.float32)
    predictions = np.zeros((len(rows), *feed.shape), np.float32)
    for row, window in enumerate(feed.windows):
        predictions[row, : len(window.slices)] = truth[window.slices]
        predictions[row, -1] = row
    assert np.allclose(feed.slice_logits(rows, predictions), truth, atol=1e-6)
    studies, logits = feed.study_logits(rows, predictions)
    assert studies.tolist() == [0, 1]
    assert logits[:, 0].tolist() == [92, 93]


def test_where_windows_overlap_their_middle_counts_most() -> None:
    feed = SequenceFeed(simulate([96]), recipe_of())
    first, second = (np.full((1, *feed.shape), value, np.float32) for value in (0, 1))
    merged = feed.slice_logits(np.arange(2), np.concatenate([first, second]))[:, 0]
    assert not merged[:32].any()
    assert (merged[64:] == 1).all()
    assert (np.diff(merged[32:64]) > 0).all()
    assert merged[32] == pytest.approx(1 / 33)


def test_the_weights_of_slices_do_not_depend_on_windows() -> None:
    feed = SequenceFeed(simulate([96, 32]), recipe_of(), training_series=np.arange(2))
    (batch,) = feed.inference_batches(feed.training_rows, batch=8)
    total = np.zeros(128)
    for window, weights in zip(feed.windows, batch.weights.numpy(), strict=True):
        total[window.slices] += weights[: len(window.slices)]
    assert np.allclose(total, 3 / 128), "their mean over the three windows is that over the slices"


def test_padding_is_zero_and_its_labels_are_unknown() -> None:
    data = simulate([5, 1, 3], widths=(4,))
    feed = SequenceFeed(data, recipe_of('sequence.inputs=["logits", "features"]'))
    (batch,) = feed.inference_batches(feed.rows(np.arange(3)), batch=8)
    assert batch.batch.mask.sum(dim=1).tolist() == [5, 1, 3]
    for values in (*batch.batch[:4], batch.weights):
        assert not values[~batch.batch.mask].any()
    assert batch.labels[~batch.batch.mask].isnan().all()
    assert np.array_equal(batch.batch.features[0].numpy(), data.features[0][:5].astype(np.float32))
    assert data.logits is not None
    assert np.array_equal(batch.batch.logits[2, :3].numpy(), data.logits[6:])


def test_places_in_a_series() -> None:
    data = simulate([4, 1])
    data = replace(data, position=np.array([100.0, 105, 110, 300, 7]))
    feed = SequenceFeed(data, recipe_of())
    (batch,) = feed.inference_batches(np.arange(2), batch=2)
    place = batch.batch.place.numpy()
    assert np.allclose(place[0, :, 0], [-1, -1 / 3, 1 / 3, 1])
    assert np.allclose(place[0, :, 1], [-1, -0.95, -0.9, 1])
    assert np.allclose(place[0, :, 2], [0, 0.5, 0.5, 5], atol=1e-5)
    assert np.allclose(place[0, :, 3], [0.5, 0.5, 5, 0], atol=1e-5)
    assert np.allclose(batch.batch.position[0], [-100, -95, -90, 100], atol=1e-4)
    assert not place[1].any()


@pytest.mark.parametrize("position", [np.nan, 3.0])
def test_positions_that_are_unknown_or_equal(position: float) -> None:
    data = simulate([4])
    feed = SequenceFeed(replace(data, position=np.full(4, position)), recipe_of())
    (batch,) = feed.inference_batches(np.arange(1), batch=1)
    assert not batch.batch.place[..., 1:].any()
    assert not batch.batch.position.any()


def test_heads_of_a_part_predict_it_and_never_learn_from_it() -> None:
    data = simulate([3] * 4, parts=3)
    assert data.part is not None
    data = replace(data, part=np.where(data.part == 2, -1, data.part))
    feed = SequenceFeed(data, recipe_of("sequence.seeds=2"), training_series=np.arange(4))
    (predicting,) = feed.inference_batches(np.arange(4), batch=4)
    assert predicting.heads.tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]]
    batch = training_batch(feed)
    order = np.argsort(batch.rows.numpy())
    assert batch.heads[order].tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1], [1] * 6, [0, 0, 1, 1, 1, 1]]


def test_draws_depend_on_fold_epoch_and_series_only() -> None:
    data = simulate([20] * 8)
    settings = ("sequence.drop=0.3", "sequence.noise=0.5", "sequence.reverse=0.5", "sequence.contiguous=0.5")
    recipe = recipe_of(*settings)
    feed = SequenceFeed(data, recipe, training_series=np.arange(8))
    whole = EpochPlan(0, 0, feed.epoch_rows(0, 0), 8)
    (complete,) = feed.training_batches(whole)
    halves = [next(iter(feed.training_batches(whole, part=(part, 2)))) for part in range(2)]
    for at, row in enumerate(complete.rows.tolist()):
        half = next(half for half in halves if row in half.rows.tolist())
        count = int(complete.batch.mask[at].sum())
        other = half.rows.tolist().index(row)
        assert torch.equal(complete.batch.logits[at, :count], half.batch.logits[other, :count])
    for other in (replace(recipe, seed=1), recipe):
        fold = 1 if other is recipe else 0
        (changed,) = SequenceFeed(data, other, fold, training_series=np.arange(8)).training_batches(whole)
        assert not np.array_equal(changed.batch.logits.sum((1, 2, 3)), complete.batch.logits.sum((1, 2, 3)))
    (plain,) = feed.inference_batches(whole.rows, batch=8)
    assert bool(plain.batch.mask.all())


def test_a_reversed_series_keeps_labels_with_their_slices() -> None:
    data = simulate([9])
    feed = SequenceFeed(data, recipe_of("sequence.reverse=1", "batch=1"), training_series=np.arange(1))
    batch, (plain,) = training_batch(feed), feed.inference_batches(np.arange(1), batch=1)
    assert torch.equal(batch.labels, plain.labels.flip(1))
    assert torch.equal(batch.batch.logits, plain.batch.logits.flip(1))
    assert torch.equal(batch.batch.place[..., :2], -plain.batch.place[..., :2].flip(1))
    assert torch.equal(batch.batch.place[..., 2], plain.batch.place[..., 3].flip(1))
    assert (batch.batch.position.diff() > 0).all(), "the head is turned, not the order"


@given(st.integers(1, 70), st.integers(0, 2**32 - 1), st.floats(0, 0.99))
def test_what_remains_is_in_order_and_not_empty(count: int, seed: int, drop: float) -> None:
    given_recipe = SequenceRecipe(reverse=0.5, every_second=0.5, contiguous=0.5, drop=drop)
    places = remaining(count, given_recipe, np.random.default_rng(seed))
    assert len(places) >= 1
    assert (np.diff(places) > 0).all() or (np.diff(places) < 0).all()
    assert 0 <= places.min() <= places.max() < count
    assert np.array_equal(remaining(count, SequenceRecipe(), np.random.default_rng(seed)), np.arange(count))


def test_single_augmentations() -> None:
    rng = np.random.default_rng(0)
    every_second = {tuple(remaining(5, SequenceRecipe(every_second=1), rng)) for _ in range(20)}
    assert every_second == {(0, 2, 4), (1, 3)}
    for _ in range(20):
        part = remaining(11, SequenceRecipe(contiguous=1), rng)
        assert len(part) >= 6
        assert (np.diff(part) == 1).all()
    kept = np.mean([len(remaining(50, SequenceRecipe(drop=0.2), rng)) for _ in range(200)])
    assert kept == pytest.approx(40, abs=1)
    values = rng.normal(0, [1.0, 100.0], (4000, 2)).astype(np.float32)
    assert (with_noise(values, 0.1, rng) - values).std(axis=0) == pytest.approx([0.1, 10], rel=0.1)


def test_sampling_takes_series_with_a_bleed_and_as_many_without() -> None:
    data = simulate([10] * 30)
    feed = feed_of(data, recipe_of("stage.full.sampling=redrawn"))
    rows = feed.epoch_rows(0, 0)
    positive = {row for row in feed.training_rows if data.labels[feed.windows[row].slices, LABELS.index("any")].any()}
    negative = set(feed.training_rows) - positive
    assert min(len(positive), len(negative)) > 0
    assert len(set(rows)) == len(rows)
    assert set(rows) & positive == positive
    assert len(set(rows) & negative) == len(rows) - len(positive) == min(len(positive), len(negative))


def test_data_that_does_not_fit_together_is_refused() -> None:
    data = simulate([4, 3])
    with pytest.raises(ValueError, match="position of 7 slices"):
        replace(data, position=data.position[1:])
    with pytest.raises(ValueError, match="series"):
        replace(data, series=[np.arange(7), np.arange(0)])
    with pytest.raises(ValueError, match="parts than the 1 of"):
        SequenceFeed(simulate([4] * 3, parts=3), recipe_of("sequence.parts=1"))
    with pytest.raises(ValueError, match="features"):
        SequenceFeed(data, recipe_of('sequence.inputs=["features"]', "sequence.residual=false"))
