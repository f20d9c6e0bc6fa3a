"""The finished folds of an experiment, ready to predict files and datasets or to be exported."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ichx.datasets.dataset import load_version
from ichx.errors import ChangedDataError, DivergedError, NotReadyError
from ichx.evaluation.choices import Average, InferencePrecision, Tta
from ichx.evaluation.member_outputs import check_inputs
from ichx.experiments.folder_record import check_folder
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import require_network
from ichx.text import EXAMPLES, format_count, format_examples
from ichx.training.callbacks import Callbacks
from ichx.training.control import Control
from ichx.training.device import Hardware, choose_inference_hardware, isolated_torch_settings, loader_workers
from ichx.training.feed import InferenceFeed, Rows
from ichx.training.mean_network import trained_network
from ichx.training.memory import MicroBatcher
from ichx.training.prediction import Logits, PredictionTask, Predictor
from ichx.training.run_options import INFERENCE_BATCH
from ichx.training.runtime import Runtime
from ichx.training.slice_feed import SliceFeed
from ichx.training.weights import load_exactly
from ichx.views import HFLIP, IDENTITY

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.store import Experiment


@dataclass(frozen=True)
class InferenceOptions:
    """How finished folds predict."""

    tta: Tta = "none"
    """Test-time augmentation: one of `ichx.evaluation.choices.TTAS`."""
    folds: Sequence[int] | None = None
    """The folds that predict; None for all finished ones."""
    device: str = "auto"
    workers: int | None = None
    """Loader processes; None for as many as keep the device busy."""
    precision: InferencePrecision = "auto"
    """`auto` is fp32 on a CPU and the precision of the training elsewhere."""
    average: Average = "logit"
    """What is averaged over views and folds."""


@dataclass(frozen=True)
class Trained:
    """An experiment and its finished folds."""

    experiment: "Experiment"
    plugin: "Plugin"
    recipe: Recipe
    weights: dict[int, Path]
    """The weights file of each fold, in the order of the folds."""
    members: "tuple[Trained, ...]" = ()
    """Those whose outputs a sequence experiment reads, with the same folds."""

    @property
    def partial(self) -> str | None:
        """Which folds predict if these are not all, and on how few patients they were trained; None otherwise."""
        notes = []
        if len(self.weights) < self.experiment.folds:
            notes.append(f"{len(self.weights)} of {self.experiment.folds} folds: {', '.join(map(str, self.weights))}")
        if self.experiment.subset < 1:
            notes.append(f"networks that were trained on {100 * self.experiment.subset:.3g} % of the patients")
        return "; ".join(notes) or None


def find_trained(project: "Project", number: int, folds: Sequence[int] | None = None) -> Trained:
    """Return experiment `number` with its finished folds, or with these `folds`.

    Raises:
        NotFoundError: The experiment or a fold does not exist.
        NotReadyError: A fold is not finished.
        UnsupportedError: Its predictions are those of another tool.
        ChangedDataError: Weights are gone, or a member of a sequence experiment was retrained.
        ConflictError: The folder contains another experiment.
    """
    experiment = project.store.experiment(number)
    require_network(experiment, "predict with it")
    check_folder(project, experiment)
    finished = sorted({p.fold for p in project.store.predictions(number, role="oof")})
    experiment.check_folds(folds or ())
    for fold in folds or ():
        if fold not in finished:
            done = f"Finished: {', '.join(map(str, finished))}. " if finished else ""
            raise NotReadyError(
                f"Fold {fold} of experiment {number} is not finished.", f"{done}Finish it: `ichx run {number}`."
            )
    if not finished:
        raise NotReadyError(f"Experiment {number} has no finished fold.", f"Run it first: `ichx run {number}`.")
    files = project.workspace.experiment_files(number)
    weights = {fold: files.fold(fold).weights for fold in (sorted(set(folds)) if folds else finished)}
    gone = [str(path) for path in weights.values() if not path.is_file()]
    if gone:
        raise ChangedDataError(
            f"Weights of experiment {number} are gone: {', '.join(gone)}.",
            f"Restore them from a backup, or train these folds again: `ichx run {number}`.",
        )
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
    for fold in weights if experiment.members else ():
        check_inputs(project, experiment, fold)
    members = tuple(find_trained(project, member, list(weights)) for member in experiment.members)
    return Trained(experiment, project.registry.get(experiment.plugin), recipe, weights, members)


def training_warnings(project: "Project", experiment: "Experiment", slices: pd.DataFrame) -> list[str]:
    """Return a warning if some of `slices`, rows of a catalog, are in the training dataset of `experiment`."""
    version = project.store.version_by_id(experiment.version_id)
    known = load_version(project.workspace, version).slices["slice_id"]
    found = slices["slice_id"][slices["slice_id"].isin(known)]
    if not len(found):
        return []
    examples = format_examples(list(map(str, found.head(EXAMPLES))), len(found))
    count = f"{len(found):,} of {format_count(len(slices), 'slice')}"
    return [
        f"Experiment {experiment.number} was trained on {count}{examples}: they are in {version.dataset} version "
        f"{version.number}. It predicts them better than new ones."
    ]


class FoldNetworks:
    """The network of a `Trained` on its device, with the weights of one fold at a time."""

    def __init__(self, trained: Trained, hardware: Hardware, workers: int, note: Callable[[str], None]) -> None:
        self.trained, self.hardware, self.workers = trained, hardware, workers
        self._runtime = Runtime(hardware)
        self._model = self._runtime.prepare(trained_network(trained.recipe, trained.plugin.build))
        self._predictor = Predictor(self._runtime, Control(callbacks=_Notes(note)))
        self._batcher = MicroBatcher(note)

    def load(self, fold: int) -> None:
        """Load the weights of `fold`. Raises `CorruptFileError` if they do not fit the network."""
        load_exactly(self._model, self.trained.weights[fold])

    def logits_of_views(self, feed: InferenceFeed, rows: Rows, tasks: Sequence[PredictionTask]) -> list[Logits]:
        """Return the logits `(N, 6)` of `rows` for each task. Raises `DivergedError` if some are not finite."""
        found = self._predictor.logits_of_views(self._model, feed, rows, tasks)
        bad = sum(int((~np.isfinite(logits)).any(axis=1).sum()) for logits in found)
        if bad:
            raise DivergedError(
                f"Experiment {self.trained.experiment.number} predicts logits that are not finite for {bad:,} slices.",
                "Its weights are damaged, or too large for this precision.",
            )
        return found

    @torch.inference_mode()
    def mask_probabilities(self, feed: SliceFeed, rows: Rows, *, mirrored: bool) -> npt.NDArray[np.float32]:
        """Return the probabilities of the subtypes `(N, E, E, 5)` in each pixel that the network reads of `rows`.

        Args:
            feed: The slices.
            rows: Those to predict.
            mirrored: Average with the mirror image, mirrored back.

        Raises:
            DivergedError: Some are not finite.
        """
        device, found = self._runtime.device, list[npt.NDArray[np.float32]]()
        self._model.eval()
        for batch in feed.inference_batches(rows, batch=INFERENCE_BATCH):
            views = [feed.inputs(batch, device, view=view).images for view in (IDENTITY, HFLIP)[: 1 + mirrored]]
            done = 0
            while left := len(batch.rows) - done:
                part = self._batcher.run(left, partial(self._first_masks, [images[done:] for images in views]))
                found.append(part.permute(0, 2, 3, 1).cpu().numpy())
                done += len(part)
        probabilities = np.concatenate(found)
        if not np.isfinite(probabilities).all():
            raise DivergedError(
                f"Experiment {self.trained.experiment.number} predicts masks that are not finite.",
                "Its weights are damaged, or too large for this precision.",
            )
        return probabilities

    def _first_masks(self, views: Sequence[torch.Tensor], parts: list[slice]) -> torch.Tensor:
        """Return the mean probabilities `(N, 5, E, E)` of the first of `parts`; the second of `views` is mirrored."""
        found = []
        for number, images in enumerate(views):
            with self._runtime.autocast():
                _, pixels = self._model(images[parts[0]], masks=True)
            found.append(torch.sigmoid(pixels.float()).flip(-1) if number else torch.sigmoid(pixels.float()))
        return torch.stack(found).mean(dim=0)


class _Notes(Callbacks):
    """Callbacks that only pass notes on."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def note(self, message: str) -> None:
        """Pass on."""
        self._note(message)


@contextmanager
def open_networks(trained: Trained, options: InferenceOptions, note: Callable[[str], None]) -> Iterator[FoldNetworks]:
    """Yield the networks of `trained` on the device of `options`; restore torch's settings afterwards.

    Args:
        trained: The experiment and its finished folds.
        options: Device, precision, loader.
        note: Receives the device, and what the hardware makes necessary.

    Raises:
        UnsupportedError: This machine lacks the device, or the device the precision.
    """
    recipe = trained.recipe
    hardware = choose_inference_hardware(options.device, options.precision, recipe.precision, recipe.input.pixels)
    note(f"device: {hardware}")
    with isolated_torch_settings(hardware):
        yield FoldNetworks(trained, hardware, loader_workers(hardware, options.workers, trained.recipe, note), note)
