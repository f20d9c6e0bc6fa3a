"""Predicts pseudo-masks: the pixels of a dataset that each fold's networks are sure of.

The networks of a fold predict the slices that have labels in that fold, part by part. Their probabilities are averaged
on the pixels of the slices, because members of an ensemble may read other sizes. Finished parts are saved in the folder
of the cache, so that an interrupted command resumes.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.hu_cache import Cache
from ichx.cache.mask_file import mask_parts_folder
from ichx.cache.original_pixels import ImagePlace, on_original
from ichx.cache.resize import pixel_spacings
from ichx.cache.series_centres import rows_of_same_series, series_centres, slice_centres
from ichx.datasets.catalog import write_parquet
from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.fold_labels import FoldLabels
from ichx.datasets.fold_masks import FoldMasks
from ichx.datasets.sources import SourceFiles
from ichx.errors import InvalidInputError, UnsupportedError
from ichx.evaluation.choices import views_of
from ichx.evaluation.pseudo_masks import MaskRule, check_counts, count_masks
from ichx.experiments.prepare import learns_masks, open_cache
from ichx.files import sha256_file, write_error
from ichx.inference.ready_model import ReadyModel
from ichx.inference.trained import FoldNetworks, Trained, open_networks
from ichx.labels import LABELS, SUBTYPES
from ichx.text import format_count
from ichx.training.slice_feed import SliceFeed
from ichx.views import HFLIP
from ichx.worker_pool import core_count, worker_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks

PART: Final = 128
"""Slices that are predicted and saved at once."""

FORMAT: Final = 1
"""Version of the masks: raise it when the same networks and pixels would give others."""

Centres = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PredictedMasks:
    """Masks of each fold, and what is recorded of them."""

    by_fold: dict[int, FoldMasks]
    origin: dict[str, Any]
    warnings: tuple[str, ...] = ()
    folder: Path | None = None
    """Where their parts are saved."""

    def remove_parts(self) -> None:
        """Remove the saved parts, once the masks are stored with a version."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def mask_members(project: "Project", model: ReadyModel) -> list[Trained]:
    """Return the members of `model` that predict masks. Raises `UnsupportedError` if there are none."""
    found = [
        trained
        for trained in model.members.values()
        if not trained.members
        and learns_masks(trained.plugin, trained.recipe, project.store.version_by_id(trained.experiment.version_id))
    ]
    if found:
        return found
    what = f"Experiment {model.shown.experiment.number} predicts"
    if model.ensemble is not None:
        what = f"No member of ensemble {model.ensemble} predicts"
    raise UnsupportedError(
        f"{what} no masks.",
        "Leave out --masks, or use an experiment whose plugin segments (e.g. unet_resnext50) and whose dataset has "
        "masks, or an ensemble with such a member.",
    )


def requested_masks(members: Sequence[Trained], model: ReadyModel, rule: MaskRule) -> dict[str, Any]:
    """Return what determines the masks besides the labels and the networks, as the origin records it."""
    return {
        "keep": rule.keep.text,
        "experiments": [trained.experiment.number for trained in members],
        "mirrored": [_is_mirrored(trained, model) for trained in members],
        "format": FORMAT,
    }


def predict_masks(
    project: "Project",
    model: ReadyModel,
    data: LoadedDataset,
    labels: FoldLabels,
    rule: MaskRule,
    callbacks: "Callbacks",
) -> PredictedMasks:
    """Return the masks of the slices of `data` that have `labels`, by each fold of `model`.

    A slice whose labels are all 0 needs none: its mask is empty.

    Raises:
        UnsupportedError: The model predicts no masks.
        InvalidInputError: No pixel is positive in any fold.
        ChangedDataError: A file has changed since the dataset was added, and is needed to find the centre of the head.
        StorageError: The parts cannot be written.
    """
    members = mask_members(project, model)
    callbacks.note(_cost(members, labels, model))
    caches = [open_cache(project.workspace, data, trained.recipe, callbacks) for trained in members]
    work = _MaskWork(members, model, data, labels, rule, caches, callbacks)
    try:
        masks, largest = work.run()
    except OSError as error:
        raise write_error(work.folder, "the masks", error) from error
    counts = count_masks(masks)
    try:
        warnings = check_counts(counts, rule, data.version.dataset, largest)
    except InvalidInputError:
        shutil.rmtree(work.folder, ignore_errors=True)  # other thresholds give other masks
        raise
    digests = {str(fold): one.digest for fold, one in masks.items()}
    origin = requested_masks(members, model, rule) | {"digests": digests, "counts": counts}
    return PredictedMasks(masks, origin, tuple(warnings), work.folder)


def _cost(members: Sequence[Trained], labels: FoldLabels, model: ReadyModel) -> str:
    counts = sum(int((~_empty(labels.table[labels.table["fold"] == fold])).sum()) for fold in model.folds)
    numbers = ", ".join(str(trained.experiment.number) for trained in members)
    return f"predicts {format_count(counts * len(members), 'mask')} with experiment {numbers}"


def _empty(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which rows have no label above 0, so that their masks are empty."""
    return np.asarray((table[list(LABELS)].to_numpy(np.float32) == 0).all(axis=1))


def _is_mirrored(trained: Trained, model: ReadyModel) -> bool:
    return HFLIP in views_of(trained.experiment, model.options.tta)


@dataclass(frozen=True)
class _MaskWork:
    """One prediction of masks."""

    members: Sequence[Trained]
    model: ReadyModel
    data: LoadedDataset
    labels: FoldLabels
    rule: MaskRule
    caches: Sequence[Cache]
    """Of each member."""
    callbacks: "Callbacks"

    @cached_property
    def folder(self) -> Path:
        """Where finished parts are saved: next to the first cache, which is removed with the dataset."""
        facts = [
            FORMAT,
            self.data.version.digest,
            self.labels.digest,
            self.rule.keep.text,
            [[sha256_file(path) for path in trained.weights.values()] for trained in self.members],
            [_is_mirrored(trained, self.model) for trained in self.members],
            [
                [str(cache.spec), trained.recipe.input.pixels]
                for cache, trained in zip(self.caches, self.members, strict=True)
            ],
        ]
        stamp = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
        return mask_parts_folder(self.caches[0].folder, stamp)

    def run(self) -> tuple[dict[int, FoldMasks], float]:
        """Return the masks of each fold, and the largest probability of a pixel."""
        self.folder.mkdir(exist_ok=True)
        centres = [self._centres(cache) for cache in self.caches]
        with ExitStack() as stack:
            networks = [
                stack.enter_context(open_networks(trained, self.model.options, self.callbacks.note))
                for trained in self.members
            ]
            feeds = [
                SliceFeed(cache, self.data.slices, trained.recipe, network.workers)
                for cache, trained, network in zip(self.caches, self.members, networks, strict=True)
            ]
            pool = stack.enter_context(ThreadPoolExecutor(core_count()))
            found = {fold: self._fold(fold, networks, feeds, centres, pool) for fold in self.model.folds}
        return {fold: masks for fold, (masks, _) in found.items()}, max(largest for _, largest in found.values())

    def _fold(
        self,
        fold: int,
        networks: Sequence[FoldNetworks],
        feeds: Sequence[SliceFeed],
        centres: Sequence[Centres | None],
        pool: ThreadPoolExecutor,
    ) -> tuple[FoldMasks, float]:
        table = self.labels.table[self.labels.table["fold"] == fold]
        table = table[~_empty(table)].sort_values("slice_id")
        rows = pd.Index(self.data.slices["slice_id"]).get_indexer(pd.Index(table["slice_id"]))
        usable = np.logical_and.reduce([cache.valid[rows] for cache in self.caches])
        ids, rows = table["slice_id"].to_numpy(object)[usable], rows[usable]
        labels = table[list(LABELS)].to_numpy(np.float32)[usable]
        found, largest, loaded = list[bytes](), 0.0, False
        for start in range(0, len(rows), PART):
            part = slice(start, start + PART)
            path = self.folder / f"fold-{fold}-{start:09d}.parquet"
            saved = _saved(path, ids[part])
            if saved is None:
                if not loaded:
                    for network in networks:
                        network.load(fold)
                    loaded = True
                masks, top = zip(*self._part(rows[part], labels[part], networks, feeds, centres, pool), strict=True)
                saved = pd.DataFrame({"slice_id": ids[part], "png": masks, "largest": top})
                write_parquet(saved, path)
            found += saved["png"].tolist()
            largest = max(largest, float(saved["largest"].max()))
            self.callbacks.phase(f"fold {fold} predicts masks", min(start + PART, len(rows)), len(rows))
        return FoldMasks(ids, found), largest

    def _part(
        self,
        rows: npt.NDArray[np.int64],
        labels: npt.NDArray[np.float32],
        networks: Sequence[FoldNetworks],
        feeds: Sequence[SliceFeed],
        centres: Sequence[Centres | None],
        pool: ThreadPoolExecutor,
    ) -> list[tuple[bytes, float]]:
        """Return the PNG of each slice, and the largest probability in it."""
        of_members = [
            network.mask_probabilities(feed, rows, mirrored=_is_mirrored(trained, self.model))
            for network, feed, trained in zip(networks, feeds, self.members, strict=True)
        ]
        shapes = self.data.slices[["rows", "columns"]].to_numpy(int)[rows].tolist()
        spacings = pixel_spacings(self.data.slices, rows)

        def encode(at: int) -> tuple[bytes, float]:
            total = np.zeros((*shapes[at], len(SUBTYPES)), np.float32)
            covered = np.ones(tuple(shapes[at]), bool)
            for cache, maps, centre in zip(self.caches, of_members, centres, strict=True):
                moved = (np.nan, np.nan) if centre is None else tuple(centre[rows[at]].tolist())
                place = ImagePlace(tuple(shapes[at]), spacings[at], moved)
                found, seen = on_original(maps[at], cache.spec, place)
                total += found
                covered &= seen
            total /= len(of_members)
            png = bytes(imagecodecs.png_encode(self.rule.mask(total, covered, labels[at])))
            return png, float(total[covered].max(initial=0))

        return list(pool.map(encode, range(len(rows))))

    def _centres(self, cache: Cache) -> Centres | None:
        """Return the centres of the heads (n, 2), found in the files; None if the cache does not move heads."""
        if cache.spec.centre == "none":
            return None
        slices = self.data.slices
        ids = self.labels.table["slice_id"][~_empty(self.labels.table)].unique()
        rows = np.sort(pd.Index(slices["slice_id"]).get_indexer(pd.Index(ids))).astype(np.int64)
        files, done = SourceFiles(self.data.source, slices), 0
        find = slice_centres
        if cache.spec.centre == "series":
            rows, find = rows_of_same_series(slices, rows), series_centres

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.callbacks.phase("finding the centres of heads", done, len(rows))

        return find(files, slices, rows, worker_count(None, max(len(rows), 1)), advance)


def _saved(path: Path, ids: npt.NDArray[np.object_]) -> pd.DataFrame | None:
    """Return a saved part if it is of the slices `ids`."""
    try:
        table = pd.read_parquet(path, columns=["slice_id", "png", "largest"])
    except (OSError, ValueError, KeyError):
        return None  # missing or damaged: it is predicted again
    return table if np.array_equal(table["slice_id"].to_numpy(object), ids) else None
