"""Series as the data of a training or a prediction: a row of the feed is a window of a series."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ichx.evaluation.scored_rows import Truth
from ichx.labels import ANY, LABELS
from ichx.loading.sampling import SERIES, EpochAddress, epoch_rows, generator, id_number
from ichx.plugins.contract import PLACES, SequenceBatch, SequenceLogits
from ichx.recipe import Recipe, SequenceRecipe
from ichx.sequences.augmentation import remaining, with_noise
from ichx.sequences.data import NO_PART, IntArray, SequenceData
from ichx.sequences.losses import sequence_loss
from ichx.sequences.windows import LONGEST, SeriesWindow, windows_of
from ichx.training.feed import EpochPlan, Rows

Float32Array = npt.NDArray[np.float32]

NO_SERIES: IntArray = np.empty(0, np.int64)
MARGIN = 1
"""Slices at either end of a series that may be left out though the label of the series remains."""
FARTHEST = 5.0
"""Bound of distances between slices in `SequenceBatch.place`, in 10 mm."""


@dataclass(frozen=True)
class LoadedSeries:
    """A batch of B windows in main memory."""

    rows: torch.Tensor
    """`(B,)` rows of the feed."""
    batch: SequenceBatch
    labels: torch.Tensor
    """`(B, T, 6)` float32, NaN for padding and where unknown."""
    weights: torch.Tensor
    """`(B, T)` weights of the slices in the loss, 0 for padding."""
    heads: torch.Tensor
    """`(B, H)` float32: 1 for heads that learn from a series, or that predict it."""
    studies: torch.Tensor | None = None
    """`(B, 6)` float32 labels of the studies or series themselves, NaN where unknown; None if only slices have any."""


@dataclass(frozen=True)
class SequenceInputs:
    """A batch of B windows on the device."""

    batch: SequenceBatch
    labels: torch.Tensor
    """See `LoadedSeries`, like `weights` and `heads`."""
    weights: torch.Tensor
    heads: torch.Tensor
    studies: torch.Tensor | None = None

    def __len__(self) -> int:
        """See `Inputs`."""
        return len(self.labels)

    def part(self, part: slice) -> "SequenceInputs":
        """See `Inputs.part`."""
        batch = SequenceBatch(*(values[part] for values in self.batch))
        studies = None if self.studies is None else self.studies[part]
        return SequenceInputs(batch, self.labels[part], self.weights[part], self.heads[part], studies)

    def forward(self, network: Callable[..., Any]) -> SequenceLogits:
        """See `Inputs.forward`."""
        outputs: SequenceLogits = network(self.batch)
        return outputs

    def loss(self, outputs: SequenceLogits, recipe: Recipe) -> torch.Tensor:
        """See `Inputs.loss`."""
        assert recipe.sequence is not None
        smoothing = recipe.loss.label_smoothing
        given = (self.labels, self.weights, self.heads, recipe.sequence, smoothing)
        return sequence_loss(outputs, *given, studies=self.studies)

    def predictions(self, outputs: SequenceLogits) -> torch.Tensor:
        """Return `(B, LONGEST + 1, 6)`: logits of the slices, zeros after the last, and those of the series at the end.

        They are the mean of the heads that predict a series.
        """
        shares = (self.heads / self.heads.sum(dim=1, keepdim=True)).T[..., None]  # (H, B, 1)
        slices = (outputs.slices.float() * shares[..., None]).sum(dim=0) * self.batch.mask[..., None]
        series = (outputs.series.float() * shares).sum(dim=0)
        padded = nn_pad(slices, LONGEST - slices.shape[1])
        return torch.cat([padded, series[:, None]], dim=1)


@dataclass
class SequenceFeed:
    """Series of one fold, for the training loop and predictions.

    Without series for training and validation it serves inference only: `rows` returns the rows of any series.
    """

    data: SequenceData
    recipe: Recipe
    fold: int = 0
    """Part of the address of random draws."""
    training_series: IntArray = field(default_factory=lambda: NO_SERIES)
    """Numbers of the series that heads learn from, except the heads of their part."""
    validation_series: IntArray = field(default_factory=lambda: NO_SERIES)
    """Numbers of the series that are validated."""
    unit: str = "series"
    masks: None = None
    shape: tuple[int, ...] = (LONGEST + 1, len(LABELS))

    def __post_init__(self) -> None:
        """Divide the series into windows."""
        assert self.recipe.sequence is not None
        self._given: SequenceRecipe = self.recipe.sequence
        self.data.widths(self.recipe)  # raises if an input is missing
        if (parts := self._given.heads // self._given.seeds) <= self.data.series_part.max(initial=NO_PART):
            raise ValueError(f"the data has more parts than the {parts} of the recipe")
        self.windows: list[SeriesWindow] = windows_of(self.data.series)
        self._series = np.array([window.series for window in self.windows], np.int64)
        self.training_rows, self.validation_rows = self.rows(self.training_series), self.rows(self.validation_series)
        known = np.nan_to_num(self.data.labels[:, LABELS.index(ANY)])
        self._any_positive = np.array([(known[window.slices] > 0.5).any() for window in self.windows], bool)
        first = [window.slices[0] for window in self.windows]
        self._shares = None if self.data.shares is None else self.data.shares[first]
        self._study_label = self._window_labels()
        if self._study_label is not None:
            self._any_positive |= self._study_label[:, LABELS.index(ANY)] > 0.5
        self._place = self._places()
        self._weight = self._slice_weights()

    def rows(self, series: IntArray) -> Rows:
        """Return the rows of the feed with the windows of `series`."""
        chosen = np.zeros(len(self.data.series), bool)
        chosen[series] = True
        return np.flatnonzero(chosen[self._series]).astype(np.int64)

    def epoch_rows(self, stage: int, epoch: int) -> Rows:
        """See `TrainingFeed.epoch_rows`."""
        sampling = self.recipe.stage[stage].sampling
        address = self._address(stage, epoch)
        return epoch_rows(self._any_positive, self.training_rows, sampling, address, self._shares)

    def training_batches(self, plan: EpochPlan, *, part: tuple[int, int] = (0, 1)) -> Iterator[LoadedSeries]:
        """See `TrainingFeed.training_batches`."""
        address = self._address(plan.stage, plan.epoch)
        for number in range(plan.done, plan.total):
            rows = plan.rows[number * plan.size : (number + 1) * plan.size]
            yield self._load(np.array_split(rows, part[1])[part[0]], address)

    def inference_batches(self, rows: Rows, *, batch: int, masks: bool = False) -> Iterator[LoadedSeries]:
        """See `InferenceFeed.inference_batches`."""
        return (self._load(rows[start : start + batch]) for start in range(0, len(rows), batch))

    def inputs(self, batch: LoadedSeries, device: torch.device, *, view: str = "identity") -> SequenceInputs:
        """See `InferenceFeed.inputs`; the view is that of the members, which the data has."""
        sent = SequenceBatch(*(values.to(device) for values in batch.batch))
        studies = None if batch.studies is None else batch.studies.to(device)
        return SequenceInputs(sent, batch.labels.to(device), batch.weights.to(device), batch.heads.to(device), studies)

    def ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        """Return the id of the first slice of each row."""
        ids: npt.NDArray[np.object_] = self.data.slice_ids[[self.windows[row].slices[0] for row in rows]]
        return ids

    def slices(self, rows: Rows) -> IntArray:
        """Return the rows in the data of the slices of `rows`, sorted."""
        return np.unique(np.concatenate([NO_SERIES, *(self.windows[row].slices for row in rows)]))

    def slice_ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        """Return the ids `(S,)` of `slices(rows)`."""
        return self.data.slice_ids[self.slices(rows)]

    def labels(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the labels `(S, 6)` of `slices(rows)`."""
        return self.data.labels[self.slices(rows)]

    def truth(self, rows: Rows) -> Truth:
        """See `TrainingFeed.truth`."""
        return self.data.truth.take(self.slices(rows))

    def slice_logits(self, rows: Rows, predictions: Float32Array) -> Float32Array:
        """Return the logits `(S, 6)` of `slices(rows)`; where windows overlap, their middle counts most."""
        count = len(self.data.slice_ids)
        sums, weights = np.zeros((count, len(LABELS))), np.zeros(count)
        for row, predicted in zip(rows, predictions, strict=True):
            window = self.windows[row]
            sums[window.slices] += predicted[: len(window.slices)] * window.weights[:, None]
            weights[window.slices] += window.weights
        found = self.slices(rows)
        logits: Float32Array = (sums[found] / weights[found, None]).astype(np.float32)
        return logits

    def study_logits_of_slices(self, rows: Rows, predictions: Float32Array) -> Float32Array:
        """Return the logits `(S, 6)` of the study of each slice of `slices(rows)`."""
        studies, logits = self.study_logits(rows, predictions)
        of_slices: Float32Array = logits[np.searchsorted(studies, self.data.study[self.slices(rows)])]
        return of_slices

    def study_logits(self, rows: Rows, predictions: Float32Array) -> tuple[IntArray, Float32Array]:
        """Return the studies of `rows` `(K,)`, sorted, and their logits `(K, 6)`: the largest of their windows."""
        of_rows = self.data.study[[self.windows[row].slices[0] for row in rows]]
        studies, at = np.unique(of_rows, return_inverse=True)
        logits = np.full((len(studies), len(LABELS)), -np.inf, np.float32)
        np.maximum.at(logits, at, predictions[:, -1])
        return studies, logits

    def _load(self, rows: Rows, address: EpochAddress | None = None) -> LoadedSeries:
        """Return the windows of `rows`, augmented as drawn at `address` for training."""
        windows = [self.windows[row] for row in rows]
        draws = [self._draws(window, address) for window in windows]
        kept = [
            np.arange(len(window.slices)) if rng is None else remaining(len(window.slices), self._given, rng)
            for window, rng in zip(windows, draws, strict=True)
        ]
        slices = [window.slices[places] for window, places in zip(windows, kept, strict=True)]
        shape = len(rows), max(map(len, slices))
        mask = np.arange(shape[1]) < np.array([len(own) for own in slices])[:, None]
        flat = np.concatenate(slices)
        place = self._place[flat]
        signs = np.concatenate([np.full(len(own), -1 if len(own) > 1 and own[0] > own[-1] else 1) for own in kept])
        place[:, :2] *= signs[:, None]
        position = place[:, 1] * 100
        place[:, 2:] = np.concatenate([_gaps(own) for own in np.split(position, np.cumsum([*map(len, slices)])[:-1])])
        features, logits = self._inputs(flat, [len(own) for own in slices], draws)

        def padded(values: npt.NDArray[Any], fill: float = 0.0) -> torch.Tensor:
            result = np.full((*shape, *values.shape[1:]), fill, np.float32)
            result[mask] = values
            return torch.from_numpy(result)

        batch = SequenceBatch(
            features=padded(features),
            logits=padded(logits),
            place=padded(place),
            position=padded(position),
            mask=torch.from_numpy(mask),
        )
        labels = padded(self.data.labels[flat], np.nan)
        heads = self._heads(rows, training=address is not None)
        studies = self._labels_of_studies(rows, kept)
        return LoadedSeries(torch.from_numpy(rows), batch, labels, padded(self._weight[flat]), heads, studies)

    def _labels_of_studies(self, rows: Rows, kept: list[IntArray]) -> torch.Tensor | None:
        """Return `(B, 6)` labels of the windows' studies; a positive one is unknown if its slices may be left out."""
        if self._study_label is None:
            return None
        labels = self._study_label[rows].copy()
        for at, (row, places) in enumerate(zip(rows, kept, strict=True)):
            last = len(self.windows[row].slices) - 1
            if len(places) == 0 or places.min() > MARGIN or places.max() < last - MARGIN:
                labels[at, labels[at] > 0] = np.nan
        return torch.from_numpy(labels)

    def _inputs(
        self, flat: IntArray, lengths: list[int], draws: list[np.random.Generator | None]
    ) -> tuple[Float32Array, Float32Array]:
        """Return features `(n, D)` and logits `(n, M, 6)` of the slices `flat`, with noise as drawn."""
        count = len(flat)
        members = self.data.features if "features" in self._given.inputs else ()
        features = np.empty((count, sum(part.shape[1] for part in members)), np.float32)
        start = 0
        for part in members:
            features[:, start : start + part.shape[1]] = part[flat]
            start += part.shape[1]
        wanted = self.data.logits is not None and "logits" in self._given.inputs
        logits = self.data.logits[flat] if wanted and self.data.logits is not None else np.empty((count, 0, 6))
        logits = np.asarray(logits, np.float32)
        if self._given.noise > 0:
            at = 0
            for length, rng in zip(lengths, draws, strict=True):
                own = slice(at, at + length)
                at += length
                if rng is not None:
                    features[own] = with_noise(features[own], self._given.noise, rng)
                    logits[own] = with_noise(logits[own], self._given.noise, rng)
        return features, logits

    def _heads(self, rows: Rows, *, training: bool) -> torch.Tensor:
        """Return `(B, H)` float32: which heads learn from `rows`, or predict them."""
        parts = self.data.series_part[self._series[rows]]
        of_heads = np.arange(self._given.heads) // self._given.seeds
        own = parts[:, None] == of_heads
        alike = (parts == NO_PART)[:, None]
        return torch.from_numpy((~own if training else own | alike).astype(np.float32))

    def _draws(self, window: SeriesWindow, address: EpochAddress | None) -> np.random.Generator | None:
        """Return the source of a window's draws, None without augmentation."""
        given = self._given
        if address is None or not any((given.reverse, given.every_second, given.contiguous, given.drop, given.noise)):
            return None
        return generator(SERIES, *address, id_number(str(self.data.slice_ids[window.slices[0]])))

    def _window_labels(self) -> Float32Array | None:
        """Return `(W, 6)` labels of the windows' studies or series; None if the data has none.

        A positive label is unknown for a window that has only some slices of the study or series.
        """
        data = self.data
        if data.study_labels is None or data.group is None:
            return None
        sizes = np.bincount(data.group[data.group >= 0], minlength=1)
        labels = np.full((len(self.windows), len(LABELS)), np.nan, np.float32)
        for row, window in enumerate(self.windows):
            own = int(data.group[window.slices[0]])
            if own < 0:
                continue
            labels[row] = data.study_labels[window.slices[0]]
            if len(window.slices) < sizes[own]:
                labels[row, labels[row] > 0] = np.nan
        return labels

    def _places(self) -> Float32Array:
        """Return `(N, PLACES)` without the distances to neighbours, which depend on the slices that remain."""
        place = np.zeros((len(self.data.slice_ids), PLACES), np.float32)
        for slices in self.data.series:
            place[slices, 0] = np.linspace(-1, 1, len(slices)) if len(slices) > 1 else 0
            position = self.data.position[slices]
            known = position[np.isfinite(position)]
            middle = (known.min() + known.max()) / 2 if len(known) else 0.0
            place[slices, 1] = np.nan_to_num((position - middle) / 100, nan=0.0, posinf=0.0, neginf=0.0)
        return place

    def _slice_weights(self) -> Float32Array:
        """Return `(N,)` weights of slices in the loss: they sum to 1 in a mean training window."""
        count = len(self.data.slice_ids)
        windows = np.zeros(count)
        for window in self.windows:
            windows[window.slices] += 1
        trained = len(self.slices(self.training_rows))
        scale = len(self.training_rows) / trained if trained else 1.0
        return (scale / np.maximum(windows, 1)).astype(np.float32)

    def _address(self, stage: int, epoch: int) -> EpochAddress:
        return EpochAddress(self.recipe.seed, self.fold, stage, epoch)


def _gaps(position: npt.NDArray[np.float32]) -> Float32Array:
    """Return `(n, 2)` distances to the previous and the next slice in 10 mm, 0 at the ends."""
    steps = np.minimum(np.abs(np.diff(position)) / 10, FARTHEST)
    return np.stack([np.append(0, steps), np.append(steps, 0)], axis=1).astype(np.float32)


def nn_pad(x: torch.Tensor, slices: int) -> torch.Tensor:
    """Return `x` `(B, T, C)` with zeros for `slices` more at the end of T."""
    return torch.nn.functional.pad(x, (0, 0, 0, slices))
