"""Caches of datasets, of mixtures too: the cache of a mixture reads those of its parts, which are built if needed.

The functions of `ichx.cache.build` are for slices of one source.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ichx.cache.build import (
    CachePlan,
    build_caches,
    build_part,
    new_manifest,
    plan_caches,
    write_json,
)
from ichx.cache.hu_cache import CACHE_FILE, PLACES_FILE, Cache, CacheSpec, cache_key, is_complete, slices_digest
from ichx.cache.parts import Part
from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.fold_labels import PSEUDO_PARTS
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.mixture import PartSlices, split_parts
from ichx.files import atomic_path, write_error

if TYPE_CHECKING:
    from collections.abc import Iterable


def plan_dataset_caches(cache_dir: Path, data: LoadedDataset, specs: Sequence[CacheSpec]) -> list[CachePlan]:
    """Return the plans for caches of `data`, one for each distinct spec. Writes nothing. Raises `StorageError`."""
    plans = plan_caches(cache_dir, data.version.dataset, data.slices, specs)
    parts = split_parts(data.version, data.slices)
    if not parts:
        return plans
    pseudo = data.version.summary.get(PSEUDO_PARTS, {})  # the slices of another dataset, whose caches are the same
    names = [pseudo.get(part.part.dataset, {}).get("of", part.part.dataset) for part in parts]
    planned = [plan_caches(cache_dir, name, part.slices, specs) for name, part in zip(names, parts, strict=True)]
    of_parts = zip(*planned, strict=True)
    return [
        replace(plan, complete=all(part.complete for part in of_plan), missing=(), parts=of_plan)
        for plan, of_plan in zip(plans, of_parts, strict=True)
    ]


def ensure_dataset_cache(
    cache_dir: Path,
    data: LoadedDataset,
    spec: CacheSpec,
    *,
    progress: ProgressCallback | None = None,
) -> Cache:
    """Return the cache of `data` for `spec`; see `build_dataset_caches`."""
    plans = plan_dataset_caches(cache_dir, data, [spec])
    return build_dataset_caches(data, plans, progress=progress)[0]


def build_dataset_caches(
    data: LoadedDataset,
    plans: Sequence[CachePlan],
    *,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Cache]:
    """Build the missing parts of `plans`, those of `plan_dataset_caches`, and return their caches.

    Raises like `ichx.cache.build.build_caches`.
    """
    parts = split_parts(data.version, data.slices)
    if not parts:
        return build_caches(data.source, data.slices, plans, processes=processes, progress=progress)
    for number, (part, report) in enumerate(_reported(parts, progress)):
        of_part = [plan.parts[number] for plan in plans]
        build_caches(part.source, part.slices, of_part, processes=processes, progress=report)
    for plan in plans:
        _write(plan, parts)
    return [Cache(plan.folder) for plan in plans]


def build_dataset_part(
    data: LoadedDataset,
    plans: Sequence[CachePlan],
    part: Part,
    *,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Build one of several parts of the missing shards of `plans`; see `ichx.cache.build.build_part`."""
    parts = split_parts(data.version, data.slices)
    if not parts:
        build_part(data.source, data.slices, plans, part, processes=processes, progress=progress)
    for number, (one, report) in enumerate(_reported(parts, progress)):
        of_part = [plan.parts[number] for plan in plans]
        build_part(one.source, one.slices, of_part, part, processes=processes, progress=report)


def part_keys(data: LoadedDataset, specs: "Iterable[CacheSpec]") -> set[str]:
    """Return the keys of the caches of its parts that the caches of `data` for `specs` read."""
    digests = [slices_digest(part.slices) for part in split_parts(data.version, data.slices)]
    return {cache_key(digest, spec) for digest in digests for spec in specs}


def _reported(
    parts: Sequence[PartSlices], progress: ProgressCallback | None
) -> "Iterable[tuple[PartSlices, ProgressCallback | None]]":
    """Yield the parts, each with a callback that reports its share of the progress of all of them."""
    total, before = sum(len(part.slices) for part in parts), 0
    for part in parts:

        def report(done: int, of: int, start: int = before, count: int = len(part.slices)) -> None:
            if progress is not None:
                progress(start + count * done // max(of, 1), total)

        yield part, None if progress is None else report
        before += len(part.slices)


def _write(plan: CachePlan, parts: Sequence[PartSlices]) -> None:
    """Write the index of the cache of a mixture, unless it exists."""
    if is_complete(plan.folder, plan.key):
        return
    places, defects = np.zeros((plan.n, 2), np.int64), dict[str, str]()
    for number, (part, planned) in enumerate(zip(parts, plan.parts, strict=True)):
        places[part.rows] = np.column_stack([np.full(len(part.rows), number), np.arange(len(part.rows))])
        defects |= {str(part.rows[row]): reason for row, reason in Cache(planned.folder).defects.items()}
    manifest = new_manifest(plan) | {
        "defects": defects,
        "shard_bytes": [],
        "parts": [{"folder": planned.folder.name, "key": planned.key} for planned in plan.parts],
    }
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(plan.folder / PLACES_FILE) as draft:
            np.save(draft, places)
        write_json(plan.folder / CACHE_FILE, manifest)
    except OSError as error:
        raise write_error(plan.folder, "the cache", error) from error
