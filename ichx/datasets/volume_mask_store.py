"""Stores masks of volumes with a version, after a comparison with the labels of their slices."""

import hashlib
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.ingest_report import IngestReport
from ichx.datasets.volume_masks import VolumeMasks
from ichx.errors import raise_problems
from ichx.labels import ANY, LABELS, SUBTYPES
from ichx.text import EXAMPLES, format_count, format_examples

BoolArray = npt.NDArray[np.bool_]


def store_volume_masks(
    masks: VolumeMasks, catalog: pd.DataFrame, report: IngestReport, *, published: bool = False
) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """Return masks as a version stores them (`slice_id`, sorted, and `png`), None if there are none, and their summary.

    Args:
        masks: The masks.
        catalog: The labelled catalog.
        report: Receives counts and warnings.
        published: Masks and labels are those of a public dataset, which nobody can correct: masks that contradict
            labels are left out with a warning.

    Raises:
        InvalidInputError: Masks contradict the labels.
    """
    ids = catalog["slice_id"].astype(str).to_numpy(object)
    of_rows = ids[masks.rows]
    labels = catalog[list(LABELS)].to_numpy(np.float32)[masks.rows]
    drawn, subtypes = masks.drawn(), masks.subtypes()
    negative = drawn & (labels[:, -1] <= 0.5)
    lacking = np.zeros(len(drawn), bool)
    if subtypes is not None:
        lacking = (subtypes & (labels[:, : len(SUBTYPES)] <= 0.5)).any(axis=1) & ~negative
    _report_contradictions(of_rows, negative, lacking, report, published=published)
    positive = labels[:, : len(SUBTYPES)] > 0.5
    unresolved = drawn & ~negative & (positive.sum(axis=1) != 1) & (subtypes is None)
    if unresolved.any():
        report.warn(
            f"Left out binary masks of {format_count(int(unresolved.sum()), 'slice')} with several or unknown subtypes "
            f"from the mask loss{format_examples(of_rows[unresolved].tolist())}."
        )
    blank = ~drawn & np.isnan(labels[:, -1])
    use = np.flatnonzero((drawn & ~negative & ~lacking & ~unresolved) | blank)
    use = use[np.argsort(of_rows[use], kind="stable")]
    shapes = catalog[["rows", "columns"]].to_numpy()[masks.rows]
    pngs, digest = [], hashlib.sha256()
    for i in use.tolist():
        pixels = masks.pixels(i, int(positive[i].argmax()) + 1) if drawn[i] else np.zeros(shapes[i], np.uint8)
        pngs.append(bytes(imagecodecs.png_encode(pixels)))
        digest.update(f"{of_rows[i]}\t{hashlib.sha256(pixels.tobytes()).hexdigest()}\n".encode())
    undrawn = _undrawn(catalog, np.concatenate([masks.rows[use], masks.rows[unresolved]]))
    if len(undrawn):
        report.warn(
            f"Excluded {format_count(len(undrawn), 'positive slice')} without a mask from the mask loss"
            f"{format_examples(ids[undrawn[:EXAMPLES]].tolist(), len(undrawn))}."
        )
    report.inform(f"Masks of {format_count(len(use), 'slice')} from {format_count(masks.volumes, 'NIfTI mask')}.")
    summary = {
        "slices": len(use),
        "by": "volume",
        "absent": 0,
        "defective": 0,
        "others": 0,
        "digest": digest.hexdigest()[:16],
        "beyond_labels": int(negative.sum() + lacking.sum()),
        "short_of_labels": int((~drawn & (labels[:, -1] > 0.5)).sum()),
        "undrawn": len(undrawn) + int(unresolved.sum()),
    }
    return (pd.DataFrame({"slice_id": of_rows[use], "png": pngs}) if pngs else None), summary


def _report_contradictions(
    ids: npt.NDArray[np.object_], negative: BoolArray, lacking: BoolArray, report: IngestReport, *, published: bool
) -> None:
    """Warn of slices whose masks contradict their labels if the dataset is `published`, otherwise raise."""
    found = []
    for wrong, what in (
        (negative, "on slices that the labels call negative"),
        (lacking, "with subtypes that the labels lack"),
    ):
        if wrong.any():
            found.append(
                f"Masks {what}: {format_count(int(wrong.sum()), 'slice')}{format_examples(ids[wrong].tolist())}."
            )
    if not published:
        raise_problems(found, "Correct the masks or the labels.")
    for problem in found:
        report.warn(f"{problem[:-1]}; these masks were left out.")


def _undrawn(catalog: pd.DataFrame, stored: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows of usable positive slices that are not in `stored`."""
    positive = catalog["defect"].isna().to_numpy() & (catalog[ANY].to_numpy() > 0.5)
    positive[stored] = False
    return np.flatnonzero(positive)
