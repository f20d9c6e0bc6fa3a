"""What an experiment's finished folds have learnt, made ready to predict anything: files, datasets, exports."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import Cache
from ichx.errors import IchxError
from ichx.evaluation.feature_files import FeatureWriter
from ichx.experiments.fold_predictor import INFERENCE_BATCH
from ichx.loading.loader import inference_batches
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.training.device import (
    Hardware,
    choose_hardware,
    loader_workers,
    make_accelerator,
    release_accelerator,
    torch_of_its_own,
)
from ichx.training.epoch_loop import predict
from ichx.training.learner import prepared
from ichx.training.method import WindowStep
from ichx.training.micro_batches import Portions
from ichx.training.pooled_features import captured
from ichx.training.weights import load_exactly

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator

    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.store import Experiment


@dataclass(frozen=True)
class Trained:
    """An experiment and its finished folds: `weights` has the file of each, in the order of the folds."""

    experiment: "Experiment"
    plugin: "Plugin"
    recipe: Recipe
    weights: dict[int, Path]

    @property
    def partial(self) -> str | None:
        """Which folds predict where these are not all; None where they are."""
        if len(self.weights) == self.experiment.folds:
            return None
        named = ", ".join(map(str, self.weights))
        return f"{len(self.weights)} of {self.experiment.folds} folds: {named}"


def find_trained(project: "Project", number: int, folds: Sequence[int] | None = None) -> Trained:
    """Return experiment `number` with its finished folds, or these `folds` of it.

    Raises `IchxError` for an unknown experiment or fold, one that is not finished, and where weights are gone.
    """
    experiment = project.store.experiment(number)
    finished = sorted({p.fold for p in project.store.predictions(number, role="oof")})
    for fold in folds or ():
        if not 0 <= fold < experiment.folds:
            raise IchxError(f"experiment {number} has no fold {fold}", f"its folds are 0 to {experiment.folds - 1}")
        if fold not in finished:
            named = f"finished: {', '.join(map(str, finished))}; " if finished else ""
            raise IchxError(
                f"fold {fold} of experiment {number} is not finished", f"{named}`ichx run {number}` finishes it"
            )
    if not finished:
        raise IchxError(f"experiment {number} has no finished fold", f"run it first: `ichx run {number}`")
    wanted = sorted(set(folds)) if folds else finished
    files = project.workspace.experiment_files(number)
    weights = {fold: files.fold(fold).weights for fold in wanted}
    gone = [str(path) for path in weights.values() if not path.is_file()]
    if gone:
        raise IchxError(
            f"weights of experiment {number} are gone: {', '.join(gone)}",
            f"restore them from a backup, or train these folds again: `ichx run {number}`",
        )
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
    return Trained(experiment, project.registry.get(experiment.plugin), recipe, weights)


class Network:
    """The network of a `Trained` on its device; one at a time of the folds' weights is in it."""

    def __init__(
        self,
        trained: Trained,
        hardware: Hardware,
        accelerator: "Accelerator",
        workers: int,
        note: Callable[[str], None],
    ) -> None:
        self.trained, self.hardware, self.workers = trained, hardware, workers
        self._accelerator = accelerator
        self._model = prepared(accelerator, trained.plugin.build(trained.recipe, False))
        self._portions = Portions(note)
        self._window_step = WindowStep(trained.recipe.input).to(hardware.device)

    def load(self, fold: int) -> None:
        """Take the weights of `fold`; raises `IchxError` where they are not those of this network."""
        load_exactly(self._accelerator.unwrap_model(self._model), self.trained.weights[fold])

    def logits(
        self,
        cache: Cache,
        slices: "pd.DataFrame",
        rows: npt.NDArray[np.int64],
        view: str,
        report: Callable[[int], None],
        features: FeatureWriter | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the logits (N, 6) of `rows` under `view`; `report` is told how many are done.

        The pooled features of the same pass go to `features`, where that is given.

        Raises `IchxError` where the network gives something else than numbers.
        """
        recipe = self.trained.recipe
        batches = inference_batches(cache, slices, rows, recipe, batch=INFERENCE_BATCH, workers=self.workers)
        with captured(self._model, slices["slice_id"].to_numpy(object)[rows], features):
            found = predict(self._model, self._window_step, batches, self.hardware.device, view, report, self._portions)
        bad = int((~np.isfinite(found)).any(axis=1).sum())
        if bad:
            raise IchxError(
                f"experiment {self.trained.experiment.number} gives {bad:,} slices no finite logits",
                "its weights are damaged, or too large for this precision",
            )
        return found


@contextmanager
def network_of(trained: Trained, device: str, workers: int | None, note: Callable[[str], None]) -> Iterator[Network]:
    """Yield the network of `trained` on `device`, fed by `workers` processes; torch is left as it was before.

    What the hardware makes necessary is told through `note`. Raises `IchxError` for a device that this machine does not
    have.
    """
    hardware = choose_hardware(device, trained.recipe.precision, trained.recipe.input.pixels)
    with torch_of_its_own(hardware):
        accelerator = make_accelerator(hardware)
        try:
            yield Network(trained, hardware, accelerator, loader_workers(hardware, workers), note)
        finally:
            release_accelerator()
