"""Example slices of a figure: a random sample with a fixed seed, half of it positive, with heat maps.

The slices are those of the sample of a report. They are numbered, and no id is written.
"""

import base64
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.build import find_cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.series import series_codes
from ichx.errors import IchxError
from ichx.experiments.prepare import learns_masks
from ichx.labels import ANY, LABELS
from ichx.publish.figure_style import PAGE, QUIET, new_figure
from ichx.publish.subject import PublishedPredictions
from ichx.recipe_text import from_toml
from ichx.report.gallery import select_slices
from ichx.report.slice_images import HeatMap, Networks, heat_maps, open_pixels, windowed_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ichx.project import Project

PER_ROW: Final = 4


@dataclass(frozen=True)
class ExampleSlices:
    """Slices with their images, in the order of `table`."""

    table: pd.DataFrame
    """`image` (from 1), `truth` of the label, its `probability`, `fold`, `heat_full` (value of the full colour)."""
    images: tuple[npt.NDArray[np.uint8], ...]
    """`(E, E)` each, in the first window."""
    heat: tuple[npt.NDArray[np.uint8] | None, ...]
    """`(h, w, 4)` RGBA each; None without a heat map."""
    notes: tuple[str, ...]


def example_slices(project: "Project", published: PublishedPredictions, label: str) -> ExampleSlices:
    """Return the examples; missing files, weights or plugins become notes."""
    experiment, recipe, table = published.experiment, published.recipe, published.table
    while experiment.members:  # a sequence experiment reads no images
        experiment = project.store.experiment(experiment.members[0])
        recipe = from_toml(experiment.recipe)
    data, k = published.data, LABELS.index(label)
    rows = pd.Index(data.slices["slice_id"].to_numpy(object)).get_indexer(pd.Index(table.slice_ids)).astype(np.int64)
    known = np.flatnonzero(~np.isnan(table.labels[:, [k, LABELS.index(ANY)]]).any(axis=1))
    if not len(known):
        return ExampleSlices(_table([], [], [], []), (), (), (f"No example slices: {label} is unknown.",))
    labels, series = np.nan_to_num(table.labels[known]), series_codes(data.slices)[rows[known]]
    chosen = known[np.sort(select_slices(labels, table.probabilities[known], series).sample)]
    truth = table.labels[chosen, k] > 0.5
    order = np.argsort(~truth, kind="stable")
    plugin = project.registry.plugins.get(experiment.plugin)
    masks = plugin is not None and learns_masks(plugin, recipe, project.store.version_by_id(experiment.version_id))
    networks = Networks(plugin, recipe, project.workspace.experiment_files(experiment.number), masks)
    notes: list[str] = []
    try:
        cache = find_cache(project.workspace.cache_dir, data.version.dataset, data.slices, recipe_spec(recipe))
        with open_pixels(cache, data.source, data.slices, recipe, rows[chosen]) as pixels:
            images = [image[0] for image in windowed_images(pixels, recipe)]
            heat, _ = heat_maps(networks, pixels, np.arange(len(chosen)), table.folds[chosen], notes)
    except IchxError as error:
        return ExampleSlices(_table([], [], [], []), (), (), (*notes, f"No example slices: {error.problem}"))
    maps = [heat[index][k] if index in heat else None for index in order.tolist()]
    found = _table(
        truth[order].astype(int),
        table.probabilities[chosen, k][order],
        table.folds[chosen][order],
        [math.nan if one is None else one.full for one in maps],
    )
    return ExampleSlices(
        found, tuple(images[i] for i in order), tuple(None if one is None else _rgba(one) for one in maps), tuple(notes)
    )


def example_figure(found: ExampleSlices, label: str) -> "Figure":
    """Return a figure with each slice above the same slice with its heat map."""
    count = len(found.images)
    bands = math.ceil(count / PER_ROW)
    figure = new_figure(PAGE, bands * (2 * PAGE / PER_ROW + 7))
    axes = figure.subplots(2 * bands, PER_ROW, squeeze=False)
    for one in axes.flat:
        one.set_axis_off()
    what = "hemorrhage" if label == ANY else label
    rows: list[Any] = list(found.table.itertuples())
    for index, row in enumerate(rows):
        band, column = divmod(index, PER_ROW)
        image, edge = found.images[index], found.images[index].shape[0]
        for place in (axes[2 * band, column], axes[2 * band + 1, column]):
            place.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if (heat := found.heat[index]) is not None:
            extent = (-0.5, edge - 0.5, edge - 0.5, -0.5)
            axes[2 * band + 1, column].imshow(heat, extent=extent, interpolation="bilinear")
        else:
            axes[2 * band + 1, column].text(0, edge, "no heat map", color=QUIET, va="top")
        state = "with" if row.truth else "without"
        axes[2 * band, column].set_title(f"{row.image}: {state} {what}, p = {row.probability:.2f}", loc="left")
    return figure


def _table(truth: object, probability: object, fold: object, full: object) -> pd.DataFrame:
    found = pd.DataFrame({"truth": truth, "probability": probability, "fold": fold, "heat_full": full})
    found.insert(0, "image", np.arange(1, len(found) + 1))
    return found


def _rgba(heat: HeatMap) -> npt.NDArray[np.uint8]:
    content = base64.b64decode(heat.image.partition(",")[2])
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None  # `ichx.report` has encoded it
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGBA), np.uint8)
