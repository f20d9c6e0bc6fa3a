"""The slices that a report shows: which ones, their images, and where the network looked. No layout here.

Chosen are the slices of the highest loss, at most one per series so that one head does not fill the page; a random
sample, half of it positive; and one series whole. What is chosen follows from the predictions and a fixed seed.
"""

import base64
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.build import ensure_cache, find_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.ct.windows import windows_numpy
from ichx.datasets.dataset import LoadedDataset
from ichx.errors import IchxError
from ichx.evaluation.metric import FloatArray, row_losses
from ichx.evaluation.oof import OofTable
from ichx.experiment_files import ExperimentFiles
from ichx.experiments.prepare import learns_masks
from ichx.labels import ANY, LABEL_WEIGHTS, LABELS
from ichx.loading.loader import WINDOW_COLUMNS, centre_crop, inference_batches
from ichx.recipe import FILE_WINDOW, Recipe
from ichx.report.heatmap import SpatialLayer, grad_cam, last_spatial_layer, mask_maps
from ichx.training.weights import load_exactly
from ichx.training.window_step import WindowStep

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.workspace import Workspace

WORST, SAMPLE, STRIP = 12, 8, 64
"""How many slices of each kind are shown at most."""

EDGE, THUMB = 256, 96
"""Largest edge of a shown image, in pixels."""

SEED = 2019
Image = npt.NDArray[np.uint8]
Shrinkable = TypeVar("Shrinkable", npt.NDArray[np.uint8], npt.NDArray[np.float32])


@dataclass(frozen=True)
class Shown:
    """One slice: `windows` are its images as data URIs, `heat` a transparent one per label or nothing."""

    name: str
    fold: int
    loss: float
    labels: tuple[float, ...]
    probabilities: tuple[float, ...]
    windows: tuple[str, ...]
    heat: tuple[str, ...]


@dataclass(frozen=True)
class Strip:
    """A series from one end to the other: `labels` and `probabilities` (S, 6), small images, and how many it has."""

    names: tuple[str, ...]
    labels: FloatArray
    probabilities: FloatArray
    images: tuple[str, ...]
    total: int


@dataclass(frozen=True)
class Gallery:
    """What is shown, in which `windows`; `heat_edge` is the number of the heat maps' places along a side, if any.

    `masks`: the heat maps are predicted masks, in probabilities, and not Grad-CAM.
    `notes` say what could not be shown, and why.
    """

    worst: tuple[Shown, ...]
    sample: tuple[Shown, ...]
    strip: Strip | None
    windows: tuple[str, ...]
    edge: int
    heat_edge: int | None
    masks: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """Rows of an OOF table; `strip` are those of a series with `strip_total` slices."""

    worst: npt.NDArray[np.int64]
    sample: npt.NDArray[np.int64]
    strip: npt.NDArray[np.int64]
    strip_total: int


def choose(labels: FloatArray, probabilities: FloatArray, series: npt.NDArray[Any]) -> Choice:
    """Return the rows to show of `(N, 6)` labels and probabilities.

    `series` (N,) are the codes of the slices' series; the rows of one are in their order along the head.
    """
    losses = _slice_losses(labels, probabilities)
    falling = np.argsort(-losses, kind="stable")
    first = np.unique(series[falling], return_index=True)[1]
    worst = falling[np.sort(first)][:WORST]
    random = np.random.default_rng(SEED)
    positive = labels[:, LABELS.index(ANY)] > 0.5
    groups = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    drawn = [random.permutation(group)[: SAMPLE // 2] for group in groups]
    whole = _typical_series(series, losses, positive)
    step = max(1, -(-len(whole) // STRIP))
    return Choice(worst, np.concatenate(drawn), whole[::step], len(whole))


def make_gallery(
    workspace: "Workspace",
    data: LoadedDataset,
    recipe: Recipe,
    plugin: "Plugin | None",
    folder: Path,
    oof: OofTable,
    *,
    anonymous: bool = False,
) -> Gallery:
    """Return the slices to show of `oof`, in the windows of `recipe`, with heat maps by the weights in `folder`.

    The pixels are those of the cache, or decoded anew for these slices where it is gone. What is missing (files,
    weights, the plugin) is told in the gallery's notes.
    """
    row_of = pd.Index(data.slices["slice_id"].to_numpy(object))
    rows = np.asarray(row_of.get_indexer(pd.Index(oof.slice_ids)), np.int64)
    choice = choose(oof.labels, oof.probabilities, pd.factorize(data.slices["series"])[0][rows])
    wanted = np.unique(np.concatenate([choice.worst, choice.sample, choice.strip]))
    notes: list[str] = []
    windows = tuple("the file's own" if w == FILE_WINDOW else f"{w[0]:g} / {w[1]:g}" for w in recipe.input.windows)
    names = _names(oof, wanted, anonymous)
    masks = plugin is not None and learns_masks(plugin, recipe, data.version)
    try:
        with _pixels(workspace, data, recipe, rows[wanted]) as (cache, slices, places):
            images = _images(cache, slices, places, recipe)
            cards = np.unique(np.concatenate([choice.worst, choice.sample]))
            at = np.searchsorted(wanted, cards)
            heat, heat_edge = _heat(plugin, recipe, folder, cache, slices, places[at], oof.folds[cards], masks, notes)
    except IchxError as error:
        notes.append(f"no slices are shown: {error.problem}")
        return Gallery((), (), None, windows, 0, None, False, tuple(notes))
    losses = _slice_losses(oof.labels[wanted], oof.probabilities[wanted])

    def shown(row: int) -> Shown:
        at = int(np.searchsorted(wanted, row))
        return Shown(
            name=names[at],
            fold=int(oof.folds[row]),
            loss=float(losses[at]),
            labels=tuple(oof.labels[row].tolist()),
            probabilities=tuple(oof.probabilities[row].tolist()),
            windows=tuple(_webp(image) for image in images[at]),
            heat=heat.get(int(np.searchsorted(cards, row)), ()),
        )

    places_of_strip = np.searchsorted(wanted, choice.strip)
    return Gallery(
        worst=tuple(shown(int(row)) for row in choice.worst),
        sample=tuple(shown(int(row)) for row in choice.sample),
        strip=Strip(
            names=tuple(names[i] for i in places_of_strip),
            labels=oof.labels[choice.strip],
            probabilities=oof.probabilities[choice.strip],
            images=tuple(_webp(_shrunk(images[i][0], THUMB)) for i in places_of_strip),
            total=choice.strip_total,
        ),
        windows=windows,
        edge=images[0].shape[-1],
        heat_edge=heat_edge,
        masks=masks,
        notes=tuple(notes),
    )


def _slice_losses(labels: FloatArray, probabilities: FloatArray) -> FloatArray:
    """Return the weighted log loss of each slice, (N,): its mean over slices is the score."""
    weighted: FloatArray = np.average(row_losses(labels, probabilities), axis=1, weights=LABEL_WEIGHTS)
    return weighted


def _typical_series(
    series: npt.NDArray[Any], losses: FloatArray, positive: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Return the rows of the series with the median mean loss of those that bleed (of all, where none does)."""
    sums = pd.DataFrame({"series": series, "loss": losses, "positive": positive}).groupby("series")
    table = sums.agg(loss=("loss", "mean"), positive=("positive", "any"), count=("loss", "size"))
    for fitting in (table[table["positive"] & (table["count"] >= 8)], table[table["positive"]], table):
        if len(fitting):
            ordered = fitting.sort_values("loss", kind="stable")
            return np.flatnonzero(series == ordered.index[len(ordered) // 2])
    raise AssertionError("an OOF table has a row")


def _names(oof: OofTable, wanted: npt.NDArray[np.int64], anonymous: bool) -> list[str]:
    """Return the slices' ids; for an anonymous page `image 1`, ... in an order that says nothing of the dataset's."""
    if not anonymous:
        return [str(slice_id) for slice_id in oof.slice_ids[wanted]]
    numbers = np.random.default_rng(SEED).permutation(len(wanted))
    return [f"image {number + 1}" for number in numbers]


@contextmanager
def _pixels(
    workspace: "Workspace", data: LoadedDataset, recipe: Recipe, rows: npt.NDArray[np.int64]
) -> Iterator[tuple[Cache, pd.DataFrame, npt.NDArray[np.int64]]]:
    """Yield a cache with the slices `rows`, the table whose rows it has, and where these slices are in it."""
    spec = CacheSpec(size=recipe.input.size, centre=recipe.input.centre, resize=recipe.input.resize)
    name = data.version.dataset
    whole = find_cache(workspace.cache_dir, name, data.slices, spec)
    if whole is not None:
        yield whole, data.slices, rows
        return
    taken = rows
    if spec.centre == "series" or recipe.input.neighbours:  # a series is centred, and stands in stacks, as a whole
        mates = np.isin(data.slices["series"].to_numpy(), data.slices["series"].to_numpy()[rows])
        taken = np.flatnonzero(mates)
    few = data.slices.iloc[taken].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as scratch:
        yield ensure_cache(Path(scratch), name, data.source, few, spec), few, np.searchsorted(taken, rows)


def _images(
    cache: Cache, slices: pd.DataFrame, rows: npt.NDArray[np.int64], recipe: Recipe
) -> list[npt.NDArray[np.uint8]]:
    """Return each slice as (windows, E, E) uint8: what the network sees of it, shrunk to EDGE where it is larger."""
    headers = slices[list(WINDOW_COLUMNS)].to_numpy(np.float32)
    images = []
    for row in rows.tolist():
        hu = centre_crop(cache.read(row), recipe.input.pixels)
        seen = windows_numpy(hu, headers[row], recipe.input.windows, recipe.input.window_kind)
        images.append(np.stack([_shrunk(np.rint(255 * w).astype(np.uint8), EDGE) for w in seen]))
    return images


def _heat(
    plugin: "Plugin | None",
    recipe: Recipe,
    folder: Path,
    cache: Cache,
    slices: pd.DataFrame,
    rows: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int16],
    masks: bool,
    notes: list[str],
) -> tuple[Mapping[int, tuple[str, ...]], int | None]:
    """Return the heat maps of `rows` by their place, each by the weights of its fold, and their edge.

    They are Grad-CAM, or the network's own `masks`.
    """
    found: dict[int, tuple[str, ...]] = {}
    if plugin is None:
        notes.append(f"no heat maps: the plugin {recipe.plugin} is not installed")
        return found, None
    layer: SpatialLayer | None = None
    edge: int | None = None
    window_step = WindowStep(recipe.input)
    model = plugin.build(recipe, False)
    for fold in np.unique(folds).tolist():
        of_fold = np.flatnonzero((folds == fold) & cache.valid[rows])
        try:
            load_exactly(model, ExperimentFiles(folder).fold(fold).weights)
            layer = None if masks else layer or last_spatial_layer(model, recipe.input.pixels, recipe.input.channels)
        except IchxError as error:
            notes.append(f"no heat maps for fold {fold}: {error.problem}")
            continue
        begun = 0
        for batch in inference_batches(cache, slices, rows[of_fold], recipe, batch=8, workers=0):
            images = window_step(batch.hu, batch.windows)
            maps = (mask_maps(model, images) if layer is None else grad_cam(model, layer, images)).maps
            edge = maps.shape[-1]
            for i, of_labels in enumerate(maps):
                if masks:
                    drawn = tuple(_heat_png(_shrunk(one, EDGE), 1.0) for one in of_labels)
                else:
                    drawn = tuple(_heat_png(one, float(one.max())) for one in of_labels)
                found[int(of_fold[begun + i])] = drawn
            begun += len(maps)
    return found, edge


def _heat_png(heat: npt.NDArray[np.float32], most: float) -> str:
    """Return a heat map (h, w), scaled so that `most` is full colour, as a transparent PNG of as many pixels."""
    share = heat / most if most > 0 else np.zeros_like(heat)
    level = np.rint(255 * share).astype(np.uint8)
    colours = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)
    alpha = np.rint(190 * np.sqrt(share)).astype(np.uint8)
    return _data_uri(".png", np.dstack([colours, alpha]), ())


def _webp(image: Image) -> str:
    return _data_uri(".webp", image, (cv2.IMWRITE_WEBP_QUALITY, 72))


def _data_uri(kind: str, image: npt.NDArray[np.uint8], options: Sequence[int]) -> str:
    written, content = cv2.imencode(kind, image, options)
    assert written
    return f"data:image/{kind[1:]};base64,{base64.b64encode(content.tobytes()).decode()}"


def _shrunk(image: Shrinkable, edge: int) -> Shrinkable:
    if image.shape[0] <= edge:
        return image
    return np.asarray(cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA), image.dtype)
