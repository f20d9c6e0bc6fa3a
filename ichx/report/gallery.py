"""Slices that a report shows: their selection, their images and heat maps. The page's layout is in `page.html.j2`.

Selected are the slices with the highest loss, at most one per series, a random sample of which half is positive, and
one complete series. The selection follows from the predictions and a fixed seed.
"""

import base64
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ichx.cache.build import ensure_cache, find_cache
from ichx.cache.hu_cache import Cache
from ichx.cache.requests import recipe_spec
from ichx.ct.windows import windows_numpy
from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.series import series_codes
from ichx.errors import IchxError
from ichx.evaluation.metric import FloatArray, row_losses
from ichx.evaluation.oof import OofTable
from ichx.experiment_files import ExperimentFiles
from ichx.experiments.prepare import learns_masks
from ichx.inference.predict import FilePredictions
from ichx.labels import ANY, LABEL_WEIGHTS, LABELS
from ichx.loading.loader import WINDOW_COLUMNS, centre_crop
from ichx.recipe import EXTERNAL_PLUGIN, FILE_WINDOW, Recipe
from ichx.recipe_text import from_toml
from ichx.report.heatmap import SpatialLayer, grad_cam, last_spatial_layer, mask_maps
from ichx.training.slice_feed import SliceFeed
from ichx.training.weights import load_exactly

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.store import Experiment

WORST, SAMPLE, STRIP = 12, 8, 64
"""Maximum number of slices of each kind."""

EDGE, THUMB = 256, 96
"""Largest edges of an image and of a thumbnail, in pixels."""

HEAT_BATCH = 8
SEED = 2019
Rows = npt.NDArray[np.int64]
Image = npt.NDArray[np.uint8]
Shrinkable = TypeVar("Shrinkable", npt.NDArray[np.uint8], npt.NDArray[np.float32])


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
    heat: tuple[str, ...]
    """A transparent heat map per label, as data URIs; empty without heat maps."""
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


@dataclass(frozen=True)
class _Pixels:
    """A cache that contains the selected slices."""

    cache: Cache
    slices: pd.DataFrame
    """One row per slice of the cache."""
    rows: Rows
    """Rows of the selected slices in the cache."""


@dataclass(frozen=True)
class _Networks:
    """The trained networks of an experiment."""

    plugin: "Plugin | None"
    """None if it is not installed."""
    recipe: Recipe
    files: ExperimentFiles
    masks: bool
    """Whether they predict masks."""


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
    selected = select_slices(oof.labels, oof.probabilities, series_codes(data.slices)[rows])
    all_rows = np.unique(np.concatenate([selected.worst, selected.sample, selected.strip]))
    card_rows = np.unique(np.concatenate([selected.worst, selected.sample]))
    windows = _describe_windows(recipe)
    plugin = project.registry.plugins.get(experiment.plugin)
    trained_on = project.store.version_by_id(experiment.version_id)
    masks = plugin is not None and learns_masks(plugin, recipe, trained_on)
    networks = _Networks(plugin, recipe, project.workspace.experiment_files(experiment.number), masks)
    notes: list[str] = []
    try:
        cache = find_cache(project.workspace.cache_dir, data.version.dataset, data.slices, recipe_spec(recipe))
        with _open_pixels(cache, data.source, data.slices, recipe, rows[all_rows]) as pixels:
            images = _images(pixels, recipe)
            cards = np.searchsorted(all_rows, card_rows)
            heat, heat_edge = _heat_maps(networks, pixels, cards, oof.folds[card_rows], notes)
    except IchxError as error:
        return Gallery((), (), None, windows, 0, None, False, (*notes, f"No slices are shown: {error.problem}"))
    names = _names(oof, all_rows, anonymous)
    losses = _slice_losses(oof.labels[all_rows], oof.probabilities[all_rows])

    def card(row: int) -> SliceCard:
        index = int(np.searchsorted(all_rows, row))
        return SliceCard(
            name=names[index],
            fold=int(oof.folds[row]),
            loss=float(losses[index]),
            labels=tuple(oof.labels[row].tolist()),
            probabilities=tuple(oof.probabilities[row].tolist()),
            windows=tuple(_webp(image) for image in images[index]),
            heat=heat.get(index, ()),
        )

    strip = np.searchsorted(all_rows, selected.strip)
    return Gallery(
        worst=tuple(card(int(row)) for row in selected.worst),
        sample=tuple(card(int(row)) for row in selected.sample),
        strip=SeriesStrip(
            names=tuple(names[i] for i in strip),
            labels=oof.labels[selected.strip],
            probabilities=oof.probabilities[selected.strip],
            images=tuple(_webp(_shrunk(images[i][0], THUMB)) for i in strip),
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
    networks = _Networks(plugin, recipe, project.workspace.experiment_files(experiment.number), masks)
    notes: list[str] = []
    windows = _describe_windows(recipe)
    order = np.argsort(rows, kind="stable")
    place = np.argsort(order, kind="stable")  # of each series among the sorted rows
    try:
        with _open_pixels(None, found.source, found.catalog, recipe, rows[order]) as pixels:
            images = _images(pixels, recipe)
            folds = np.full(len(rows), found.folds[0], np.int16)
            heat, heat_edge = _heat_maps(networks, pixels, np.arange(len(rows)), folds, notes)
    except IchxError as error:
        return Gallery((), (), None, windows, 0, None, False, (f"No slices are shown: {error.problem}",)), series
    cards = []
    for index, row, one in zip(place.tolist(), rows.tolist(), series.to_dict("records"), strict=True):
        cards.append(
            SliceCard(
                name=str(one["suspicious_slice_id"]),
                fold=None,
                loss=None,
                labels=(),
                probabilities=tuple(float(found.slices[label].iloc[row]) for label in LABELS),
                windows=tuple(_webp(image) for image in images[index]),
                heat=heat.get(index, ()),
                origin=f"study {one['study']}, series {one['series']}",
            )
        )
    return Gallery(tuple(cards), (), None, windows, images[0].shape[-1], heat_edge, masks, tuple(notes)), series


def _describe_windows(recipe: Recipe) -> tuple[str, ...]:
    return tuple("file's own" if w == FILE_WINDOW else f"{w[0]:g} / {w[1]:g}" for w in recipe.input.windows)


def _slice_losses(labels: FloatArray, probabilities: FloatArray) -> FloatArray:
    """Return the weighted log loss of each slice, `(N,)`; the score is its mean."""
    weighted: FloatArray = np.average(row_losses(labels, probabilities), axis=1, weights=LABEL_WEIGHTS)
    return weighted


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


@contextmanager
def _open_pixels(
    cache: Cache | None, source: Path, slices: pd.DataFrame, recipe: Recipe, rows: Rows
) -> Iterator[_Pixels]:
    """Yield the pixels of `rows` of `slices`: from their `cache`, or decoded from `source` into a temporary one."""
    if cache is not None:
        yield _Pixels(cache, slices, rows)
        return
    spec = recipe_spec(recipe)
    decoded = rows
    if spec.centre == "series" or recipe.input.neighbours:  # centring and neighbours need complete series
        series = series_codes(slices)
        decoded = np.flatnonzero(np.isin(series, series[rows]))
    slices = slices.iloc[decoded].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as scratch:
        cache = ensure_cache(Path(scratch), "slices", source, slices, spec)
        yield _Pixels(cache, slices, np.searchsorted(decoded, rows))


def _images(pixels: _Pixels, recipe: Recipe) -> list[Image]:
    """Return the network's view of each slice as `(windows, E, E)` uint8, shrunk to at most `EDGE`."""
    headers = pixels.slices[list(WINDOW_COLUMNS)].to_numpy(np.float32)
    images = []
    for row in pixels.rows.tolist():
        hu = centre_crop(pixels.cache.read(row), recipe.input.pixels)
        windowed = windows_numpy(hu, headers[row], recipe.input.windows, recipe.input.window_kind)
        images.append(np.stack([_shrunk(np.rint(255 * w).astype(np.uint8), EDGE) for w in windowed]))
    return images


def _heat_maps(
    networks: _Networks, pixels: _Pixels, cards: Rows, folds: npt.NDArray[np.int16], notes: list[str]
) -> tuple[dict[int, tuple[str, ...]], int | None]:
    """Compute the heat maps of some slices, each by the weights of its fold.

    Args:
        networks: The networks to explain.
        pixels: The pixels of all selected slices.
        cards: Indices into `pixels.rows` of the slices to compute.
        folds: Their folds.
        notes: Receives what is missing.

    Returns:
        A data URI per label by index into `pixels.rows`, and the maps' edge in pixels (None without maps).
    """
    found: dict[int, tuple[str, ...]] = {}
    recipe = networks.recipe
    if networks.plugin is None:
        external = recipe.plugin == EXTERNAL_PLUGIN
        missing = "another tool made the predictions" if external else f"the plugin {recipe.plugin} is not installed"
        notes.append(f"No heat maps: {missing}.")
        return found, None
    layer: SpatialLayer | None = None
    edge: int | None = None
    feed = SliceFeed(pixels.cache, pixels.slices, recipe)
    model = networks.plugin.build(recipe, False)
    for fold in np.unique(folds).tolist():
        indices = cards[(folds == fold) & pixels.cache.valid[pixels.rows[cards]]]
        try:
            load_exactly(model, networks.files.fold(fold).weights)
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
                    found[index] = tuple(_heat_png(_shrunk(heat, EDGE), 1.0) for heat in label_maps)
                else:
                    found[index] = tuple(_heat_png(heat, float(heat.max())) for heat in label_maps)
    return found, edge


def _heat_png(heat: npt.NDArray[np.float32], full: float) -> str:
    """Return a heat map `(h, w)` as a transparent PNG of the same size; the value `full` gets the full colour."""
    share = heat / full if full > 0 else np.zeros_like(heat)
    level = np.rint(255 * share).astype(np.uint8)
    colours = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)
    alpha = np.rint(190 * np.sqrt(share)).astype(np.uint8)
    return _data_uri(".png", np.dstack([colours, alpha]), ())


def _webp(image: Image) -> str:
    return _data_uri(".webp", image, (cv2.IMWRITE_WEBP_QUALITY, 72))


def _data_uri(suffix: str, image: Image, options: Sequence[int]) -> str:
    encoded, content = cv2.imencode(suffix, image, options)
    assert encoded
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(content.tobytes()).decode()}"


def _shrunk(image: Shrinkable, edge: int) -> Shrinkable:
    if image.shape[0] <= edge:
        return image
    return np.asarray(cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA), image.dtype)
