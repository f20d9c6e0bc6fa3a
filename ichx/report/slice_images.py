"""The pixels of the slices that a report shows: windowed images and heat maps, as data URIs.

`ichx.report.gallery` selects the slices, `ichx.report.heatmap` computes the maps.
"""

import base64
import functools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.ct.windows import windows_numpy
from ichx.datasets.series import series_codes
from ichx.errors import IchxError
from ichx.experiment_files import ExperimentFiles
from ichx.loading.batch_reader import centre_crop
from ichx.loading.loader import WINDOW_COLUMNS
from ichx.recipe import EXTERNAL_PLUGIN, Recipe
from ichx.report.heatmap import SpatialLayer, grad_cam, last_spatial_layer, mask_maps
from ichx.training.mean_network import parts_of, trained_network
from ichx.training.slice_feed import SliceFeed
from ichx.training.weights import load_exactly

if TYPE_CHECKING:
    from ichx.plugins import Plugin

EDGE, THUMB = 256, 96
"""Largest edges of an image and of a thumbnail, in pixels."""

HEAT_BATCH = 8
SCALE_STEPS = 64
"""Colours of the scale of heat maps."""
Rows = npt.NDArray[np.int64]
Image = npt.NDArray[np.uint8]
Shrinkable = TypeVar("Shrinkable", npt.NDArray[np.uint8], npt.NDArray[np.float32])


@dataclass(frozen=True)
class HeatMap:
    """The heat map of one label over one slice."""

    image: str
    """A transparent PNG as data URI."""
    full: float
    """The value that has the full colour: 1 for a mask, otherwise the map's maximum."""


@dataclass(frozen=True)
class CachedPixels:
    """A cache that contains the selected slices."""

    cache: Cache
    slices: pd.DataFrame
    """One row per slice of the cache."""
    rows: Rows
    """Rows of the selected slices in the cache."""


@dataclass(frozen=True)
class Networks:
    """The trained networks of an experiment."""

    plugin: "Plugin | None"
    """None if it is not installed."""
    recipe: Recipe
    files: ExperimentFiles
    masks: bool
    """Whether they predict masks."""


@contextmanager
def open_pixels(
    cache: Cache | None, source: Path, slices: pd.DataFrame, recipe: Recipe, rows: Rows
) -> Iterator[CachedPixels]:
    """Yield the pixels of `rows` of `slices`: from their `cache`, or decoded from `source` into a temporary one."""
    if cache is not None:
        yield CachedPixels(cache, slices, rows)
        return
    spec = recipe_spec(recipe)
    decoded = rows
    if spec.centre == "series" or recipe.input.neighbours:  # centring and neighbours need complete series
        series = series_codes(slices)
        decoded = np.flatnonzero(np.isin(series, series[rows]))
    slices = slices.iloc[decoded].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as scratch:
        cache = ensure_cache(Path(scratch), "slices", source, slices, spec)
        yield CachedPixels(cache, slices, np.searchsorted(decoded, rows))


def windowed_images(pixels: CachedPixels, recipe: Recipe) -> list[Image]:
    """Return the network's view of each slice as `(windows, E, E)` uint8, shrunk to at most `EDGE`."""
    headers = pixels.slices[list(WINDOW_COLUMNS)].to_numpy(np.float32)
    images = []
    for row in pixels.rows.tolist():
        hu = centre_crop(pixels.cache.read(row), recipe.input.pixels)
        windowed = windows_numpy(hu, headers[row], recipe.input.windows, recipe.input.window_kind)
        images.append(np.stack([shrunk(np.rint(255 * w).astype(np.uint8), EDGE) for w in windowed]))
    return images


def heat_maps(
    networks: Networks, pixels: CachedPixels, cards: Rows, folds: npt.NDArray[np.int16], notes: list[str]
) -> tuple[dict[int, tuple[HeatMap, ...]], int | None]:
    """Compute the heat maps of some slices, each by the weights of its fold.

    Args:
        networks: The networks to explain.
        pixels: The pixels of all selected slices.
        cards: Indices into `pixels.rows` of the slices to compute.
        folds: Their folds.
        notes: Receives what is missing.

    Returns:
        The map of each label by index into `pixels.rows`, and the maps' edge in pixels (None without maps).
    """
    found: dict[int, tuple[HeatMap, ...]] = {}
    recipe = networks.recipe
    if networks.plugin is None:
        external = recipe.plugin == EXTERNAL_PLUGIN
        missing = "another tool made the predictions" if external else f"the plugin {recipe.plugin} is not installed"
        notes.append(f"No heat maps: {missing}.")
        return found, None
    layer: SpatialLayer | None = None
    edge: int | None = None
    feed = SliceFeed(pixels.cache, pixels.slices, recipe)
    trained = trained_network(recipe, networks.plugin.build)
    model = parts_of(trained)[-1]
    for fold in np.unique(folds).tolist():
        indices = cards[(folds == fold) & pixels.cache.valid[pixels.rows[cards]]]
        try:
            load_exactly(trained, networks.files.fold(fold).weights)
            if not networks.masks:
                layer = layer or last_spatial_layer(model, recipe.input.pixels, recipe.input.channels)
        except IchxError as error:
            notes.append(f"No heat maps for fold {fold}: {error.problem}")
            continue
        remaining = iter(indices.tolist())
        for batch in feed.inference_batches(pixels.rows[indices], batch=HEAT_BATCH):
            images = feed.inputs(batch, torch.device("cpu")).images
            maps = (mask_maps(model, images) if layer is None else grad_cam(model, layer, images)).maps
            edge = maps.shape[-1]
            for label_maps in maps:
                index = next(remaining)
                if networks.masks:
                    found[index] = tuple(HeatMap(_heat_png(shrunk(heat, EDGE), 1.0), 1.0) for heat in label_maps)
                else:
                    maxima = [float(heat.max()) for heat in label_maps]
                    found[index] = tuple(HeatMap(_heat_png(h, m), m) for h, m in zip(label_maps, maxima, strict=True))
    return found, edge


@functools.cache
def heat_scale() -> str:
    """Return the colours of a heat map from 0 to its full value, from left to right, as data URI."""
    return _heat_png(np.linspace(0, 1, SCALE_STEPS, dtype=np.float32)[None], 1.0)


def _heat_png(heat: npt.NDArray[np.float32], full: float) -> str:
    """Return a heat map `(h, w)` as a transparent PNG of the same size; the value `full` gets the full colour."""
    share = heat / full if full > 0 else np.zeros_like(heat)
    level = np.rint(255 * share).astype(np.uint8)
    colours = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)
    alpha = np.rint(190 * np.sqrt(share)).astype(np.uint8)
    return _data_uri(".png", np.dstack([colours, alpha]), ())


def webp(image: Image) -> str:
    """Return an image as data URI."""
    return _data_uri(".webp", image, (cv2.IMWRITE_WEBP_QUALITY, 72))


def _data_uri(suffix: str, image: Image, options: Sequence[int]) -> str:
    encoded, content = cv2.imencode(suffix, image, options)
    assert encoded
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(content.tobytes()).decode()}"


def shrunk(image: Shrinkable, edge: int) -> Shrinkable:
    """Return a square image with at most `edge` pixels a side."""
    if image.shape[0] <= edge:
        return image
    return np.asarray(cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA), image.dtype)
