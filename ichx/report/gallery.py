"""Slices that a report shows: their selection, their images and heat maps. The page's layout is in `page.html.j2`.

Selected are the slices with the highest loss, at most one per series, a random sample of which half is positive, and
one complete series. The selection follows from the predictions and a fixed seed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.build import find_cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.image_sides import Sides, read_image_sides
from ichx.datasets.series import series_codes
from ichx.errors import IchxError
from ichx.evaluation.metric import FloatArray, single_losses
from ichx.evaluation.oof import OofTable
from ichx.experiments.prepare import learns_masks
from ichx.inference.predict import FilePredictions
from ichx.labels import ANY, LABELS
from ichx.recipe import FILE_WINDOW, Recipe
from ichx.recipe_text import from_toml
from ichx.report.slice_images import (
    THUMB,
    HeatMap,
    Networks,
    Rows,
    heat_maps,
    open_pixels,
    shrunk,
    webp,
    windowed_images,
)
from ichx.report.slice_place import SlicePlace, slice_places

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment

WORST, SAMPLE, STRIP = 12, 8, 64
"""Maximum number of slices of each kind."""

SEED = 2019


@dataclass(frozen=True)
class SliceCard:
    """One slice with its images."""

    name: str
    """Slice id, or a number on an anonymous page."""
    fold: int | None
    """The fold that predicted it; None for a mean over folds."""
    loss: float | None
    """Weighted log loss of the slice; None without labels."""
    labels: tuple[float, ...]
    """Empty without labels."""
    probabilities: tuple[float, ...]
    windows: tuple[str, ...]
    """An image per window, as data URIs."""
    heat: tuple[HeatMap, ...]
    """A heat map per label; empty without heat maps."""
    place: SlicePlace
    sides: Sides | None
    """The patient's sides in the image; None if the orientation is unknown."""
    origin: str = ""
    """Study and series, instead of the loss."""


@dataclass(frozen=True)
class SeriesStrip:
    """A series from one end to the other, thinned to at most `STRIP` slices."""

    names: tuple[str, ...]
    labels: FloatArray
    """`(S, 6)`."""
    probabilities: FloatArray
    """`(S, 6)`."""
    images: tuple[str, ...]
    """Thumbnails in the first window, as data URIs."""
    total: int
    """Number of slices of the series."""


@dataclass(frozen=True)
class Gallery:
    """All slices of a report."""

    worst: tuple[SliceCard, ...]
    sample: tuple[SliceCard, ...]
    strip: SeriesStrip | None
    windows: tuple[str, ...]
    """Descriptions of the windows."""
    edge: int
    """Edge of the images in pixels."""
    heat_edge: int | None
    """Edge of the heat maps in pixels; None without heat maps."""
    masks: bool
    """Whether the heat maps are predicted masks, as probabilities, instead of Grad-CAM."""
    notes: tuple[str, ...]
    """What is missing, and why."""


@dataclass(frozen=True)
class SelectedRows:
    """Rows of an OOF table."""

    worst: Rows
    sample: Rows
    strip: Rows
    strip_total: int
    """Number of slices of the strip's series."""


def select_slices(labels: FloatArray, probabilities: FloatArray, series: npt.NDArray[Any]) -> SelectedRows:
    """Return the rows to show.

    Args:
        labels: `(N, 6)` labels.
        probabilities: `(N, 6)` OOF probabilities.
        series: `(N,)` codes of the slices' series; the rows of one series are in their order along the head.
    """
    losses = _slice_losses(labels, probabilities)
    descending = np.argsort(-losses, kind="stable")
    first = np.unique(series[descending], return_index=True)[1]
    worst = descending[np.sort(first)][:WORST]
    random = np.random.default_rng(SEED)
    positive = labels[:, LABELS.index(ANY)] > 0.5
    groups = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    sample = [random.permutation(group)[: SAMPLE // 2] for group in groups]
    strip = _typical_series(series, losses, positive)
    step = max(1, -(-len(strip) // STRIP))
    return SelectedRows(worst, np.concatenate(sample), strip[::step], len(strip))


def make_gallery(
    project: "Project",
    experiment: "Experiment",
    recipe: Recipe,
    data: LoadedDataset,
    oof: OofTable,
    *,
    anonymous: bool = False,
) -> Gallery:
    """Return the slices to show, with heat maps of the fold that did not train on them.

    Pixels come from the cache; if it is missing, the selected slices are decoded from their files. Missing files,
    weights or plugins become notes.

    Args:
        project: The open project.
        experiment: Its networks give the heat maps, or those of its first member if it reads no images.
        recipe: Recipe of `experiment`, which determines the windows.
        data: The dataset of `oof`.
        oof: OOF predictions of an experiment or ensemble.
        anonymous: Number the slices instead of showing their ids.
    """
    while experiment.members:
        experiment = project.store.experiment(experiment.members[0])
        recipe = from_toml(experiment.recipe)
    row_of = pd.Index(data.slices["slice_id"].to_numpy(object))
    rows = np.asarray(row_of.get_indexer(pd.Index(oof.slice_ids)), np.int64)
    series = series_codes(data.slices)
    selected = select_slices(oof.labels, oof.probabilities, series[rows])
    all_rows = np.unique(np.concatenate([selected.worst, selected.sample, selected.strip]))
    card_rows = np.unique(np.concatenate([selected.worst, selected.sample]))
    windows = _describe_windows(recipe)
    plugin = project.registry.plugins.get(experiment.plugin)
    trained_on = project.store.version_by_id(experiment.version_id)
    masks = plugin is not None and learns_masks(plugin, recipe, trained_on)
    networks = Networks(plugin, recipe, project.workspace.experiment_files(experiment.number), masks)
    notes: list[str] = []
    try:
        cache = find_cache(project.workspace.cache_dir, data.version.dataset, data.slices, recipe_spec(recipe))
        with open_pixels(cache, data.source, data.slices, recipe, rows[all_rows]) as pixels:
            images = windowed_images(pixels, recipe)
            cards = np.searchsorted(all_rows, card_rows)
            heat, heat_edge = heat_maps(networks, pixels, cards, oof.folds[card_rows], notes)
    except IchxError as error:
        return Gallery((), (), None, windows, 0, None, False, (*notes, f"No slices are shown: {error.problem}"))
    names = _names(oof, all_rows, anonymous)
    losses = _slice_losses(oof.labels[all_rows], oof.probabilities[all_rows])
    places = dict(zip(cards.tolist(), slice_places(data.slices, series, rows[card_rows]), strict=True))
    sides = dict(zip(cards.tolist(), read_image_sides(data.source, data.slices.iloc[rows[card_rows]]), strict=True))

    def card(row: int) -> SliceCard:
        index = int(np.searchsorted(all_rows, row))
        return SliceCard(
            name=names[index],
            fold=int(oof.folds[row]),
            loss=None if np.isnan(losses[index]) else float(losses[index]),
            labels=tuple(oof.labels[row].tolist()),
            probabilities=tuple(oof.probabilities[row].tolist()),
            windows=tuple(webp(image) for image in images[index]),
            heat=heat.get(index, ()),
            place=places[index],
            sides=sides[index],
        )

    strip = np.searchsorted(all_rows, selected.strip)
    return Gallery(
        worst=tuple(card(int(row)) for row in selected.worst),
        sample=tuple(card(int(row)) for row in selected.sample),
        strip=SeriesStrip(
            names=tuple(names[i] for i in strip),
            labels=oof.labels[selected.strip],
            probabilities=oof.probabilities[selected.strip],
            images=tuple(webp(shrunk(images[i][0], THUMB)) for i in strip),
            total=selected.strip_total,
        ),
        windows=windows,
        edge=images[0].shape[-1],
        heat_edge=heat_edge,
        masks=masks,
        notes=tuple(notes),
    )


def prediction_cards(project: "Project", found: FilePredictions) -> tuple[Gallery, pd.DataFrame]:
    """Return the most suspicious slice of each of the most suspicious series of predicted files, and these series.

    Heat maps come from the first of the folds. The returned gallery has no sample and no strip.
    """
    series = found.series.sort_values(ANY, ascending=False, kind="stable").head(WORST)
    series = series[series["suspicious_slice_id"].notna()]
    rows = pd.Index(found.catalog["slice_id"]).get_indexer(pd.Index(series["suspicious_slice_id"]))
    experiment = project.store.experiment(found.experiment)
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}")
    plugin = project.registry.plugins.get(experiment.plugin)
    trained_on = project.store.version_by_id(experiment.version_id)
    masks = plugin is not None and learns_masks(plugin, recipe, trained_on)
    networks = Networks(plugin, recipe, project.workspace.experiment_files(experiment.number), masks)
    notes: list[str] = []
    windows = _describe_windows(recipe)
    order = np.argsort(rows, kind="stable")
    sorted_as = np.argsort(order, kind="stable")  # index of each series among the sorted rows
    try:
        with open_pixels(None, found.source, found.catalog, recipe, rows[order]) as pixels:
            images = windowed_images(pixels, recipe)
            folds = np.full(len(rows), found.folds[0], np.int16)
            heat, heat_edge = heat_maps(networks, pixels, np.arange(len(rows)), folds, notes)
    except IchxError as error:
        return Gallery((), (), None, windows, 0, None, False, (f"No slices are shown: {error.problem}",)), series
    cards = []
    places = slice_places(found.catalog, series_codes(found.catalog), rows)
    sides = read_image_sides(found.source, found.catalog.iloc[rows])
    for one, row, index, place, side in zip(series.to_dict("records"), rows, sorted_as, places, sides, strict=True):
        cards.append(
            SliceCard(
                name=str(one["suspicious_slice_id"]),
                fold=None,
                loss=None,
                labels=(),
                probabilities=tuple(float(found.slices[label].iloc[row]) for label in LABELS),
                windows=tuple(webp(image) for image in images[index]),
                heat=heat.get(int(index), ()),
                place=place,
                sides=side,
                origin=f"study {one['study']}, series {one['series']}",
            )
        )
    return Gallery(tuple(cards), (), None, windows, images[0].shape[-1], heat_edge, masks, tuple(notes)), series


def _describe_windows(recipe: Recipe) -> tuple[str, ...]:
    return tuple("file's own" if w == FILE_WINDOW else f"{w[0]:g} / {w[1]:g}" for w in recipe.input.windows)


def _slice_losses(labels: FloatArray, probabilities: FloatArray) -> FloatArray:
    """Return the weighted log loss of each slice, `(N,)`; NaN without a known label."""
    return single_losses(labels, probabilities)


def _typical_series(series: npt.NDArray[Any], losses: FloatArray, positive: npt.NDArray[np.bool_]) -> Rows:
    """Return the rows of the positive series with the median mean loss; of any series if none is positive."""
    grouped = pd.DataFrame({"series": series, "loss": losses, "positive": positive}).groupby("series")
    table = grouped.agg(loss=("loss", "mean"), positive=("positive", "any"), count=("loss", "size"))
    for candidates in (table[table["positive"] & (table["count"] >= 8)], table[table["positive"]], table):
        if len(candidates):
            ordered = candidates.sort_values("loss", kind="stable")
            return np.flatnonzero(series == ordered.index[len(ordered) // 2])
    raise AssertionError("an OOF table has a row")


def _names(oof: OofTable, rows: Rows, anonymous: bool) -> list[str]:
    """Return the ids of `rows`; for an anonymous page `image 1`, ... in random order, which hides the dataset's."""
    if not anonymous:
        return [str(slice_id) for slice_id in oof.slice_ids[rows]]
    numbers = np.random.default_rng(SEED).permutation(len(rows))
    return [f"image {number + 1}" for number in numbers]
