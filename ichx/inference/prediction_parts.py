"""Predicts a large dataset with one fold in parts, which are saved, so that an interrupted prediction resumes."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.errors import IchxError
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.files import sha256_file
from ichx.inference.trained import FoldNetworks
from ichx.training.feed import Rows
from ichx.training.prediction import Logits, PredictionTask
from ichx.training.slice_feed import SliceFeed

PART: Final = 16_384
"""Slices of a part, a multiple of the batch: the logits are those of a single pass."""


def predict_in_parts(
    network: FoldNetworks,
    fold: int,
    feed: SliceFeed,
    rows: Rows,
    paths: Mapping[str, Path],
    report: Callable[[int], None],
) -> dict[str, Logits]:
    """Return the logits `(N, 6)` of `rows` by the loaded network of a fold, by view.

    Args:
        network: The networks; that of `fold` is loaded.
        fold: The fold.
        feed: The slices.
        rows: The slices to predict.
        paths: Where the caller writes the result of each view; finished parts are saved next to it until then.
        report: Receives the number of predicted slices.
    """
    starts = range(0, len(rows), PART)
    if len(starts) < 2:
        tasks = [PredictionTask(view, report=report) for view in paths]
        return dict(zip(paths, network.logits_of_views(feed, rows, tasks), strict=True))
    facts = f"{sha256_file(network.trained.weights[fold])} {network.hardware.precision} {PART}"
    stamp = hashlib.sha256(facts.encode()).hexdigest()[:12]
    found: dict[str, list[Logits]] = {view: [] for view in paths}
    for start in starts:
        part = rows[start : start + PART]
        ids = feed.ids(part)
        files = {view: _file(path, stamp, start) for view, path in paths.items()}
        saved = {view: logits for view, file in files.items() if (logits := _saved(file, ids)) is not None}
        missing = [view for view in paths if view not in saved]
        if missing:
            tasks = [PredictionTask(view, report=partial(_advance, report, start)) for view in missing]
            for view, logits in zip(missing, network.logits_of_views(feed, part, tasks), strict=True):
                write_predictions(files[view], Predictions(ids, logits, network.hardware.precision))
                saved[view] = logits
        report(start + len(part))
        for view in paths:
            found[view].append(saved[view])
    return {view: np.concatenate(parts) for view, parts in found.items()}


def _advance(report: Callable[[int], None], start: int, done: int) -> None:
    report(start + done)


def remove_parts(path: Path) -> None:
    """Remove the parts of the result in `path`, also those of earlier networks."""
    for part in path.parent.glob(f".{path.stem}-part-*.parquet"):
        part.unlink(missing_ok=True)


def _file(path: Path, stamp: str, start: int) -> Path:
    return path.with_name(f".{path.stem}-part-{stamp}-{start:09d}.parquet")


def _saved(file: Path, ids: npt.NDArray[np.object_]) -> Logits | None:
    """Return the logits of a saved part if it is of the slices `ids`."""
    if not file.is_file():
        return None
    try:
        saved = read_predictions(file)
    except IchxError:
        return None  # damaged: it is predicted again
    return saved.logits if np.array_equal(saved.slice_ids, ids) else None
