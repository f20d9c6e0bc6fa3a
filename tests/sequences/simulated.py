"""Series of simulated slices: bleeds over neighbouring slices, and members that see each slice with noise."""

import numpy as np

from ichx.labels import LABELS
from ichx.recipe import Recipe
from ichx.sequences.data import NO_PART, SequenceData
from ichx.sequences.feed import SequenceFeed


def simulate(
    lengths: list[int], *, members: int = 2, widths: tuple[int, ...] = (), parts: int = 0, seed: int = 0
) -> SequenceData:
    """Return one series of each length, each a study; the parts go round."""
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    series = np.split(np.arange(count), np.cumsum(lengths)[:-1])
    labels = np.zeros((count, 6))
    for rows in series:
        if rng.random() < 0.6:
            at, size = rng.integers(len(rows)), rng.integers(1, 8)
            labels[rows[at : at + size], rng.integers(5)] = 1
    labels[:, LABELS.index("any")] = labels.max(axis=1)
    signal = 4 * labels[:, None] - 2
    logits = (signal + rng.normal(0, 2, (count, members, 6))).astype(np.float32)
    mixing = rng.normal(size=(6, 16))
    features = tuple((signal[:, 0] @ mixing[:, :w] + rng.normal(0, 2, (count, w))).astype(np.float16) for w in widths)
    number = np.repeat(np.arange(len(lengths)), lengths)
    return SequenceData(
        series=series,
        slice_ids=np.array([f"slice-{row}" for row in range(count)], dtype=object),
        labels=labels,
        position=np.concatenate([5.0 * np.arange(length) - 70 for length in lengths]),
        study=number,
        features=features,
        logits=logits,
        part=number % parts if parts else np.full(count, NO_PART),
    )


def feed_of(data: SequenceData, recipe: Recipe, *, held_out: int = 6) -> SequenceFeed:
    """Return a feed whose last series are validated; they are trained on too if they have a part."""
    numbers = np.arange(len(data.series))
    part = data.series_part.copy()
    trained = numbers if (part >= 0).any() else numbers[:-held_out]
    return SequenceFeed(data, recipe, training_series=trained, validation_series=numbers[-held_out:])
