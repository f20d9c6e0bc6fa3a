"""A plan after the winners of RSNA 2019: networks for images, networks over series, and an ensemble of all of them.

Three networks read each slice with both neighbours. One recurrent network per image network reads its features along
the series, and another one reads the logits of all six. The plan is registered in one transaction. It has the winners'
structure; backbones and recipes are those of the built-in plugins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from ichx.cache.mixture_cache import plan_dataset_caches
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import load_folds, load_version
from ichx.errors import UnsupportedError
from ichx.evaluation.feature_tables import table_bytes
from ichx.experiments.dry_run import rows_of_epochs
from ichx.experiments.register import draft, labelled_version
from ichx.experiments.run_cost import free_bytes
from ichx.experiments.sequence_members import check_series
from ichx.loading.sampling import Population
from ichx.plugins.cost import network_cost
from ichx.plugins.measures import find_measure
from ichx.store import ExperimentDraft

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.recipe import Recipe
    from ichx.store import DatasetVersion, Experiment, FoldSet

NETWORKS: Final = ("seresnextaa101d", "convnext_small", "efficientnetv2_m")
"""Plugins of the networks for images."""
PRESET: Final = "adjacent"
OVER_FEATURES: Final = "gru"
"""Plugin of the network over the features of each of them."""
OVER_LOGITS: Final = "gru_stack"
"""Plugin of the network over the logits of all others."""
TAG: Final = "winner"
BACKWARD: Final = 3
"""Cost of a training step relative to a forward pass."""


@dataclass(frozen=True, kw_only=True)
class PlannedExperiment:
    """An experiment of a plan, and what it costs over all folds."""

    name: str
    plugin: str
    reads: str
    """Its inputs, in words."""
    train_images: int = 0
    """Images of all training steps; 0 for networks over series, which take minutes."""
    predict_images: int = 0
    """Validation after each epoch, OOF and test predictions."""
    petamacs: float = 0.0
    """Multiply-accumulates of both, in 1e15."""
    hours: float | None = None
    """Hours on `device`, without loading; None without a measure of its recipe on this machine."""
    device: str | None = None
    feature_bytes: int = 0
    """Feature tables that it reads, on disk."""


@dataclass(frozen=True)
class WinnerPlan:
    """Experiments to register together."""

    drafts: tuple[ExperimentDraft, ...]
    members: dict[int, tuple[int, ...]]
    """Places of the members of each network over series, by its place in `drafts`."""
    planned: tuple[PlannedExperiment, ...]
    """By place in `drafts`."""
    cache_bytes: int
    """Caches that are missing, estimated."""
    cache_free: int

    @property
    def hours(self) -> float | None:
        """Measured hours of the networks for images; None if one of them has no measure."""
        hours = [one.hours for one in self.planned if one.train_images]
        known = [value for value in hours if value is not None]
        return sum(known) if len(known) == len(hours) else None


def plan_winner(project: "Project", *, dataset: str | None = None, folds: str | None = None) -> WinnerPlan:
    """Return the plan and its cost; nothing is registered or written.

    Args:
        project: The open project.
        dataset: A labelled dataset; None for the only one.
        folds: Name of its folds; None for the default ones.

    Raises:
        NotReadyError: There is no labelled dataset.
        ConflictError: The folds split a series.
    """
    version = labelled_version(project.store, dataset)
    fold_set = version.fold_set(folds)
    check_series(project, version, fold_set)
    drafts: list[ExperimentDraft] = []
    members: dict[int, tuple[int, ...]] = {}
    planned: list[PlannedExperiment] = []
    images = _Images(project, version, fold_set)
    for name in NETWORKS:
        plugin = project.registry.get(name).with_preset(PRESET)
        drafts.append(draft(plugin.recipe, version, folds=folds, name=f"{TAG}-{name}"))
        planned.append(images.planned(plugin, drafts[-1].name))
    over_features = project.registry.get(OVER_FEATURES)
    for place, name in enumerate(NETWORKS):
        members[len(drafts)] = (place,)
        drafts.append(draft(over_features.recipe, version, folds=folds, name=f"{TAG}-{OVER_FEATURES}-{name}"))
        planned.append(
            PlannedExperiment(
                name=drafts[-1].name,
                plugin=OVER_FEATURES,
                reads=f"features of {drafts[place].name}",
                feature_bytes=images.feature_bytes(project.registry.get(name).with_preset(PRESET)),
            )
        )
    members[len(drafts)] = tuple(range(len(drafts)))
    drafts.append(draft(project.registry.get(OVER_LOGITS).recipe, version, folds=folds, name=f"{TAG}-{OVER_LOGITS}"))
    reads = f"logits of the {len(drafts) - 1} others"
    planned.append(PlannedExperiment(name=drafts[-1].name, plugin=OVER_LOGITS, reads=reads))
    free = free_bytes(project.workspace.cache_dir)
    return WinnerPlan(tuple(drafts), members, tuple(planned), images.cache_bytes, free)


def register_winner(project: "Project", plan: WinnerPlan) -> "list[Experiment]":
    """Register all experiments of `plan`, or none, with the tag `TAG`; a note on the last one names the ensemble."""
    registered = project.store.add_experiments(plan.drafts, members=plan.members, tag=TAG)
    project.store.add_note(registered[-1].number, f"the ensemble of this plan: {ensemble_command(registered)}")
    return registered


def ensemble_command(registered: "Sequence[Experiment]") -> str:
    """Return the command that blends the experiments of a plan."""
    return f"ichx ensemble --members {','.join(str(e.number) for e in registered)}"


class _Images:
    """Costs of networks for images on the folds of a version, and its missing caches."""

    def __init__(self, project: "Project", version: "DatasetVersion", fold_set: "FoldSet") -> None:
        self._project, self._folds = project, fold_set.k
        self._data = load_version(project.workspace, version)
        self._fold_of = load_folds(project.workspace, version, fold_set, self._data.slices)
        self._tests = [load_version(project.workspace, one) for one in project.store.test_sets(version.dataset)]
        self._planned_caches: dict[str, int] = {}

    @property
    def cache_bytes(self) -> int:
        """Estimated bytes of the missing caches of all networks that were planned."""
        return sum(self._planned_caches.values())

    def planned(self, plugin: "Plugin", name: str) -> PlannedExperiment:
        """Return the cost of a network, and remember its caches."""
        recipe = plugin.recipe
        self._plan_caches(recipe)
        population = Population.of(self._data.slices, recipe.stage)
        views, networks = len(recipe.prediction.views), recipe.prediction.average_last
        train = validated = 0
        for fold in range(self._folds):
            rows = rows_of_epochs(recipe, population, np.flatnonzero(self._fold_of != fold), fold)
            train += sum(count - count % recipe.batch if count > recipe.batch else count for count in rows)
            validated += len(rows) * int((self._fold_of == fold).sum())
        on_tests = views * networks * self._folds * sum(len(one.slices) for one in self._tests)
        # The last validation is the first view, unless several networks predict together.
        predict = validated + (views * networks - (networks == 1)) * int((self._fold_of >= 0).sum()) + on_tests
        measure = find_measure(recipe)
        seconds = None if measure is None else train / measure.train_rate + predict / measure.predict_rate
        image = recipe.input
        return PlannedExperiment(
            name=name,
            plugin=plugin.name,
            reads=f"{image.slices} slices at {image.pixels} px",
            train_images=train,
            predict_images=predict,
            petamacs=(BACKWARD * train + predict) * network_cost(plugin, recipe).gmacs / 1e6,
            hours=None if seconds is None else seconds / 3600,
            device=None if measure is None else measure.device,
        )

    def feature_bytes(self, plugin: "Plugin") -> int:
        """Return the size of the feature tables of a network: all slices and test sets, for each fold."""
        width = _feature_width(plugin)
        return self._folds * sum(table_bytes(len(one.slices), width) for one in (self._data, *self._tests))

    def _plan_caches(self, recipe: "Recipe") -> None:
        for one in (self._data, *self._tests):
            (plan,) = plan_dataset_caches(self._project.workspace.cache_dir, one, [recipe_spec(recipe)])
            self._planned_caches[str(plan.folder)] = 0 if plan.complete else plan.bytes_needed


def _feature_width(plugin: "Plugin") -> int:
    """Return the number of pooled features of a plugin's network, which is built without weights."""
    import torch

    recipe = replace(plugin.recipe, model=replace(plugin.recipe.model, pretrained=False))
    with torch.device("meta"):
        head = getattr(plugin.build(recipe, False), "get_classifier", lambda: None)()
    if not isinstance(head, torch.nn.Linear):
        raise UnsupportedError(f"{plugin.name} has no pooled features.", "Use `ichx exp new --members`.")
    return head.in_features
