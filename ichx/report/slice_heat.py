"""Heat maps and predicted masks of one slice, as the web app overlays them. Those of a report: `slice_images`."""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import CACHE_FILE, Cache, cache_folder, cache_key
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.series import neighbour_rows
from ichx.errors import CorruptFileError, NotFoundError, NotReadyError, UnsupportedError
from ichx.experiments.prepare import learns_masks
from ichx.recipe import EXTERNAL_PLUGIN, Recipe
from ichx.recipe_text import from_toml
from ichx.report.heatmap import grad_cam, last_spatial_layer, mask_maps
from ichx.training.mean_network import parts_of, trained_network
from ichx.training.slice_feed import SliceFeed
from ichx.training.weights import load_exactly

if TYPE_CHECKING:
    from ichx.project import Project

EDGE: Final = 192
"""Largest edge of a map in pixels."""


@dataclass(frozen=True)
class SliceToExplain:
    """A slice with the others of its study."""

    dataset: str
    """Name of the caches."""
    digest: str
    """`slices_digest` of all slices of the source, which identifies their caches."""
    source: Path
    slices: pd.DataFrame
    """The usable slices of the study by series and order, with their `row` in a cache."""
    slice_id: str


def slice_heat(
    project: "Project", number: int, fold: int, given: SliceToExplain, *, masks: bool
) -> npt.NDArray[np.float32]:
    """Return the maps of a slice for each label, `(6, h, w)`, over the square that the recipe's cache shows.

    Args:
        project: The open project.
        number: The experiment.
        fold: The fold whose weights are used.
        given: The slice.
        masks: Return the predicted masks, as probabilities, instead of Grad-CAM.

    Raises:
        NotReadyError: The fold has no weights.
        NotFoundError: The experiment predicts no masks.
        UnsupportedError: It has no network, or one without a spatial feature map.
        CorruptFileError: The slice cannot be decoded, or the weights are damaged.
    """
    experiment = project.store.experiment(number)
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
    plugin = project.registry.plugins.get(experiment.plugin)
    if plugin is None:
        external = recipe.plugin == EXTERNAL_PLUGIN
        why = "another tool made its predictions" if external else f"the plugin {recipe.plugin} is not installed"
        raise UnsupportedError(f"Experiment {number} has no heat maps: {why}.", "Choose another experiment.")
    trained_on = project.store.version_by_id(experiment.version_id)
    if masks and not learns_masks(plugin, recipe, trained_on):
        raise NotFoundError(f"Experiment {number} predicts no masks.", "Choose its heat map.")
    weights = project.workspace.experiment_files(number).fold(fold).weights
    if not weights.is_file():
        raise NotReadyError(
            f"Fold {fold} of experiment {number} has no weights.", "Restore them, or choose another experiment."
        )
    trained = trained_network(recipe, plugin.build)
    load_exactly(trained, weights)
    model = parts_of(trained)[-1]
    torch.set_num_threads(max(1, min(4, torch.get_num_threads())))
    with tempfile.TemporaryDirectory() as scratch:
        cache, slices = _study_cache(project, recipe, given, Path(scratch))
        row = int(np.flatnonzero(slices["slice_id"].to_numpy(object) == given.slice_id)[0])
        if not cache.valid[row]:
            raise CorruptFileError("This slice cannot be decoded.", "Export or copy the file again.")
        feed = SliceFeed(cache, slices, recipe)
        (batch,) = feed.inference_batches(np.array([row]), batch=1)
        images = feed.inputs(batch, torch.device("cpu")).images
        if masks:
            maps = mask_maps(model, images).maps[0]
        else:
            layer = last_spatial_layer(model, recipe.input.pixels, recipe.input.channels)
            maps = grad_cam(model, layer, images).maps[0]
    return _on_square(maps, recipe)


class _RowsOfCache(Cache):
    """Some rows of a cache, as if they were all."""

    def __init__(self, folder: Path, rows: npt.NDArray[np.int64]) -> None:
        super().__init__(folder)
        self._all, self._rows, self.n = Cache(folder), rows, len(rows)

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        return self._all.valid[self._rows]

    def read(self, row: int, out: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.int16]:
        return self._all.read(int(self._rows[row]), out)


def _study_cache(
    project: "Project", recipe: Recipe, given: SliceToExplain, scratch: Path
) -> tuple[Cache, pd.DataFrame]:
    """Return the pixels of the study as the recipe reads them, decoded into `scratch` if they are not cached."""
    spec = recipe_spec(recipe)
    slices = given.slices.reset_index(drop=True)
    slices = pd.concat([slices, neighbour_rows(slices)], axis=1)
    folder = cache_folder(project.workspace.cache_dir, given.dataset, spec, cache_key(given.digest, spec))
    if (folder / CACHE_FILE).is_file():
        return _RowsOfCache(folder, slices["row"].to_numpy(np.int64)), slices
    if spec.centre != "series" and not recipe.input.neighbours:
        slices = slices[slices["slice_id"] == given.slice_id].reset_index(drop=True)
    return ensure_cache(scratch, "slices", given.source, slices, spec, processes=1), slices


def _on_square(maps: npt.NDArray[np.float32], recipe: Recipe) -> npt.NDArray[np.float32]:
    """Return maps of the network's input, a centre crop of the cached square, on that square."""
    size, pixels = recipe.input.size, recipe.input.pixels
    edge = min(EDGE, size)
    inner = max(1, round(edge * pixels / size))
    square = np.zeros((len(maps), edge, edge), np.float32)
    start = (edge - inner) // 2
    for k, one in enumerate(maps):
        shrinks = one.shape[0] > inner
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        square[k, start : start + inner, start : start + inner] = cv2.resize(one, (inner, inner), interpolation=how)
    return square
