"""Caches that a user requests: by size or as experiments read them, for the versions to which these are pinned.

They are built by `ichx.cache.build` and verified by `ichx.cache.verify`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.cache.build import CachePlan
from ichx.cache.hu_cache import CacheSpec, slices_digest
from ichx.cache.mixture_cache import plan_dataset_caches
from ichx.cache.recipe_caches import recipe_spec
from ichx.cache.verify import FoundCache, find_caches
from ichx.datasets.dataset import LoadedDataset, load_dataset, load_version
from ichx.errors import ConflictError, NotReadyError
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class CacheRequest:
    """A version of a dataset and the requested caches of it."""

    data: LoadedDataset
    plans: list[CachePlan]


def request_caches(
    project: "Project",
    name: str,
    specs: Sequence[CacheSpec] = (),
    experiments: Sequence[int] = (),
) -> list[CacheRequest]:
    """Return the plans for caches of dataset `name`, by version.

    Args:
        project: The project.
        name: The dataset.
        specs: Caches of the newest version.
        experiments: Numbers of experiments whose caches are added: of the version to which an experiment on `name` is
            pinned, or of the newest version if `name` is a test set of its dataset.

    Raises:
        NotFoundError: The dataset or an experiment does not exist.
        ConflictError: An experiment does not read this dataset.
        NotReadyError: The version has no usable slice.
    """
    newest = project.store.version(name)
    wanted: dict[int, list[CacheSpec]] = {newest.id: list(specs)} if specs else {}
    for number in experiments:
        experiment = project.store.experiment(number)
        predicted = {test.dataset for test in project.store.test_sets(experiment.dataset)}
        if name not in {experiment.dataset, *predicted}:
            raise ConflictError(
                f"Experiment {number} uses dataset {experiment.dataset!r} and does not read {name!r}.",
                f"Use {experiment.dataset!r} or one of its test sets.",
            )
        if experiment.members:
            raise ConflictError(
                f"Experiment {number} reads the outputs of experiments {', '.join(map(str, experiment.members))}, no "
                "images.",
                "Name these instead.",
            )
        version_id = experiment.version_id if name == experiment.dataset else newest.id
        recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
        wanted.setdefault(version_id, []).append(recipe_spec(recipe))
    requests = []
    for version_id, of_version in wanted.items():
        data = load_version(project.workspace, project.store.version_by_id(version_id))
        if data.slices.empty:
            raise NotReadyError(
                f"Dataset {name!r} has no usable slice.", f"Run `ichx data show {name}` to see the reasons."
            )
        requests.append(CacheRequest(data, plan_dataset_caches(project.workspace.cache_dir, data, of_version)))
    return requests


def list_caches(project: "Project", name: str) -> list[FoundCache]:
    """Return the caches of dataset `name` on disk, sorted by size; `current` refers to its newest version."""
    slices = load_dataset(project, name).slices
    return find_caches(project.workspace.cache_dir, name, slices_digest(slices))
