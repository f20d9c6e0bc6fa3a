"""Prepares an experiment for training on this machine: its recipe, slices, folds, cache and masks."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from ichx.cache.build import find_cache
from ichx.cache.hu_cache import Cache
from ichx.cache.local_copy import with_local_copy
from ichx.cache.mask_file import MaskCache
from ichx.cache.mixture_cache import ensure_dataset_cache
from ichx.cache.mixture_masks import MixtureMasks, ensure_dataset_masks, ensure_fold_masks
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import LoadedDataset, load_folds, load_masks, load_version
from ichx.datasets.fold_labels import FoldLabels, read_fold_labels
from ichx.datasets.fold_masks import masks_of_parts
from ichx.datasets.patient_subset import EXCLUDED, subset_folds
from ichx.datasets.study_labels import informative
from ichx.errors import NotReadyError
from ichx.evaluation.scored_rows import Truth
from ichx.experiments.label_checks import check_folds_for_labels, check_recipe_for_labels
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.training.control import Control
from ichx.training.feed import InferenceFeed, Rows, TrainingFeed
from ichx.training.mean_network import trained_network
from ichx.training.slice_feed import SliceFeed
from ichx.training.weights import Start, make_model

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment
    from ichx.training.callbacks import Callbacks
    from ichx.workspace import Workspace


class PreparedFolds(Protocol):
    """What the folds of an experiment train on and predict: images, or the outputs of other experiments."""

    @property
    def project(self) -> "Project":
        """The open project."""
        ...

    @property
    def experiment(self) -> "Experiment":
        """The experiment."""
        ...

    @property
    def plugin(self) -> "Plugin":
        """Its plugin."""
        ...

    @property
    def recipe(self) -> Recipe:
        """Its recipe."""
        ...

    @property
    def data(self) -> LoadedDataset:
        """Its slices."""
        ...

    @property
    def masks(self) -> MaskCache | None:
        """None if the network learns from labels alone."""
        ...

    def training_rows(self, fold: int) -> Rows:
        """Return the slices that a training of `fold` learns from."""
        ...

    def validation_rows(self, fold: int) -> Rows:
        """Return the slices that `fold` predicts out of fold."""
        ...

    def fits(self, fold: int) -> str:
        """Return what a checkpoint must have in common with the fold to be resumed."""
        ...

    def described(self, fold: int) -> dict[str, str]:
        """Return what the weights of the fold are recorded to depend on."""
        ...

    def network(self, fold: int, start: Start, note: Callable[[str], None]) -> nn.Module:
        """Return the network of the fold with its start weights."""
        ...

    def trained_network(self, fold: int) -> nn.Module:
        """Return the network of the trained fold, with random weights."""
        ...

    def feed(self, fold: int, workers: int) -> TrainingFeed:
        """Return the batches of the fold."""
        ...

    def test_feed(
        self, fold: int, version: "DatasetVersion", workers: int, control: Control
    ) -> tuple[InferenceFeed, Rows]:
        """Return the batches of a test set, and the rows to predict."""
        ...


@dataclass(frozen=True)
class PreparedExperiment:
    """Images of the HU cache, for all folds of an experiment. See `PreparedFolds` for the methods."""

    project: "Project"
    experiment: "Experiment"
    plugin: "Plugin"
    recipe: Recipe
    data: LoadedDataset
    cache: Cache
    folds: npt.NDArray[np.int16]
    """`(N,)` fold of each row of `data`; `EXCLUDED` for patients outside the experiment's subset."""
    masks: MaskCache | None = None
    """None if the network learns from labels alone."""
    fold_labels: FoldLabels | None = None
    """Labels that differ between folds, of slices that no fold validates on; None for none."""
    fold_masks: Mapping[int, Mapping[int, MaskCache]] = field(default_factory=dict)
    """Masks that differ between folds, by fold and number of the part."""

    def slices_of(self, fold: int) -> pd.DataFrame:
        """Return the slices with the labels that the training of the fold reads."""
        slices = self.data.slices
        return slices if self.fold_labels is None else self.fold_labels.training_slices(slices, fold)

    def masks_of(self, fold: int) -> MaskCache | None:
        """Return the masks that the training of the fold reads.

        A slice whose pseudo-labels are all 0, i.e. hard, has an empty mask. Those of others are pseudo-masks of this
        fold's networks, or unknown.
        """
        if self.masks is None or self.fold_labels is None:
            return self.masks
        labels = self.fold_labels.of_fold(fold, self.data.slices["slice_id"].to_numpy(object))
        own = self.fold_masks.get(fold, {})
        masks = self.masks.with_parts(own) if isinstance(self.masks, MixtureMasks) else copy(self.masks)
        masks.known = masks.known | (labels == 0).all(axis=1)
        return masks

    def fits(self, fold: int) -> str:
        """Return the digests of the experiment, which all of its folds share."""
        return pins(self.experiment)

    def described(self, fold: int) -> dict[str, str]:
        """Return the digests of the experiment."""
        return {"fits": pins(self.experiment)}

    def training_rows(self, fold: int) -> Rows:
        """Return the decodable slices with labels of the other folds, and of those that train in every fold.

        A slice of the latter without a pseudo-label in this fold is left out.
        """
        used = (self.folds != fold) & (self.folds != EXCLUDED) & self.cache.valid & informative(self.slices_of(fold))
        return np.flatnonzero(used)

    def validation_rows(self, fold: int) -> Rows:
        """Return the decodable slices of the fold."""
        return np.flatnonzero((self.folds == fold) & self.cache.valid)

    def network(self, fold: int, start: Start, note: Callable[[str], None]) -> nn.Module:
        """Return the plugin's network."""
        return make_model(self.plugin, self.recipe, start, note)

    def trained_network(self, fold: int) -> nn.Module:
        """Return the plugin's network, or several of them if the recipe averages their predictions."""
        return trained_network(self.recipe, self.plugin.build)

    def feed(self, fold: int, workers: int) -> SliceFeed:
        """Return the slices of the fold."""
        return SliceFeed(
            self.cache,
            self.slices_of(fold),
            self.recipe,
            workers=workers,
            masks=self.masks_of(fold),
            build_augmentation=self.plugin.build_augmentation,
            fold=fold,
            training_rows=self.training_rows(fold),
            validation_rows=self.validation_rows(fold),
        )

    def test_feed(self, fold: int, version: "DatasetVersion", workers: int, control: Control) -> tuple[SliceFeed, Rows]:
        """Return the decodable slices of a test set, whose cache is built if needed."""
        data = test_data(self.project.workspace, version)
        with control.interruptible():
            cache = control.group.leader_first(
                partial(open_cache, self.project.workspace, data, self.recipe, control.callbacks)
            )
        if cache.defects:
            control.callbacks.note(
                f"{len(cache.defects)} slices of {version.dataset} cannot be decoded and are left out"
            )
        return SliceFeed(cache, data.slices, self.recipe, workers), np.flatnonzero(cache.valid)


def pins(experiment: "Experiment") -> str:
    """Return the digests of the recipe, labels and folds of an experiment."""
    return f"{experiment.recipe_digest}/{experiment.label_digest}/{experiment.fold_digest}"


def prepare_experiment(
    project: "Project",
    experiment: "Experiment",
    callbacks: "Callbacks",
    check: Callable[[], None] = lambda: None,
) -> PreparedExperiment:
    """Return `experiment` ready to train; build its cache if that is missing.

    Args:
        project: The open project.
        experiment: The experiment.
        callbacks: Receives the progress.
        check: Called before a cache is built, which may take hours; may raise.

    Raises:
        ChangedDataError: The dataset's files are gone or differ from those that the experiment was pinned to.
    """
    workspace = project.workspace
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}")
    version = project.store.version_by_id(experiment.version_id)
    fold_set = version.fold_set_of(experiment)
    # Whatever can be refused is refused before the cache, which may take hours.
    plugin = project.registry.get(experiment.plugin)
    data, folds = training_data(project, experiment, recipe)
    check_recipe_for_labels(recipe, version)
    if "label_counts" in version.summary:
        check_folds_for_labels(data.slices, folds, fold_set.k, version.dataset)
        if Truth.of(data.slices).unit == "study":
            callbacks.note("only studies are labelled: scores are those of studies, the largest of their slices")
    cache = find_cache(workspace.cache_dir, version.dataset, data.slices, recipe_spec(recipe))
    if cache is None:
        check()
        cache = _build_cache(workspace, data, recipe, callbacks)
    cache = _copy_to_this_machine(workspace, cache, np.flatnonzero(folds != EXCLUDED), callbacks)
    if cache.defects:
        callbacks.note(f"{len(cache.defects)} slices cannot be decoded and are left out")
    if fold_set.leaky:
        split = f"{fold_set.leaking_patients:,} of {version.patients:,} patients"
        callbacks.note(f"the folds {fold_set.name} split {split}; every score on them is marked `leaky folds`")
    masks = _open_masks(workspace, data, plugin, recipe, cache, callbacks)
    labels = read_fold_labels(workspace, version)
    of_folds = {} if masks is None else _open_fold_masks(workspace, data, cache, fold_set.k, callbacks)
    return PreparedExperiment(project, experiment, plugin, recipe, data, cache, folds, masks, labels, of_folds)


def training_data(
    project: "Project", experiment: "Experiment", recipe: Recipe
) -> tuple[LoadedDataset, npt.NDArray[np.int16]]:
    """Return the slices that an experiment caches, and the fold of each, `EXCLUDED` outside the subset.

    A quick look caches only its subset, unless the cache of all slices exists.

    Raises:
        ChangedDataError: The catalog or the folds were changed.
        InvalidInputError: A fold has no patient in the subset.
    """
    version = project.store.version_by_id(experiment.version_id)
    fold_set = version.fold_set_of(experiment)
    data = load_version(project.workspace, version)
    folds = load_folds(project.workspace, version, fold_set, data.slices)
    folds = subset_folds(data.slices, folds, experiment.subset)
    if experiment.subset == 1 or experiment.kind == "trial":
        return data, folds
    if find_cache(project.workspace.cache_dir, version.dataset, data.slices, recipe_spec(recipe)) is not None:
        return data, folds
    used = folds != EXCLUDED
    return replace(data, slices=data.slices[used].reset_index(drop=True)), folds[used]


def learns_masks(plugin: "Plugin", recipe: Recipe, version: "DatasetVersion") -> bool:
    """Return whether a network of `plugin`, trained by `recipe` on `version`, learns masks."""
    drawn = "masks" in version.summary or bool(masks_of_parts(version))
    return plugin.masks and recipe.model.mask_weight > 0 and drawn


def _open_masks(
    workspace: "Workspace",
    data: LoadedDataset,
    plugin: "Plugin",
    recipe: Recipe,
    cache: Cache,
    callbacks: "Callbacks",
) -> MaskCache | None:
    """Return the masks to learn, or report why the recipe's weight for them has no effect."""
    if not learns_masks(plugin, recipe, data.version):
        if recipe.model.mask_weight > 0:
            reason = f"{data.version.dataset} has no masks" if plugin.masks else f"{plugin.name} predicts no masks"
            callbacks.note(f"{reason}: model.mask_weight has no effect, only labels are learned")
        return None
    masks = load_masks(workspace, data) or {}  # a mixture may have pseudo-masks alone
    return ensure_dataset_masks(cache, masks, data, progress=partial(callbacks.phase, _mask_phase(cache)))


def _open_fold_masks(
    workspace: "Workspace", data: LoadedDataset, cache: Cache, folds: int, callbacks: "Callbacks"
) -> dict[int, dict[int, MaskCache]]:
    """Return the pseudo-masks of all folds, so that the trainings of folds need not build them."""
    if not masks_of_parts(data.version):
        return {}
    progress = partial(callbacks.phase, f"pseudo-{_mask_phase(cache)}")
    return ensure_fold_masks(workspace, cache, data, range(folds), progress=progress)


def _mask_phase(cache: Cache) -> str:
    return f"masks at {cache.spec.size} px"


def open_cache(workspace: "Workspace", data: LoadedDataset, recipe: Recipe, callbacks: "Callbacks") -> Cache:
    """Return the HU cache of `data` that `recipe` reads; build what is missing, and copy it to this machine."""
    cache = _build_cache(workspace, data, recipe, callbacks)
    return _copy_to_this_machine(workspace, cache, np.arange(cache.n), callbacks)


def _build_cache(workspace: "Workspace", data: LoadedDataset, recipe: Recipe, callbacks: "Callbacks") -> Cache:
    spec = recipe_spec(recipe)
    name = data.version.dataset
    return ensure_dataset_cache(
        workspace.cache_dir,
        data,
        spec,
        progress=lambda done, total: callbacks.phase(f"caching {name} at {spec.size} px", done, total),
    )


def _copy_to_this_machine(workspace: "Workspace", cache: Cache, rows: Rows, callbacks: "Callbacks") -> Cache:
    phase = f"copying the cache {cache.folder.name} to {workspace.cache_local}"
    return with_local_copy(workspace, cache, rows, callbacks.note, partial(callbacks.phase, phase))


def test_data(workspace: "Workspace", version: "DatasetVersion") -> LoadedDataset:
    """Return the slices of a test set. Raises `NotReadyError` if it has none."""
    data = load_version(workspace, version)
    if data.slices.empty:
        raise NotReadyError(
            f"The test set {version.dataset} has no readable slice.", "See `ichx data show` for the reasons."
        )
    return data
