"""Masks of slices: read from a folder of PNGs, checked, and kept with a dataset's version.

A mask says of each pixel which subtype bleeds there: 0 for none, or 1 + the index in `ichx.labels.SUBTYPES`. A version
keeps them as `masks.parquet`. Not for bringing them to a recipe's size (`ichx.cache.mask_cache`).
"""

import hashlib
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.ct.dicom import DicomDefectError
from ichx.datasets.id_matching import match_images
from ichx.datasets.sources import Place, list_files, open_place
from ichx.errors import IchxError, raise_problems
from ichx.labels import ANY, LABELS, SUBTYPES
from ichx.text import format_count, format_examples
from ichx.worker_pool import run_jobs, worker_count

MASKS_FILE: Final = "masks.parquet"

UNKNOWN: Final = 255
"""Value of every pixel of a mask that nobody has drawn."""

CHUNK: Final = 256
"""Masks that a process reads at a time."""

MOST_BYTES: Final = 1 << 26
"""A mask's file is not read beyond this."""

MISTAKES: Final = {
    "unreadable": "cannot be read",
    "form": "no PNG of 8-bit grey values",
    "damaged": "damaged",
    "size": "not of the slice's size",
    "value": f"a value beyond {len(SUBTYPES)}",
    "twice": "the slice has another one",
}
"""Why a mask is refused, in words."""

_HEADER: Final = struct.Struct(">8sI4sIIBB")
_GREY: Final = (b"\x89PNG\r\n\x1a\n", 13, b"IHDR")


@dataclass(frozen=True)
class MaskTable:
    """Checked masks: `slice_ids` (M,), sorted; `pngs` (M,) as they are kept, without what else their files said.

    `facts` are fit for a version's summary: how many, what does not fit, a digest of ids and pixels. `messages` and
    `warnings` tell them.
    """

    slice_ids: npt.NDArray[np.object_]
    pngs: list[bytes]
    facts: dict[str, Any]
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ReadJob:
    """Read the masks at `places`, whose slices have `shapes` (rows, columns)."""

    start: int
    places: tuple[Place, ...]
    shapes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ReadMask:
    """A mask as a file has it: `png` of its own, the SHA-256 of its pixels, which `subtypes` it has; or a mistake."""

    png: bytes = b""
    sha256: str = ""
    subtypes: tuple[bool, ...] = ()
    mistake: str = ""
    detail: str = ""


def read_masks(source: Path, catalog: pd.DataFrame, *, processes: int | None = None) -> MaskTable:
    """Return the masks of the labelled `catalog` under `source`, a folder or a zip: PNGs named by slices' ids.

    Raises `IchxError` with all masks that are refused, by mistake (see `MISTAKES`), and where none is of any slice.
    """
    try:
        files = list_files(source)
    except IchxError as error:
        raise IchxError(f"masks: {error.problem}", "give the folder or zip that holds the masks as PNG") from error
    numbers = [i for i, name in enumerate(files.names) if name.lower().endswith(".png")]
    if not numbers:
        raise IchxError(f"there is no PNG in {source}", "give the folder or zip that holds the masks as PNG")
    codes, images = pd.factorize(np.array([files.names[i].rpartition("/")[2][:-4] for i in numbers], object))
    match = match_images(catalog, images, source)
    slice_of = np.full(len(images), -1)
    matched = np.flatnonzero(match.image >= 0)
    slice_of[match.image[matched]] = matched
    taken = [(number, int(slice_of[code])) for number, code in zip(numbers, codes, strict=True)]
    taken = [(number, row) for number, row in taken if row >= 0]
    found = _read_all([files.place(number) for number, _ in taken], catalog.iloc[[row for _, row in taken]], processes)
    _raise_refused(source, files.names, taken, found)
    rows = np.array([row for _, row in taken])
    order = np.argsort(catalog["slice_id"].to_numpy(object)[rows])
    rows, kept = rows[order], [found[i] for i in order]
    ids = catalog["slice_id"].to_numpy(object)[rows]
    digest = hashlib.sha256()
    for name, mask in zip(ids, kept, strict=True):
        digest.update(f"{name}\t{mask.sha256}\n".encode())
    others = len(files.names) - len(numbers)
    facts: dict[str, Any] = {
        "slices": len(rows),
        "by": match.by,
        "absent": match.absent,
        "defective": match.defective,
        "others": others,
        "digest": digest.hexdigest()[:16],
    }
    messages = (f"masks of {format_count(len(rows), 'slice')}, matched by {match.told}",)
    warnings = []
    if match.absent:
        told = format_examples(match.absent_examples, match.absent)
        warnings.append(f"{format_count(match.absent, 'mask')} of no slice{told}")
    if match.defective:
        warnings.append(f"{format_count(match.defective, 'mask')} of files that are left out")
    if others:
        warnings.append(f"{format_count(others, 'file')} beside the masks that are no PNG: passed over")
    agreement, told_of_labels = _held_against_labels(catalog, rows, ids, kept)
    return MaskTable(ids, [mask.png for mask in kept], facts | agreement, messages, (*warnings, *told_of_labels))


def read_chunk(job: ReadJob) -> tuple[int, list[ReadMask]]:
    """Return the job's `start`, and its masks."""
    return job.start, [read_mask(place, shape) for place, shape in zip(job.places, job.shapes, strict=True)]


def read_mask(place: Place, shape: tuple[int, int]) -> ReadMask:
    """Return the mask at `place` of a slice of `shape`. Of a file of another size nothing is unpacked."""
    try:
        with open_place(place) as handle:
            content = handle.read(MOST_BYTES + 1)
    except OSError as error:
        return ReadMask(mistake="unreadable", detail=error.strerror or str(error))
    except DicomDefectError as defect:
        return ReadMask(mistake="unreadable", detail=defect.detail)
    if len(content) < _HEADER.size or len(content) > MOST_BYTES:
        return ReadMask(mistake="form")
    *begin, width, height, depth, colour = _HEADER.unpack_from(content)
    if tuple(begin) != _GREY or (depth, colour) != (8, 0):
        return ReadMask(mistake="form")
    if (height, width) != shape:
        return ReadMask(mistake="size", detail=f"{height} x {width} instead of {shape[0]} x {shape[1]}")
    try:
        pixels = decode_mask(content)
    except ValueError as error:
        return ReadMask(mistake="damaged", detail=str(error))
    present = np.bincount(pixels.ravel(), minlength=256) > 0
    if present[len(SUBTYPES) + 1 :].any():
        return ReadMask(mistake="value", detail=f"{int(np.flatnonzero(present)[-1])}")
    # Written anew: a PNG may hold texts, and what is kept is to name no patient.
    return ReadMask(
        png=bytes(imagecodecs.png_encode(pixels)),
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        subtypes=tuple(present[1 : len(SUBTYPES) + 1].tolist()),
    )


def decode_mask(png: bytes) -> npt.NDArray[np.uint8]:
    """Return the pixels (H, W) uint8 of a grey 8-bit PNG. Raises `ValueError` where it is damaged."""
    try:
        pixels: npt.NDArray[np.uint8] = imagecodecs.png_decode(png)
    except (RuntimeError, ValueError) as error:  # imagecodecs' own error is a RuntimeError
        raise ValueError(str(error)) from error
    return pixels


def masks_frame(table: MaskTable) -> pd.DataFrame:
    """Return `table` as a version keeps it: `slice_id`, `png`."""
    return pd.DataFrame({"slice_id": table.slice_ids, "png": table.pngs})


def masks_by_row(frame: pd.DataFrame, slices: pd.DataFrame) -> dict[int, bytes]:
    """Return the PNGs in a version's `frame` by the row of `slices` that they are of."""
    if not {"slice_id", "png"} <= set(frame):
        raise ValueError("it has no columns slice_id and png")
    rows = pd.Index(slices["slice_id"]).get_indexer(pd.Index(frame["slice_id"]))
    return {int(row): png for row, png in zip(rows, frame["png"], strict=True) if row >= 0}


def drawn(slices: pd.DataFrame, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return of which `slices` the mask is known, (n,), where those of `rows` are given.

    A slice without a mask that is negative in every label has an empty one; of a positive slice nobody has drawn it.
    """
    known = np.asarray((slices[list(LABELS)].to_numpy(np.float32) <= 0.5).all(axis=1))
    known[rows] = True
    return known


def _read_all(places: list[Place], owners: pd.DataFrame, processes: int | None) -> list[ReadMask]:
    shapes = list(zip(owners["rows"].tolist(), owners["columns"].tolist(), strict=True))
    jobs = [
        ReadJob(start, tuple(places[start : start + CHUNK]), tuple(shapes[start : start + CHUNK]))
        for start in range(0, len(places), CHUNK)
    ]
    found: dict[int, list[ReadMask]] = dict(run_jobs(read_chunk, jobs, worker_count(processes, len(jobs))))
    return [mask for start in sorted(found) for mask in found[start]]


def _raise_refused(source: Path, names: list[str], taken: list[tuple[int, int]], found: list[ReadMask]) -> None:
    refused: dict[str, list[str]] = defaultdict(list)
    seen: set[int] = set()
    for (number, row), mask in zip(taken, found, strict=True):
        mistake = mask.mistake or ("twice" if row in seen else "")
        seen.add(row)
        if mistake:
            refused[mistake].append(f"{names[number]} ({mask.detail})" if mask.detail else names[number])
    problems = [
        f"{source}: {format_count(len(refused[mistake]), 'mask')} refused: {words}{format_examples(refused[mistake])}"
        for mistake, words in MISTAKES.items()
        if mistake in refused
    ]
    values = ", ".join(f"{value} {name}" for value, name in enumerate(SUBTYPES, start=1))
    raise_problems(problems, f"a mask is a PNG of 8-bit grey values, of its slice's size: 0 for no bleed, {values}")


def _held_against_labels(
    catalog: pd.DataFrame, rows: npt.NDArray[np.int64], ids: npt.NDArray[np.object_], masks: list[ReadMask]
) -> tuple[dict[str, int], list[str]]:
    """Return how many masks disagree with the labels of their slices, and warnings that tell of them."""
    marked = np.array([mask.subtypes for mask in masks], bool).reshape(-1, len(SUBTYPES))
    labelled = catalog[list(SUBTYPES)].to_numpy()[rows] > 0.5
    beyond, short = marked & ~labelled, labelled & ~marked
    warnings = []
    for which, words in ((beyond, "with a subtype that the labels lack"), (short, "without a subtype of the labels")):
        wrong = np.flatnonzero(which.any(axis=1))
        if len(wrong):
            such = [f"{ids[i]} ({', '.join(np.array(SUBTYPES)[which[i]])})" for i in wrong[:3]]
            warnings.append(f"{format_count(len(wrong), 'mask')} {words}{format_examples(such, len(wrong))}")
    without = catalog["defect"].isna().to_numpy() & (catalog[ANY].to_numpy() > 0.5)
    without[rows] = False
    if without.any():
        such = catalog["slice_id"].to_numpy(object)[np.flatnonzero(without)[:3]].tolist()
        count = int(without.sum())
        told = f"{format_count(count, 'positive slice')} without a mask{format_examples(such, count)}"
        warnings.append(f"{told}: nothing is learnt of where they bleed")
    facts = {
        "beyond_labels": int(beyond.any(axis=1).sum()),
        "short_of_labels": int(short.any(axis=1).sum()),
        "undrawn": int(without.sum()),
    }
    return facts, warnings
