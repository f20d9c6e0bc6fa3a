"""Contact sheet: slices of a dataset in the windows of a model, with their labels and positions as captions.

Slices are read from their files, resized in HU and then windowed, in this order, as in training. No cache is needed.
Figures of a trained experiment are in `ichx.report`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.resize import fit_square
from ichx.ct.dicom import DicomDefectError
from ichx.ct.named_windows import WINDOWS, Window
from ichx.ct.windows import windows_numpy
from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.series import series_codes
from ichx.datasets.sources import SourceFiles, read_source_slice
from ichx.errors import InvalidInputError, NotFoundError, NotReadyError
from ichx.files import write_with
from ichx.labels import ANY, LABELS
from ichx.recipe import FILE_WINDOW
from ichx.text import format_bytes, format_count

EDGE: Final = 224
"""Pixels of a slice in one window."""

GAP, CAPTION, MARGIN, TITLE = 2, 62, 14, 34
"""Pixels between the windows of a slice, for its caption, between slices, and for the title."""

MAX_WIDTH: Final = 1500
"""Maximum width of a sheet in pixels, unless one slice is wider."""

DPI: Final = 100
MAX_SLICES: Final = 400
MAX_SIDE: Final = (1 << 16) - 1
"""Maximum width and height of a sheet in pixels, a limit of Matplotlib."""

MAX_PIXELS: Final = 100_000_000
PIXEL_BYTES: Final = 8
"""Maximum number of pixels of a sheet, and the memory that one takes while the sheet is drawn."""

MAX_CENTRE, MIN_SPAN, MAX_SPAN = 1e5, 1e-2, 1e6
"""Limits of a window in HU. Stored values have 16 bits."""


@dataclass(frozen=True)
class Sheet:
    """A contact sheet that was drawn."""

    path: Path
    rows: tuple[int, ...]
    """Rows of its slices."""
    candidates: int
    """Number of slices from which they were chosen."""
    width: int
    height: int


def parse_windows(text: str) -> list[tuple[str, Window]]:
    """Return the name and the window of each part of `text`, e.g. `file,subdural,bone` or `brain,50:130`.

    Raises:
        InvalidInputError: A part is neither a name nor CENTRE:WIDTH.
    """
    return [(part, _parse_window(part)) for part in map(str.strip, text.split(","))]


def choose_rows(slices: pd.DataFrame, count: int, label: str | None = None) -> tuple[npt.NDArray[np.int64], int]:
    """Return up to `count` rows, spread evenly over the dataset and sorted, and the number of candidates.

    Args:
        slices: Rows of the dataset.
        count: Number of rows.
        label: Choose only slices that are positive for this label.

    Raises:
        InvalidInputError: `count` is out of range.
        NotFoundError: `label` is unknown.
        NotReadyError: There are no candidates.
    """
    if not 1 <= count <= MAX_SLICES:
        raise InvalidInputError(f"Invalid number of slices: {count}.", f"Use 1 to {MAX_SLICES}.")
    if label is not None and label not in LABELS:
        raise NotFoundError.named("label", label, LABELS, f"Labels are {', '.join(LABELS)}.")
    rows = np.arange(len(slices)) if label is None else np.flatnonzero(slices[label].to_numpy() > 0.5)
    if not len(rows):
        what = f"slice that is positive for `{label}`" if label else "usable slice"
        raise NotReadyError(f"The dataset has no {what}.", "Choose another label or another dataset.")
    # The middles of equal parts, because the first and last slices of a dataset are the ends of a head.
    count = min(count, len(rows))
    places = (np.arange(count) + 0.5) * len(rows) / count
    return rows[places.astype(int)], len(rows)


def draw_sheet(
    path: Path,
    data: LoadedDataset,
    windows: Sequence[tuple[str, Window]],
    *,
    kind: str,
    count: int,
    label: str | None = None,
) -> Sheet:
    """Draw slices of `data` to a PNG file. A slice that cannot be decoded is a grey field with the reason.

    Args:
        path: The file, with the extension .png.
        data: The dataset.
        windows: Names and windows, see `parse_windows`.
        kind: `linear` or `sigmoid`.
        count: Number of slices, see `choose_rows`.
        label: Draw only slices that are positive for this label.

    Raises:
        InvalidInputError: The extension or `count` is invalid, or the sheet would be too large.
        ChangedDataError: A file of the dataset is missing or has changed.
        StorageError: `path` cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise InvalidInputError(f"Invalid file extension: {path}.", f"Use --out {path.with_suffix('.png')}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    slices = data.slices
    rows, candidates = choose_rows(slices, count, label)
    chosen = slices.iloc[rows]
    wide = len(windows) * EDGE + (len(windows) - 1) * GAP
    across = max(1, min(len(rows), (MAX_WIDTH - MARGIN) // (wide + MARGIN)))
    down = math.ceil(len(rows) / across)
    width = MARGIN + across * (wide + MARGIN)
    height = TITLE + 18 + down * (EDGE + CAPTION + MARGIN)
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InvalidInputError(
            f"A sheet of {format_count(len(rows), 'slice')} in {format_count(len(windows), 'window')} would have "
            f"{width:,} x {height:,} pixels and take {format_bytes(width * height * PIXEL_BYTES)} of memory.",
            f"Use fewer slices or windows: at most {MAX_SIDE:,} pixels on a side and {MAX_PIXELS:,} in total.",
        )
    picture = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, pixels: int, size: float = 7.5, **style: Any) -> None:
        text = _shorten(text, pixels, size)
        figure.text(x / width, 1 - y / height, text, va="top", family="DejaVu Sans", size=size, **style)

    of = f"{format_count(candidates, 'slice')}{f' positive for {label}' if label else ''}"
    title = f"{data.version.dataset} version {data.version.number}: {len(rows)} of {of}, {kind} windows"
    write(MARGIN, 9, title, width - 2 * MARGIN, 10, weight="bold")
    lengths = slices.groupby(series_codes(slices))["order"].transform("size").to_numpy()
    for place, file in enumerate(SourceFiles(data.source, chosen).select(range(len(rows)))):
        row = chosen.iloc[place]
        of_file = row["window_centre"], row["window_width"]
        left = MARGIN + place % across * (wide + MARGIN)
        top = TITLE + 18 + place // across * (EDGE + CAPTION + MARGIN)
        try:
            hu = fit_square(read_source_slice(file).hu, EDGE, "area")
            channels = windows_numpy(hu, of_file, [window for _, window in windows], kind)
            note = _format_labels(row)
        except DicomDefectError as defect:
            channels = np.full((len(windows), EDGE, EDGE), 0.8, np.float32)
            note = f"cannot be decoded: {defect.reason}"
        for index, ((name, window), channel) in enumerate(zip(windows, channels, strict=True)):
            x = left + index * (EDGE + GAP)
            picture[top : top + EDGE, x : x + EDGE] = np.rint(channel * 255)[..., None]
            centre, span = of_file if window == FILE_WINDOW else window
            caption = f"{name if name in WINDOWS else ''} [{centre:g}, {span:g}]".strip()
            write(x, top - 13, caption, EDGE, 7, color="0.35")
        position = f", {row['position']:.1f} mm" if math.isfinite(row["position"]) else ""
        number = f"slice {row['order'] + 1} of {lengths[rows[place]]}{position}"
        write(left, top + EDGE + 4, str(row["slice_id"]), wide)
        write(left, top + EDGE + 17, note, wide, weight="bold")
        write(left, top + EDGE + 30, number, wide, color="0.35")
    figure.figimage(picture, 0, 0)
    write_with(path, canvas.print_png, "the contact sheet", remedy="Choose another file with --out.")
    return Sheet(path, tuple(rows.tolist()), candidates, width, height)


def _parse_window(part: str) -> Window:
    if part in WINDOWS:
        return WINDOWS[part]
    centre, _, width = part.partition(":")
    try:
        window = float(centre), float(width)
    except ValueError:
        window = math.nan, math.nan
    if not (abs(window[0]) <= MAX_CENTRE and MIN_SPAN <= window[1] <= MAX_SPAN):
        raise InvalidInputError(
            f"Invalid window: {part!r}.", f"Use {', '.join(WINDOWS)} or CENTRE:WIDTH in HU, separated by commas."
        )
    return window


def _format_labels(row: "pd.Series[Any]") -> str:
    """Return the positive labels of `row`; `any` only if no subtype is positive."""
    unknown = [label for label in LABELS if math.isnan(row[label])]
    positive = [label for label in LABELS if row[label] > 0.5]
    if unknown and not positive:
        return "no labels" if len(unknown) == len(LABELS) else f"unknown: {', '.join(unknown)}"
    return ", ".join(label for label in positive if label != ANY) or ("any" if positive else "no hemorrhage")


def _shorten(text: str, pixels: int, size: float) -> str:
    """Return `text`, cut if it is wider than `pixels` at `size` points."""
    most = max(4, int(pixels / (0.6 * size * DPI / 72)))
    return text if len(text) <= most else f"{text[: most - 1]}…"
