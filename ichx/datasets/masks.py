"""Masks of slices: read from PNGs, validated, and stored with a dataset's version as `masks.parquet`. NIfTI masks are
read in `volume_masks`.

A pixel is 0 without a bleed, or 1 + the index of its subtype in `ichx.labels.SUBTYPES`. Masks at a recipe's size are in
`ichx.cache.mask_cache`.
"""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.ct.dicom import DicomDefectError
from ichx.datasets.file_list import FileList, FileLocation, list_files
from ichx.datasets.id_matching import match_images
from ichx.datasets.ingest_report import IngestReport
from ichx.datasets.mask_png import decode_mask
from ichx.errors import IchxError, InvalidInputError, raise_problems
from ichx.labels import ANY, LABELS, SUBTYPES
from ichx.text import EXAMPLES, format_count, format_examples
from ichx.worker_pool import map_in_processes, worker_count

CHUNK: Final = 256
"""Masks per job."""

MAX_BYTES: Final = 1 << 26
"""Maximum size of a mask's file."""

MASK_DEFECTS: Final = {
    "unreadable": "cannot be read",
    "form": "not a PNG of 8-bit grey values",
    "damaged": "damaged",
    "size": "not the size of the slice",
    "value": f"a value above {len(SUBTYPES)}",
    "twice": "a second mask of the slice",
}
"""Why masks are rejected, and the meanings."""

REMEDY: Final = "Give the folder or zip with the masks as PNG or NIfTI files."

_HEADER: Final = struct.Struct(">8sI4sIIBB")
_GREY: Final = (b"\x89PNG\r\n\x1a\n", 13, b"IHDR")


@dataclass(frozen=True)
class MaskJob:
    """Read the masks at `locations`, whose slices have `shapes` (rows, columns); the first has the number `start`."""

    start: int
    locations: tuple[FileLocation, ...]
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class MaskFile:
    """The content of a file: `png` and SHA-256 of the pixels, and the `subtypes` in them; or a defect."""

    png: bytes = b""
    sha256: str = ""
    subtypes: tuple[bool, ...] = ()
    defect: str = ""
    detail: str = ""


def read_masks(source: Path, catalog: pd.DataFrame, report: IngestReport) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the masks under `source`, PNG files named by the ids of slices.

    Args:
        source: A folder or zip, see `list_files`.
        catalog: The labelled catalog.
        report: Receives how the masks match the slices and their labels.

    Returns:
        The masks as a version stores them (`slice_id`, sorted, and `png`, encoded without texts of the file), and their
        summary for the version: counts, and a digest of ids and pixels.

    Raises:
        InvalidInputError: Masks are rejected (all are listed, see `MASK_DEFECTS`), or none matches a slice.
        IchxError: `source` cannot be read, see `list_files`.
    """
    files = list_masks(source)
    numbers = [i for i, name in enumerate(files.names) if name.lower().endswith(".png")]
    if not numbers:
        raise InvalidInputError(f"{source} has no PNG or NIfTI files.", REMEDY)
    codes, images = pd.factorize(np.array([files.names[i].rpartition("/")[2][:-4] for i in numbers], object))
    match = match_images(catalog, images, source)
    slice_of = np.full(len(images), -1)
    matched = np.flatnonzero(match.image >= 0)
    slice_of[match.image[matched]] = matched
    owned = [(number, int(slice_of[code])) for number, code in zip(numbers, codes, strict=True) if slice_of[code] >= 0]
    found = _read_all([files.locate(i) for i, _ in owned], catalog.iloc[[row for _, row in owned]])
    _raise_rejected(source, [(files.names[i], row) for i, row in owned], found)
    rows = np.array([row for _, row in owned])
    order = np.argsort(catalog["slice_id"].to_numpy(object)[rows])
    rows, masks = rows[order], [found[i] for i in order]
    ids = catalog["slice_id"].to_numpy(object)[rows]
    digest = hashlib.sha256()
    for name, mask in zip(ids, masks, strict=True):
        digest.update(f"{name}\t{mask.sha256}\n".encode())
    others = len(files.names) - len(numbers)
    summary: dict[str, Any] = {
        "slices": len(rows),
        "by": match.by,
        "absent": match.absent,
        "defective": match.defective,
        "others": others,
        "digest": digest.hexdigest()[:16],
    }
    report.add_match(f"Masks of {format_count(len(rows), 'slice')}", match, "mask")
    if others:
        report.warn(f"Ignored {format_count(others, 'file')} that are not PNG next to the masks.")
    summary |= _compare_with_labels(catalog, rows, masks, report)
    return pd.DataFrame({"slice_id": ids, "png": [mask.png for mask in masks]}), summary


def list_masks(source: Path) -> FileList:
    """Return the files in a folder or zip of masks. Raises like `list_files`."""
    try:
        return list_files(source)
    except IchxError as error:
        raise type(error)(f"Cannot read the masks: {error.problem}", REMEDY) from error


def read_chunk(job: MaskJob) -> tuple[int, list[MaskFile]]:
    """Return the job's `start` and its masks."""
    return job.start, [read_mask(*item) for item in zip(job.locations, job.shapes, strict=True)]


def read_mask(location: FileLocation, shape: tuple[int, int]) -> MaskFile:
    """Return the mask at `location` of a slice of `shape`. The pixels of another size are not decoded."""
    try:
        with location.open() as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as error:
        return MaskFile(defect="unreadable", detail=error.strerror or str(error))
    except DicomDefectError as defect:
        return MaskFile(defect="unreadable", detail=defect.detail)
    if len(content) < _HEADER.size or len(content) > MAX_BYTES:
        return MaskFile(defect="form")
    *start, width, height, depth, colour = _HEADER.unpack_from(content)
    if tuple(start) != _GREY or (depth, colour) != (8, 0):
        return MaskFile(defect="form")
    if (height, width) != shape:
        return MaskFile(defect="size", detail=f"{height} x {width} instead of {shape[0]} x {shape[1]}")
    try:
        pixels = decode_mask(content)
    except ValueError as error:
        return MaskFile(defect="damaged", detail=str(error))
    present = np.bincount(pixels.ravel(), minlength=256) > 0
    if present[len(SUBTYPES) + 1 :].any():
        return MaskFile(defect="value", detail=f"{int(np.flatnonzero(present)[-1])}")
    return MaskFile(
        png=bytes(imagecodecs.png_encode(pixels)),
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        subtypes=tuple(present[1 : len(SUBTYPES) + 1].tolist()),
    )


def masks_by_row(frame: pd.DataFrame, slices: pd.DataFrame) -> dict[int, bytes]:
    """Return the PNGs of a version's `frame` by row of `slices`. Raises `ValueError` for missing columns."""
    if missing := {"slice_id", "png"} - set(frame):
        raise ValueError(f"missing columns {', '.join(sorted(missing))}")
    rows = pd.Index(slices["slice_id"]).get_indexer(pd.Index(frame["slice_id"]))
    return {int(row): png for row, png in zip(rows, frame["png"], strict=True) if row >= 0}


def known_masks(slices: pd.DataFrame, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return whether the mask of each of `slices` is known, (n,), if those of `rows` have a file.

    The mask of a slice that is negative for every label is empty.
    """
    known = np.asarray((slices[list(LABELS)].to_numpy(np.float32) <= 0.5).all(axis=1))
    known[rows] = True
    return known


def _read_all(locations: list[FileLocation], owners: pd.DataFrame) -> list[MaskFile]:
    shapes = list(zip(owners["rows"].tolist(), owners["columns"].tolist(), strict=True))
    jobs = [
        MaskJob(start, tuple(locations[start : start + CHUNK]), tuple(shapes[start : start + CHUNK]))
        for start in range(0, len(locations), CHUNK)
    ]
    found: dict[int, list[MaskFile]] = dict(map_in_processes(read_chunk, jobs, worker_count(None, len(jobs))))
    return [mask for start in sorted(found) for mask in found[start]]


def rejected_masks(rejected: Mapping[str, Sequence[str]], meanings: Mapping[str, str]) -> list[str]:
    """Return a line for each defect with the number and names of its masks; both arguments are by defect."""
    return [
        f"{format_count(len(names), 'mask')} rejected ({meaning}){format_examples(names)}."
        for defect, meaning in meanings.items()
        if (names := rejected.get(defect))
    ]


def _raise_rejected(source: Path, owned: list[tuple[str, int]], found: list[MaskFile]) -> None:
    """Raise `InvalidInputError` if any of `found` has a defect or is the second of its row; `owned` has (name, row)."""
    rejected: dict[str, list[str]] = defaultdict(list)
    seen: set[int] = set()
    for (name, row), mask in zip(owned, found, strict=True):
        defect = mask.defect or ("twice" if row in seen else "")
        seen.add(row)
        if defect:
            rejected[defect].append(f"{name}: {mask.detail}" if mask.detail else name)
    problems = [f"{source}: {problem}" for problem in rejected_masks(rejected, MASK_DEFECTS)]
    values = ", ".join(f"{value} {name}" for value, name in enumerate(SUBTYPES, start=1))
    raise_problems(
        problems, f"A mask is a PNG of 8-bit grey values with the size of its slice: 0 for no bleed, {values}."
    )


def _compare_with_labels(
    catalog: pd.DataFrame, rows: npt.NDArray[np.int64], masks: list[MaskFile], report: IngestReport
) -> dict[str, int]:
    """Return how many masks disagree with the labels of their slices, `rows` of `catalog`; warn of them."""
    ids = catalog["slice_id"].to_numpy(object)
    marked = np.array([mask.subtypes for mask in masks], bool).reshape(-1, len(SUBTYPES))
    labelled = catalog[list(SUBTYPES)].to_numpy()[rows] > 0.5
    counts = {}
    for key, differs, what in (
        ("beyond_labels", marked & ~labelled, "with a subtype that the labels lack"),
        ("short_of_labels", labelled & ~marked, "without a subtype of the labels"),
    ):
        wrong = np.flatnonzero(differs.any(axis=1))
        counts[key] = len(wrong)
        if len(wrong):
            examples = [f"{ids[rows[i]]}: {', '.join(np.array(SUBTYPES)[differs[i]])}" for i in wrong[:EXAMPLES]]
            report.warn(f"{format_count(len(wrong), 'mask')} {what}{format_examples(examples, len(wrong))}.")
    without = catalog["defect"].isna().to_numpy() & (catalog[ANY].to_numpy() > 0.5)
    without[rows] = False
    counts["undrawn"] = int(without.sum())
    if counts["undrawn"]:
        examples = ids[np.flatnonzero(without)[:EXAMPLES]].tolist()
        report.warn(
            f"Excluded {format_count(counts['undrawn'], 'positive slice')} without a mask from the mask loss"
            f"{format_examples(examples, counts['undrawn'])}."
        )
    return counts
