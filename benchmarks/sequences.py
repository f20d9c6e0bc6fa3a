"""Sequence models: how fast heads train, and how well, against what one would write by hand in PyTorch.

    python benchmarks/sequences.py [--quick] [--json FILE]

Speed: `gru` on 2,000 series of 34 slices with 512 features, 20 epochs, and the same network, batches and loss in a bare
loop with `torch.nn.GRU`. Quality: `gru_stack` on the logits of four simulated members of 100 patients, against a
bidirectional GRU with the same inputs, parts, batches and epochs in a loop by hand; both predict 300 fresh patients.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from common import Figure, arguments, conclude
from torch import nn

from ichx.evaluation.metric import probabilities, score
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings
from ichx.sequences.data import NO_PART, SequenceData
from ichx.sequences.feed import SequenceFeed
from ichx.sequences.network import build_network
from ichx.sequences.prediction import predict_series
from ichx.training.callbacks import Callbacks
from ichx.training.control import Control
from ichx.training.device import choose_hardware
from ichx.training.trainer import FitOptions, fit

SECONDS, SHARE, WORSE = 180.0, 0.95, 1.01
SERIES, SLICES, FEATURES, EPOCHS = 2000, 34, 512, 20
PATIENTS, FRESH, MEMBERS, WIDTH = 100, 300, 4, 64
DROPOUT = 0.2
"""Of the network by hand."""

WEIGHTS = torch.tensor(LABEL_WEIGHTS, dtype=torch.float32) / sum(LABEL_WEIGHTS)


def main() -> None:
    options = arguments(__doc__)
    figures = speed(options.quick)
    for seed in range(1 if options.quick else 3):
        figures += quality(seed)
    conclude(figures, options)


@dataclass
class Stopwatch(Callbacks):
    """Seconds from the first step of an epoch to its last sync point."""

    began: float = 0.0
    seconds: float = 0.0

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        self.began = time.perf_counter()

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        self.seconds = time.perf_counter() - self.began


def speed(quick: bool) -> list[Figure]:
    """Epochs of ichx and of the bare loop in turns; the seconds are those of a complete training."""
    count, turns = (200, 3) if quick else (SERIES, 5)
    data = features_of(count)
    plugin = load_registry().get("gru")
    shares, of_epochs = [], []
    bare = BareGru()
    for _ in range(turns):
        watch = Stopwatch()
        recipe = apply_settings(plugin.recipe, ["stage.full.epochs=1"])
        train(recipe, data, np.arange(count - 10), np.arange(count - 10, count), watch)
        seconds = bare.epoch(data, count - 10, recipe.batch)
        of_epochs.append(watch.seconds)
        shares.append(seconds / watch.seconds)
    share, each = statistics.median(shares), statistics.median(of_epochs)
    if quick:
        total, what = each * EPOCHS * SERIES / count, f"{EPOCHS} epochs of {SERIES:,} series, from {count}"
    else:
        began = time.perf_counter()
        train(
            apply_settings(plugin.recipe, [f"stage.full.epochs={EPOCHS}"]), data, np.arange(1990), np.arange(1990, 2000)
        )
        total, what = time.perf_counter() - began, f"{EPOCHS} epochs of {SERIES:,} series"
    what = f"gru, {what} x {SLICES} x {FEATURES}"
    return [
        Figure(what, total, "s", f"{each:.3g} s an epoch", f"{SECONDS:.0f} s", total <= SECONDS),
        Figure("gru, pace", share, "x", "a bare loop with torch.nn.GRU", f"{SHARE} x", share >= SHARE),
    ]


def quality(seed: int) -> list[Figure]:
    """The loss of fresh patients, by `gru_stack` and by hand."""
    rng = np.random.default_rng(seed)
    recipe = apply_settings(load_registry().get("gru_stack").recipe, [f"seed={seed}"])
    assert recipe.sequence is not None
    parts = recipe.sequence.parts
    data = simulated(PATIENTS + FRESH, rng, parts)
    trained, fresh = np.arange(PATIENTS), np.arange(PATIENTS, PATIENTS + FRESH)
    rows = np.concatenate([data.series[number] for number in fresh])
    began = time.process_time()
    found = train(recipe, data, trained, fresh, seed=seed)[rows]
    own_seconds = time.process_time() - began
    began = time.process_time()
    by_hand = np.mean([train_by_hand(recipe, data, part, seed)[rows] for part in range(parts)], axis=0)
    seconds = time.process_time() - began
    assert data.logits is not None
    loss, other, mean = (
        score(data.labels[rows], probabilities(x)) for x in (found, by_hand, data.logits[rows].mean(1))
    )
    against = f"BiGRU by hand ({other:.4f}, {seconds:.0f} core-s; mean of members {mean:.4f})"
    what = f"gru_stack, seed {seed}: loss {loss:.4f}, {own_seconds:.0f} core-s"
    return [Figure(what, loss / other, "x", against, f"{WORSE} x", loss <= WORSE * other)]


def train(
    recipe: Recipe,
    data: SequenceData,
    training: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    callbacks: Callbacks | None = None,
    seed: int = 0,
) -> npt.NDArray[np.float32]:
    """Train with ichx; return the logits `(N, 6)` of all slices, 0 where they are not predicted."""
    torch.manual_seed(seed)
    network = build_network(load_registry().get(recipe.plugin), recipe, data.widths(recipe))
    feed = SequenceFeed(data, recipe, training_series=training, validation_series=training[-5:])
    hardware = choose_hardware("cpu", recipe.precision)
    result = fit(network, recipe, feed, FitOptions(hardware=hardware, control=Control(callbacks=callbacks)))
    found = predict_series(result.predictor, result.network, feed, feed.rows(predicted))
    logits = np.zeros((len(data.slice_ids), len(LABELS)), np.float32)
    logits[found.slices] = found.logits
    return logits


def data_of(lengths: list[int], labels: npt.NDArray[np.float64], **inputs: object) -> SequenceData:
    count = sum(lengths)
    return SequenceData(
        series=np.split(np.arange(count), np.cumsum(lengths)[:-1]),
        slice_ids=np.array([f"slice-{row}" for row in range(count)], dtype=object),
        labels=labels,
        position=np.concatenate([5.0 * np.arange(length) for length in lengths]),
        study=np.repeat(np.arange(len(lengths)), lengths),
        **inputs,  # type: ignore[arg-type]
    )


def features_of(count: int) -> SequenceData:
    """Return random features and labels of `count` series."""
    rng = np.random.default_rng(0)
    labels = (rng.random((count * SLICES, len(LABELS))) < 0.1).astype(float)
    features = rng.standard_normal((count * SLICES, FEATURES), np.float32).astype(np.float16)
    return data_of([SLICES] * count, labels, features=(features,))


def simulated(count: int, rng: np.random.Generator, parts: int) -> SequenceData:
    """Return series with bleeds over some slices, and members that see them differently well.

    Each bleed is more or less conspicuous, and most so in its middle. Members share a part of their noise, and err in
    whole studies. The first `PATIENTS` have parts, the others are fresh.
    """
    lengths = rng.integers(24, 44, count).tolist()
    total = sum(lengths)
    labels, evidence = np.zeros((total, len(LABELS))), np.zeros((total, len(LABELS)))
    start = 0
    for length in lengths:
        for label in np.flatnonzero(rng.random(len(LABELS) - 1) < 0.12):
            size = int(min(rng.geometric(0.12) + 1, length))
            first = start + int(rng.integers(length - size + 1))
            profile = np.sin(np.pi * (np.arange(size) + 0.5) / size)
            labels[first : first + size, label] = rng.random(size) >= 0.05
            evidence[first : first + size, label] = rng.gamma(4, 1) * (0.3 + profile)
        start += length
    labels[:, -1] = labels.max(axis=1)
    evidence[:, -1] = evidence.max(axis=1)
    number = np.repeat(np.arange(count), lengths)
    shared = rng.normal(0, 1.0, (total, 1, len(LABELS)))
    of_studies = rng.normal(0, 0.7, (count, MEMBERS, len(LABELS)))[number]
    alone = rng.normal(0, 1.0, (total, MEMBERS, len(LABELS)))
    strength = rng.uniform(0.7, 1.1, (1, MEMBERS, 1))
    logits = -3.5 + strength * 1.6 * evidence[:, None] + shared + of_studies + alone
    part = np.where(number < PATIENTS, number % parts, NO_PART)
    return data_of(lengths, labels, logits=logits.astype(np.float32), part=part)


class BareGru(nn.Module):
    """The network of `gru` as one would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES + 4, 512)
        self.gru = nn.GRU(516, 256, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.3)
        self.slices, self.importance, self.series = (nn.Linear(512, len(LABELS)) for _ in range(3))

    def forward(self, features: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.layer_norm(features, features.shape[-1:])
        x = self.dropout(nn.functional.gelu(self.linear(torch.cat([x, place], dim=-1))))
        x = self.dropout(self.gru(torch.cat([x, place], dim=-1))[0])
        slices = self.slices(x)
        pooled = (self.importance(x).softmax(dim=1) * self.series(x)).sum(dim=1)
        return slices, slices.amax(dim=1) + pooled

    def epoch(self, data: SequenceData, count: int, batch: int) -> float:
        """Return the seconds of an epoch."""
        self.train()
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.01)
        features = data.features[0].reshape(-1, SLICES, FEATURES)
        labels = data.labels.reshape(-1, SLICES, len(LABELS))
        place = torch.linspace(-1, 1, SLICES)[None, :, None].expand(batch, SLICES, 4)
        order = np.random.default_rng(0).permutation(count)
        began = time.perf_counter()
        for start in range(0, count - batch + 1, batch):
            rows = order[start : start + batch]
            x = torch.from_numpy(features[rows].astype(np.float32))
            y = torch.from_numpy(labels[rows].astype(np.float32))
            slices, series = self(x, place)
            whole = y.amax(dim=1)
            loss = bce(slices, y) + 0.25 * bce(series, whole) + 0.1 * bce(slices.amax(dim=1), whole)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - began


class HandWritten(nn.Module):
    """A bidirectional GRU on logits, their differences to both neighbours, and the place, added to the mean logit."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * MEMBERS * len(LABELS) + 1, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(2 * WIDTH, len(LABELS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, series: list[torch.Tensor]) -> torch.Tensor:
        """Return `(n, 6)` for the logits `(T, M, 6)` of some series, whose slices follow each other."""
        x = nn.utils.rnn.pack_sequence([inputs_by_hand(logits) for logits in series], enforce_sorted=False)
        x = x._replace(data=self.dropout(nn.functional.gelu(self.linear(x.data))))
        padded, lengths = nn.utils.rnn.pad_packed_sequence(self.gru(x)[0], batch_first=True)
        states = torch.cat([one[:length] for one, length in zip(padded, lengths, strict=True)])
        return self.head(self.dropout(states)) + torch.cat(series).mean(dim=1)


def inputs_by_hand(logits: torch.Tensor) -> torch.Tensor:
    """Return `(T, C)`: the logits `(T, M, 6)` of a series, their differences to both neighbours, and the place."""
    x = logits.flatten(1)
    step, edge = x.diff(dim=0), torch.zeros_like(x[:1])
    place = torch.linspace(-1, 1, len(x))[:, None]
    return torch.cat([x, torch.cat([edge, step]), torch.cat([-step, edge]), place], dim=1)


def train_by_hand(recipe: Recipe, data: SequenceData, part: int, seed: int) -> npt.NDArray[np.float32]:
    """Train a head on all training patients but those of `part`; return the logits of all slices."""
    assert data.logits is not None
    torch.manual_seed(1000 * seed + part)
    network, stage = HandWritten(), recipe.stage[0]
    optimizer = torch.optim.AdamW(network.parameters(), lr=stage.lr, weight_decay=recipe.optimizer.weight_decay)
    series = [torch.from_numpy(data.logits[rows]) for rows in data.series]
    labels = [torch.from_numpy(data.labels[rows].astype(np.float32)) for rows in data.series]
    own = np.flatnonzero((data.series_part != part) & (data.series_part != NO_PART))
    steps = stage.epochs * (len(own) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.lr, total_steps=steps, cycle_momentum=False)
    rng = np.random.default_rng(seed)
    for _ in range(stage.epochs):
        order = rng.permutation(own)
        for start in range(0, len(own) - recipe.batch + 1, recipe.batch):
            rows = order[start : start + recipe.batch]
            bce(network([series[row] for row in rows]), torch.cat([labels[row] for row in rows])).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = network(series).numpy()
        return logits


def bce_rows(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the weighted loss of each row."""
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none") @ WEIGHTS


def bce(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean loss."""
    return bce_rows(logits, labels).mean()


if __name__ == "__main__":
    main()
