"""A job: one experiment made ready to train on this machine - its recipe, slices, folds and cache."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache
from ichx.cache.mask_cache import MaskCache, ensure_masks
from ichx.cache.requests import recipe_spec
from ichx.datasets.dataset import LoadedDataset, load_folds, load_masks, load_version
from ichx.datasets.patient_subset import EXCLUDED, subset_folds
from ichx.errors import IchxError
from ichx.labels import ANY
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, FoldSet
    from ichx.training.callbacks import RunEvents
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class Job:
    """Everything a fold of `experiment` needs. `folds` (N,) and `any_positive` (N,) are in the dataset's row order.

    Where it is a trial on a subset of the patients, the others' fold is `EXCLUDED`.
    `masks` is None where the network learns from labels alone.
    """

    workspace: "Workspace"
    experiment: "Experiment"
    plugin: "Plugin"
    recipe: Recipe
    data: LoadedDataset
    cache: Cache
    folds: npt.NDArray[np.int16]
    any_positive: npt.NDArray[np.bool_]
    masks: MaskCache | None = None

    @property
    def fits(self) -> str:
        """What a checkpoint must have in common with this job to go on from it."""
        e = self.experiment
        return f"{e.recipe_digest}/{e.label_digest}/{e.fold_digest}"

    def training_rows(self, fold: int) -> npt.NDArray[np.int64]:
        """Return the decodable slices of the other folds."""
        return np.flatnonzero((self.folds != fold) & (self.folds != EXCLUDED) & self.cache.valid)

    def validation_rows(self, fold: int) -> npt.NDArray[np.int64]:
        """Return the decodable slices of the fold."""
        return np.flatnonzero((self.folds == fold) & self.cache.valid)


def prepare_job(project: "Project", experiment: "Experiment", events: "RunEvents") -> Job:
    """Return the job of `experiment`, building its cache where that is missing.

    Raises `IchxError` when the dataset's files are gone or no longer those that the experiment was pinned to.
    """
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}")
    version = project.store.version_by_id(experiment.version_id)
    fold_set = next(f for f in version.folds if f.id == experiment.fold_set_id)
    data = load_version(project.workspace, version)
    cache = open_cache(project.workspace, data, recipe, events)
    if cache.defects:
        events.note(f"{len(cache.defects)} slices cannot be decoded and are left out")
    if fold_set.leaky:
        split = f"{fold_set.leaking_patients:,} of {version.patients:,} patients"
        events.note(f"the folds {fold_set.name} split {split}: every score on them is marked `leaky folds`")
    plugin = project.registry.get(experiment.plugin)
    return Job(
        workspace=project.workspace,
        experiment=experiment,
        plugin=plugin,
        recipe=recipe,
        data=data,
        cache=cache,
        folds=_folds(project.workspace, version, fold_set, data, experiment),
        any_positive=data.slices[ANY].to_numpy() > 0.5,
        masks=_open_masks(project.workspace, data, plugin, recipe, cache, events),
    )


def _folds(
    workspace: "Workspace",
    version: "DatasetVersion",
    fold_set: "FoldSet",
    data: LoadedDataset,
    experiment: "Experiment",
) -> npt.NDArray[np.int16]:
    """Return the folds that `experiment` is trained on, of a trial on a subset those of its patients."""
    folds = load_folds(workspace, version, fold_set, data.slices)
    return folds if experiment.tuned is None else subset_folds(data.slices, folds, experiment.tuned.subset)


def learns_masks(plugin: "Plugin", recipe: Recipe, version: "DatasetVersion") -> bool:
    """Tell whether a network of `plugin`, trained by `recipe` on `version`, learns where it bleeds."""
    return plugin.masks and recipe.model.mask_weight > 0 and "masks" in version.summary


def _open_masks(
    workspace: "Workspace", data: LoadedDataset, plugin: "Plugin", recipe: Recipe, cache: Cache, events: "RunEvents"
) -> MaskCache | None:
    """Return the masks that the network is to learn, or tell why a weight that the recipe gives them has no effect."""
    if not learns_masks(plugin, recipe, data.version):
        if recipe.model.mask_weight > 0:
            lacks = f"{data.version.dataset} has no masks" if plugin.masks else f"{plugin.name} predicts no masks"
            events.note(f"{lacks}: model.mask_weight has no effect, only labels are learnt")
        return None
    kept = load_masks(workspace, data)
    assert kept is not None  # the version has them
    return ensure_masks(
        cache,
        kept,
        data.version.summary["masks"]["digest"],
        data.source,
        data.slices,
        progress=lambda done, total: events.phase(f"masks at {cache.spec.size} px", done, total),
    )


def open_cache(workspace: "Workspace", data: LoadedDataset, recipe: Recipe, events: "RunEvents") -> Cache:
    """Return the HU cache of `data` that `recipe` reads, building what is missing of it."""
    spec = recipe_spec(recipe)
    name = data.version.dataset
    return ensure_cache(
        workspace.cache_dir,
        name,
        data.source,
        data.slices,
        spec,
        progress=lambda done, total: events.phase(f"caching {name} at {spec.size} px", done, total),
    )


def test_data(workspace: "Workspace", version: "DatasetVersion") -> LoadedDataset:
    """Return the slices of a test set; raises `IchxError` where it has none."""
    data = load_version(workspace, version)
    if data.slices.empty:
        raise IchxError(f"the test set {version.dataset} has no readable slice", "see `ichx data show` for the reasons")
    return data
