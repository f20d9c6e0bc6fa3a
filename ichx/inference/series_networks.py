"""The heads of a sequence experiment on their device: logits of slices from what the members predict."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.errors import DivergedError
from ichx.inference.trained import InferenceOptions, Trained
from ichx.recipe import Recipe
from ichx.sequences.data import SequenceData
from ichx.sequences.feed import SequenceFeed
from ichx.sequences.network import build_network
from ichx.training.device import Hardware, choose_inference_hardware, isolated_torch_settings
from ichx.training.prediction import Predictor
from ichx.training.runtime import Runtime
from ichx.training.weights import load_exactly


@dataclass(frozen=True)
class SeriesPrediction:
    """Logits of slices and of their studies."""

    rows: npt.NDArray[np.int64]
    """`(n,)` rows of the data, sorted."""
    logits: npt.NDArray[np.float32]
    """`(n, 6)`"""
    study_logits: npt.NDArray[np.float32]
    """`(n, 6)`: of the study of each slice."""


class SeriesNetworks:
    """The heads of a `Trained`, of one fold at a time."""

    def __init__(self, trained: Trained, hardware: Hardware) -> None:
        self.trained, self.hardware = trained, hardware

    @property
    def recipe(self) -> Recipe:
        """The recipe of the heads."""
        return self.trained.recipe

    def predict(self, fold: int, data: SequenceData) -> SeriesPrediction:
        """Return what the heads of `fold` predict for the slices of `data` that are in a series.

        Raises:
            CorruptFileError: The weights do not fit the inputs.
            DivergedError: Logits are not finite.
        """
        runtime = Runtime(self.hardware)
        network = runtime.prepare(build_network(self.trained.plugin, self.recipe, data.widths(self.recipe)))
        load_exactly(network, self.trained.weights[fold])
        feed = SequenceFeed(data, self.recipe, fold=fold)
        rows = feed.rows(np.arange(len(data.series)))
        predictions = Predictor(runtime).logits(network, feed, rows)
        logits, of_studies = feed.slice_logits(rows, predictions), feed.study_logits_of_slices(rows, predictions)
        bad = int((~(np.isfinite(logits) & np.isfinite(of_studies))).any(axis=1).sum())
        if bad:
            raise DivergedError(
                f"Experiment {self.trained.experiment.number} predicts logits that are not finite for {bad:,} slices.",
                "Its weights are damaged, or too large for this precision.",
            )
        return SeriesPrediction(feed.slices(rows), logits, of_studies)


@contextmanager
def open_heads(trained: Trained, options: InferenceOptions, note: Callable[[str], None]) -> Iterator[SeriesNetworks]:
    """Yield the heads of `trained` on the device of `options`; restore torch's settings afterwards."""
    recipe = trained.recipe
    hardware = choose_inference_hardware(options.device, options.precision, recipe.precision, recipe.input.pixels)
    note(f"device of the heads: {hardware}")
    with isolated_torch_settings(hardware):
        yield SeriesNetworks(trained, hardware)
