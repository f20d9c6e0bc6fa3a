"""Overlays of slices: drawn masks, predicted masks and heat maps, as bytes. Networks run in a helper process."""

import time
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ichx.errors import NotFoundError, NotReadyError, UnsupportedError, check_choice
from ichx.labels import LABELS, SUBTYPES
from ichx.recipe_text import from_toml
from ichx.web.helper import Helper
from ichx.web.shown_errors import without_paths
from ichx.web.site import Site, site_of
from ichx.web.sources import Source, Sources, sources_of
from ichx.web.waiting import SharedResults

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ichx.cache.hu_cache import Cache

    Maps = npt.NDArray[np.float32]

KINDS: Final = ("mask", "predicted_mask", "heat")
HEAT_SECONDS: Final = 180.0
"""Time limit of one computation."""
WAITING: Final = 5
"""Requests that compute or wait; the oldest ones are refused."""
IGNORED: Final = 1
"""Value of pixels that trainings leave out, as the networks were not sure."""
HEAT_BYTES: Final = 64_000_000
"""Memory for computed maps."""


class HeatMemory:
    """Computes the heat maps of slices in a helper process, one at a time, and remembers the latest."""

    def __init__(self, sources: Sources) -> None:
        """Prepare the helper process, which imports torch with its first task."""
        self._sources = sources
        self._helper = Helper(sources.site.workspace.root, sources.folder / "heat.log")
        sources.closing.callback(self._helper.close)
        self._results: SharedResults[Maps] = SharedResults(HEAT_BYTES, lambda maps: maps.nbytes, WAITING)

    def get(self, source: Source, row: dict[str, Any], experiment: int, fold: int, *, masks: bool) -> "Maps":
        """Return the maps `(6, h, w)` of a slice; raises like `slice_heat`, and `NotReadyError` if others wait."""
        weights = self._sources.site.workspace.experiment_files(experiment).fold(fold).weights
        changed = weights.stat().st_mtime_ns if weights.is_file() else 0
        key = (source.index.digest, row["slice_id"], experiment, fold, masks, changed)
        arguments = {
            "experiment": experiment,
            "fold": fold,
            "masks": masks,
            "dataset": source.dataset,
            "source": str(source.path),
            "index": str(source.folder),
            "slice_id": row["slice_id"],
        }
        return self._results.get(key, lambda: self._compute(arguments))

    def _compute(self, arguments: dict[str, Any]) -> "Maps":
        import numpy as np

        out = self._sources.folder / f"heat-{time.monotonic_ns()}.npy"
        try:
            self._helper.call("heat", {**arguments, "out": str(out)}, seconds=HEAT_SECONDS)
            maps: Maps = np.load(out)
        finally:
            out.unlink(missing_ok=True)
        return maps


@without_paths
def overlay(request: Request) -> Response:
    """Return a map over a slice: uint8, 255 for the value `X-Maximum`."""
    import numpy as np

    from ichx.cache.display import check_size

    sources, query = sources_of(request), request.query_params
    source = sources.get(request.path_params["source"])
    row = source.slice(request.path_params["slice"])
    kind = check_choice("kind", query.get("kind", "")[:40], KINDS)
    label = check_choice("label", query.get("label", "any")[:40], LABELS)
    cache = source.caches.of(check_size(query.get("size")))
    if kind == "mask":
        return _drawn(site_of(request), source, row, cache, label)
    experiment = image_experiment(site_of(request), query.get("of", ""))
    fold = _fold(site_of(request), source, row, experiment)
    memory = sources.part(HeatMemory)
    maps = memory.get(source, row, experiment, fold, masks=kind == "predicted_mask")
    found = _as_displayed(maps[LABELS.index(label)], site_of(request), source, row, experiment, cache)
    maximum = 1.0 if kind == "predicted_mask" else float(found.max())
    if not found.max() > 0:
        raise NotFoundError(f"The map of {label} is empty for this slice.", "Choose another label.")
    what = f"probability of {label}" if kind == "predicted_mask" else f"Grad-CAM of {label}"
    meaning = f"{what}, experiment {experiment}, fold {fold}"
    return _response(np.rint(255 * np.clip(found / maximum, 0, 1)).astype(np.uint8), maximum, meaning)


def image_experiment(site: Site, of: str) -> int:
    """Return the experiment whose network sees the images: of an ensemble the heaviest member, of a sequence the first.

    Raises:
        InvalidInputError: `of` is neither experiment:NUMBER nor ensemble:NUMBER.
        NotFoundError: There is no such experiment or ensemble.
    """
    from ichx.evaluation.study_curves import parse_predictor

    kind, number = parse_predictor(of)
    if kind == "ensemble":
        number = max(site.project.store.ensemble(number).members, key=lambda member: member.weight).experiment
    while members := site.project.store.experiment(number).members:
        number = members[0]
    return number


def _fold(site: Site, source: Source, row: dict[str, Any], experiment: int) -> int:
    """Return the fold that explains a slice: the one that was not trained on it."""
    from ichx.evaluation.study_curves import predicting_fold

    if source.version is not None:
        return predicting_fold(site.project, experiment, source.version, row["slice_id"])
    finished = sorted({p.fold for p in site.project.store.predictions(experiment, role="oof")})
    if not finished:
        raise NotReadyError(f"Experiment {experiment} has no finished fold.", "Choose another experiment.")
    return finished[0]


def _drawn(site: Site, source: Source, row: dict[str, Any], cache: "Cache | None", label: str) -> Response:
    """Return the mask that users attached; without one, the pseudo-mask of the first fold that has one."""
    import numpy as np

    from ichx.cache.display import StoredMasks, displayed_mask

    if row["pseudo_mask"] and not row["mask"] and source.version is not None:
        return _pseudo_mask(site, source, row, cache, label)
    mask = None
    if row["mask"] and source.version is not None:
        folder = site.workspace.root / source.version.path
        masks = StoredMasks(folder, source.version.summary["masks"]["digest"], source.masked_rows)
        mask = displayed_mask(masks, cache, source.path, row)
    marked = None if mask is None else mask > 0 if label == "any" else mask == 1 + SUBTYPES.index(label)
    if marked is None or not marked.any():
        raise NotFoundError("This slice has no such mask.", "Choose another label.")
    return _response(np.where(marked, np.uint8(255), np.uint8(0)), 1.0, f"mask of {label} in the dataset")


def _pseudo_mask(site: Site, source: Source, row: dict[str, Any], cache: "Cache | None", label: str) -> Response:
    """Return a pseudo-mask, which the networks of a fold predicted: `IGNORED` where they are not sure."""
    import numpy as np

    from ichx.cache.display import place_mask
    from ichx.datasets.fold_masks import masks_of_parts, read_fold_mask
    from ichx.labels import UNKNOWN_MASK

    assert source.version is not None
    found = read_fold_mask(site.workspace, masks_of_parts(source.version), row["slice_id"])
    if found is None:
        raise NotFoundError("This slice has no pseudo-mask.", "Choose another slice.")
    fold, stored = found
    mask = place_mask(stored, cache, source.path, row)
    marked = (mask > 0) & (mask != UNKNOWN_MASK) if label == "any" else mask == 1 + SUBTYPES.index(label)
    values = np.where(marked, 255, np.where(mask == UNKNOWN_MASK, IGNORED, 0)).astype(np.uint8)
    if not values.any():
        raise NotFoundError(f"The pseudo-mask of fold {fold} marks nothing here.", "Choose another label.")
    return _response(values, 1.0, f"pseudo-mask of {label} by the networks of fold {fold}")


def _as_displayed(
    found: "Maps", site: Site, source: Source, row: dict[str, Any], experiment: int, cache: "Cache | None"
) -> "Maps":
    """Return a map on the displayed square, which may show the head at another place than the network's cache."""
    from ichx.cache.display import decode, field_shares, moved_by, place_map

    image = from_toml(site.project.store.experiment(experiment).recipe).input
    own, shown = image.centre, "none" if cache is None else cache.spec.centre
    shown_field = 0.0 if cache is None else cache.spec.field
    if (own, image.field) == (shown, shown_field):
        return found
    down = right = 0.0
    if own != shown:
        if "series" in (own, shown):
            raise UnsupportedError(
                f"Experiment {experiment} centres heads by {own}, the displayed pixels by {shown}.",
                "Build the cache of this experiment: `ichx data cache NAME --for NUMBER`.",
            )
        hu = decode(source.path, row)
        (down, right), (own_down, own_right) = moved_by(shown, hu), moved_by(own, hu)
        down, right = down - own_down, right - own_right
    return place_map(found, field_shares(row, image.field), field_shares(row, shown_field), (down, right))


def _response(values: "npt.NDArray[np.uint8]", maximum: float, meaning: str) -> Response:
    headers = {"X-Rows": str(values.shape[0]), "X-Columns": str(values.shape[1])}
    headers |= {"X-Maximum": f"{maximum:.6g}", "X-Meaning": meaning, "Cache-Control": "no-store"}
    return Response(values.tobytes(), 200, headers, "application/octet-stream")


ROUTES: Final = (Route("/api/overlays/{source}/{slice:path}", overlay),)
