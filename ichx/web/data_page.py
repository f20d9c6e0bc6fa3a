"""Datasets and their versions: counts, prevalences, folds, flags, defects with thumbnails, caches."""

import shlex
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ichx.datasets.decode_findings import CHECK_FILE
from ichx.datasets.next_step import next_step
from ichx.errors import IchxError, NotFoundError, NotReadyError
from ichx.labels import LABELS
from ichx.store import DatasetVersion, EvaluationCount
from ichx.text import format_bytes
from ichx.web.computed import Computed, StillComputingError
from ichx.web.numbers import path_number
from ichx.web.shown_errors import shown_error, without_paths
from ichx.web.site import Site, site_of
from ichx.web.sources import PAGE_SECONDS, Source, pixel_version, sources_of, version_of
from ichx.web.studies_api import study_url
from ichx.web.thumbnails import thumbnail_png

if TYPE_CHECKING:
    from ichx.cache.hu_cache import CacheSpec
    from ichx.cache.verify import FoundCache

COUNTS: Final = ("patients", "studies", "series", "slices", "files")
"""Keys of a version's summary that are shown first."""
FIRST_SIZE: Final = 378
"""Size in pixels of the cache that is proposed for a dataset without experiments."""


def datasets(request: Request) -> Response:
    """List the datasets, each with its newest version."""
    site = site_of(request)
    store = site.project.store
    rows = [
        {
            "dataset": dataset,
            "version": (version := store.version(dataset.name)),
            "kind": version.kind,
            "older": store.version_numbers(dataset.name)[-2::-1],
        }
        for dataset in store.datasets()
    ]
    return site.render(request, "datasets.html.j2", title="Data", rows=rows)


@without_paths
def version_page(request: Request) -> Response:
    """Show a version of a dataset; `/data/NAME` is the newest one."""
    site, name = site_of(request), request.path_params["source"]
    store = site.project.store
    if "@" not in name:
        return RedirectResponse(f"/data/{_quoted(store.version(name))}", 303)
    version = version_of(store, name)
    found = _prepared(request, site, version)
    return site.render(
        request,
        "dataset.html.j2",
        title=f"{version.dataset} version {version.number}",
        version=version,
        source=_quoted(version),
        kind=version.kind,
        numbers=store.version_numbers(version.dataset)[::-1],
        counts=[(what, version.summary[what]) for what in COUNTS if what in version.summary],
        tests=[test.dataset for test in store.test_sets(version.dataset)],
        reviews=len(store.reviews(version.dataset)),
        fold_sets={folds.name: folds for folds in version.folds},
        labels=_labels(version),
        parts=version.summary.get("mixture", {}).get("parts", ()),
        shares=dict(version.part_shares),
        origin=version.summary.get("pseudo"),
        transductive=version.summary.get("transductive", False),
        groups=_group_counts(version),
        readers=version.summary.get("readers"),
        flags=version.summary.get("flags"),
        next_step=next_step(version).split("`"),
        evaluations=(found_evaluations := store.evaluations(version.dataset))[::-1],
        counted=EvaluationCount.of(found_evaluations),
        **found,
    )


@without_paths
def excluded_thumbnail(request: Request) -> Response:
    """Return an excluded file whose pixels can be decoded as a small PNG."""
    from ichx.cache.display import decode

    source = sources_of(request).get(request.path_params["source"])
    row = source.index.excluded_at(path_number(request, "place"))
    if row is None:
        raise NotFoundError(f"{source.name} has no such excluded file.", "See the page of the dataset.")
    return Response(thumbnail_png(decode(source.path, row)), 200, {"Cache-Control": "no-store"}, "image/png")


def _prepared(request: Request, site: Site, version: DatasetVersion) -> dict[str, Any]:
    """Return what needs the catalog: `facts`, `source_name`, `caches`, `missing`; or why they are not there."""
    found: dict[str, Any] = {"facts": None, "caches": None, "missing": {}, "waiting": None, "problem": None}
    end = time.monotonic() + PAGE_SECONDS
    sources = sources_of(request)
    try:
        source = sources.get(f"{version.dataset}@{version.number}", PAGE_SECONDS)
        found |= _caches(site, source, version)
        arguments = {"dataset": version.dataset, "number": version.number}
        state = version.digest, _modified(site, version)
        facts = sources.part(Computed).get("describe_version", arguments, state, end - time.monotonic())
    except NotReadyError as error:
        waits = isinstance(error, StillComputingError) or error.remedy == "Wait a moment."
        return found | {"waiting" if waits else "problem": shown_error(error, site)}
    except IchxError as error:
        return found | {"problem": shown_error(error, site)}

    def thumbnail(slice_id: str) -> str:
        return f"/api/thumbnails/{_quoted(version)}/{quote(slice_id, safe='')}?v={pixel_version(source)}"

    return found | {"facts": facts, "thumbnail": thumbnail, "study_url": lambda study: study_url(source.name, study)}


def _caches(site: Site, source: Source, version: DatasetVersion) -> dict[str, Any]:
    """Return the caches of a version on disk, and the commands that build those that its experiments lack."""
    from ichx.cache.recipe_caches import missing_caches
    from ichx.cache.verify import find_caches

    caches = [one for one in find_caches(site.workspace.cache_dir, version.dataset, source.index.digest) if one.current]
    missing = missing_caches(site.project.store, version, caches)
    commands = {
        str(spec): shlex.join(["ichx", "data", "cache", version.dataset, "--for", str(number)])
        for spec, number in missing.items()
    }
    if not caches and not commands:
        commands = {
            f"{FIRST_SIZE} px": shlex.join(["ichx", "data", "cache", version.dataset, "--size", str(FIRST_SIZE)])
        }
    return {"caches": [_cache_row(one, missing) for one in caches], "missing": commands}


def _cache_row(cache: "FoundCache", missing: "dict[CacheSpec, int]") -> dict[str, Any]:
    part = "" if cache.complete else f"incomplete: {cache.shards:,} of {cache.of_shards:,} shards"
    if cache.reads:
        part = "reads its parts" if cache.complete else "lacks caches of its parts"
    return {
        "spec": cache.spec,
        "slices": cache.n,
        "defects": cache.defects,
        "disk": format_bytes(cache.nbytes),
        "state": part or "complete",
        "wanted": cache.spec in missing,
    }


def _labels(version: DatasetVersion) -> list[dict[str, Any]]:
    """Return the prevalence of each label with the length of its bar in percent; an empty list without labels."""
    shares = version.summary.get("prevalences") or {}
    counts = version.summary.get("label_counts", {}).get("slices", {})
    most = max((share for share in shares.values() if share is not None), default=0.0) or 1.0
    return [
        {
            "name": label,
            "share": shares[label],
            "positive": _positive(shares[label], counts.get(label, {}).get("known", version.slices)),
            "known": counts.get(label, {}).get("known"),
            "bar": round(100 * (shares[label] or 0) / most, 2),
        }
        for label in LABELS
        if label in shares
    ]


def _group_counts(version: DatasetVersion) -> dict[str, Any] | None:
    """Return how many labels of studies or series are known, with their `level`; None if only slices are labelled."""
    counts = version.summary.get("label_counts", {})
    if "groups" not in counts:
        return None
    level = counts.get("level", "study")
    return {"level": level, "plural": {"study": "studies"}.get(level, level), "labels": counts["groups"]}


def _positive(share: float | None, known: int) -> int | None:
    return None if share is None else int(np.rint(share * known))


def _modified(site: Site, version: DatasetVersion) -> int | None:
    """Return when the findings of a decode check were written, which the description of a version includes."""
    try:
        return (site.workspace.root / version.path / CHECK_FILE).stat().st_mtime_ns
    except OSError:
        return None


def _quoted(version: DatasetVersion) -> str:
    return quote(f"{version.dataset}@{version.number}", safe="@")


ROUTES: Final = (
    Route("/data", datasets),
    Route("/data/{source}", version_page),
    Route("/api/excluded-thumbnails/{source}/{place:number}", excluded_thumbnail),
)
