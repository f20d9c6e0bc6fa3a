"""The caches that a person asks for: by sizes, or as experiments read them, for the versions these are pinned to.

Not for building them (`ichx.cache.build`) or for looking after them (`ichx.cache.verify`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.cache.build import CachePlan, plan_caches
from ichx.cache.hu_cache import CacheSpec, slices_digest
from ichx.cache.verify import FoundCache, find_caches
from ichx.datasets.dataset import LoadedDataset, load_dataset, load_version
from ichx.errors import IchxError
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class CacheRequest:
    """A version of a dataset and the caches that are asked for of it."""

    data: LoadedDataset
    plans: list[CachePlan]


def recipe_spec(recipe: Recipe) -> CacheSpec:
    """Return how `recipe` wants its slices cached."""
    return CacheSpec(size=recipe.input.size, centre=recipe.input.centre, resize=recipe.input.resize)


def request_caches(
    project: "Project",
    name: str,
    specs: Sequence[CacheSpec] = (),
    experiments: Sequence[int] = (),
) -> list[CacheRequest]:
    """Return what is to be done for the caches of dataset `name` with `specs`, and for those that `experiments` read.

    An experiment that is made on `name` reads the version that it is pinned to; all else is the newest version. Raises
    `IchxError` for an unknown dataset or experiment, for experiments that read other datasets, and where the version
    has no slice.
    """
    newest = project.store.version(name)
    wanted: dict[int, list[CacheSpec]] = {newest.id: list(specs)} if specs else {}
    for number in experiments:
        experiment = project.store.experiment(number)
        if name != experiment.dataset and newest.test_of != experiment.dataset:
            raise IchxError(
                f"experiment {number} is made on {experiment.dataset}, and does not read {name}",
                f"name {experiment.dataset} or one of its test sets",
            )
        version_id = experiment.version_id if name == experiment.dataset else newest.id
        recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
        wanted.setdefault(version_id, []).append(recipe_spec(recipe))
    requests = []
    for version_id, of_version in wanted.items():
        data = load_version(project.workspace, project.store.version_by_id(version_id))
        if data.slices.empty:
            raise IchxError(f"{name} has no readable slice", f"see `ichx data show {name}` for the reasons")
        requests.append(CacheRequest(data, plan_caches(project.workspace.cache_dir, name, data.slices, of_version)))
    return requests


def caches_of(project: "Project", name: str) -> list[FoundCache]:
    """Return the caches of dataset `name` that are on disk, by size; `current` ones are of its newest version."""
    slices = load_dataset(project, name).slices
    return find_caches(project.workspace.cache_dir, name, slices_digest(slices))
