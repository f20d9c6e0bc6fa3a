"""The caches that recipes read, without the catalog of a dataset. They are requested and listed in `requests`."""

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ichx.cache.hu_cache import CacheSpec
from ichx.errors import IchxError
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import Selection

if TYPE_CHECKING:
    from ichx.cache.verify import FoundCache
    from ichx.store import DatasetVersion, Store

NEWEST: Final = 1000
"""Experiments whose caches may be missing."""


def recipe_spec(recipe: Recipe) -> CacheSpec:
    """Return the spec of the cache that `recipe` reads."""
    image = recipe.input
    return CacheSpec(image.size, image.centre, image.resize, image.field)


def missing_caches(store: "Store", version: "DatasetVersion", found: "Iterable[FoundCache]") -> dict[CacheSpec, int]:
    """Return the caches of `version` that its experiments read and that are not complete in `found`.

    Only the newest `NEWEST` experiments count, and of those with the same plugin and size, the newest one. Trials read
    the caches of others.

    Returns:
        The number of an experiment by cache: `ichx data cache NAME --for NUMBER` builds it.
    """
    trained = version.test_of or version.dataset
    experiments = store.experiments(Selection(dataset=trained, archived=False), limit=NEWEST)
    readers: dict[tuple[str, int], int] = {}
    for e in experiments:
        pinned = version.test_of is not None or e.dataset_version == version.number
        if pinned and not e.external and not e.members:
            readers.setdefault((e.plugin, e.size), e.number)
    complete = {cache.spec for cache in found if cache.complete and cache.current}
    wanted: dict[CacheSpec, int] = {}
    for number in readers.values():
        spec = _spec(store.experiment(number).recipe)
        if spec is not None and spec not in complete:
            wanted.setdefault(spec, number)
    return dict(sorted(wanted.items(), key=lambda item: (item[0].size, item[1])))


@lru_cache(maxsize=256)
def _spec(recipe: str) -> CacheSpec | None:
    """Return the spec of a recipe in TOML; None for a recipe of a newer version of ichx."""
    try:
        return recipe_spec(from_toml(recipe))
    except IchxError:
        return None
