"""A contact sheet: slices of a dataset as a model sees them, with what is known of each written under it.

Slices are read from their files, brought to one size in HU and then windowed, in this order, as a training does it; no
cache is needed. Not for figures of a trained experiment (`ichx.report`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.resize import fit_square
from ichx.ct.dicom import DicomDefectError
from ichx.ct.windows import windows_numpy
from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.sources import SourceFiles, read_source_slice
from ichx.errors import IchxError
from ichx.labels import ANY, LABELS
from ichx.recipe import FILE_WINDOW
from ichx.text import format_count

WINDOWS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "file": FILE_WINDOW,
        "brain": (40.0, 80.0),
        "subdural": (80.0, 200.0),
        "stroke": (40.0, 40.0),
        "bone": (600.0, 2800.0),
    }
)
"""Windows by name, (centre, width) in HU; `file` is each slice's own."""

EDGE: Final = 224
"""Pixels of a slice in one window."""

GAP, CAPTION, MARGIN, TITLE = 2, 62, 14, 34
"""Pixels between a slice's windows, under them for its caption, between slices, and above all of them."""

WIDEST: Final = 1500
"""Pixels that a sheet is wide at most, unless one slice is wider."""

DPI: Final = 100
MOST: Final = 400
"""Slices on a sheet."""


@dataclass(frozen=True)
class Sheet:
    """What was drawn to `path`: the slices' rows, how many there were to choose from, width and height in pixels."""

    path: Path
    rows: tuple[int, ...]
    candidates: int
    width: int
    height: int


def parse_windows(text: str) -> list[tuple[str, tuple[float, float]]]:
    """Return (name, (centre, width)) of each part of `text`, such as `file,subdural,bone` or `brain,50:130`.

    Raises `IchxError` for a part that is no window.
    """
    windows = []
    for part in (piece.strip() for piece in text.split(",")):
        window = WINDOWS.get(part)
        if window is None:
            centre, _, width = part.partition(":")
            try:
                window = (float(centre), float(width))
            except ValueError:
                window = (math.nan, math.nan)
            if not (math.isfinite(window[0]) and 0 < window[1] < math.inf):
                known = ", ".join(WINDOWS)
                raise IchxError(f"{part!r} is no window", f"use {known}, or CENTRE:WIDTH in HU, divided by commas")
        windows.append((part, window))
    return windows


def choose_rows(slices: pd.DataFrame, count: int, label: str | None = None) -> tuple[npt.NDArray[np.int64], int]:
    """Return `count` rows spread evenly over the dataset, sorted, and how many there were to choose from.

    With `label` only slices that are positive for it. Raises `IchxError` where there are none.
    """
    if not 1 <= count <= MOST:
        raise IchxError(f"a sheet cannot have {count} slices", f"use 1 to {MOST}")
    if label is not None and label not in LABELS:
        raise IchxError(f"{label!r} is no label", f"labels are {', '.join(LABELS)}")
    rows = np.arange(len(slices))
    if label is not None:
        rows = np.flatnonzero(slices[label].to_numpy() > 0.5)
    if not len(rows):
        raise IchxError(
            f"no slice is positive for {label}" if label else "there are no slices", "ask for another label"
        )
    # The middles of as many equal parts: the first and the last slice of a dataset are the ends of a head.
    places = (np.arange(min(count, len(rows))) + 0.5) * len(rows) / min(count, len(rows))
    return rows[places.astype(int)], len(rows)


def draw_sheet(
    path: Path,
    data: LoadedDataset,
    windows: list[tuple[str, tuple[float, float]]],
    *,
    kind: str,
    count: int,
    label: str | None = None,
) -> Sheet:
    """Draw `count` slices of `data` in `windows` (`kind` linear or sigmoid) to the PNG at `path`.

    Which ones, `choose_rows` says. A slice that cannot be decoded is a grey field with the reason. Raises `IchxError`
    where a file is gone or changed, and where `path` is no .png or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise IchxError(f"a sheet is a PNG, and {path} is not called so", f"give --out {path.with_suffix('.png')}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    slices = data.slices
    rows, candidates = choose_rows(slices, count, label)
    chosen = slices.iloc[rows]
    wide = len(windows) * EDGE + (len(windows) - 1) * GAP
    across = max(1, min(len(rows), (WIDEST - MARGIN) // (wide + MARGIN)))
    down = math.ceil(len(rows) / across)
    width = MARGIN + across * (wide + MARGIN)
    height = TITLE + 18 + down * (EDGE + CAPTION + MARGIN)
    picture = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, va="top", family="DejaVu Sans", **style)

    of = f"{format_count(candidates, 'slice')}{f' positive for {label}' if label else ''}"
    title = f"{data.version.dataset} version {data.version.number}: {len(rows)} of {of}, {kind} windows"
    write(MARGIN, 9, _fitted(title, width - 2 * MARGIN, 10), size=10, weight="bold")
    lengths = slices.groupby("series", sort=False)["order"].transform("size").to_numpy()
    for place, file in enumerate(SourceFiles(data.source, chosen).select(range(len(rows)))):
        row = chosen.iloc[place]
        left = MARGIN + place % across * (wide + MARGIN)
        top = TITLE + 18 + place // across * (EDGE + CAPTION + MARGIN)
        try:
            hu = fit_square(read_source_slice(file).hu, EDGE, "area")
            seen = windows_numpy(hu, (row["window_centre"], row["window_width"]), [w for _, w in windows], kind)
            note = _labels(row)
        except DicomDefectError as defect:
            seen = np.full((len(windows), EDGE, EDGE), 0.8, np.float32)
            note = f"cannot be decoded: {defect.reason}"
        for index, ((name, window), channel) in enumerate(zip(windows, seen, strict=True)):
            x = left + index * (EDGE + GAP)
            picture[top : top + EDGE, x : x + EDGE] = np.rint(channel * 255)[..., None]
            own = (row["window_centre"], row["window_width"]) if window == FILE_WINDOW else window
            told = f"{name if name in WINDOWS else ''} [{own[0]:g}, {own[1]:g}]".strip()
            write(x, top - 13, _fitted(told, EDGE, 7), size=7, color="0.35")
        number = f"slice {row['order'] + 1} of {lengths[rows[place]]}"
        where = f", {row['position']:.1f} mm" if math.isfinite(row["position"]) else ""
        write(left, top + EDGE + 4, _fitted(str(row["slice_id"]), wide, 7.5), size=7.5)
        write(left, top + EDGE + 17, _fitted(note, wide, 7.5), size=7.5, weight="bold")
        write(left, top + EDGE + 30, _fitted(number + where, wide, 7.5), size=7.5, color="0.35")
    figure.figimage(picture, 0, 0)
    try:
        canvas.print_png(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise IchxError(f"cannot write {path}: {error.strerror or error}", "choose another file with --out") from error
    return Sheet(path, tuple(rows.tolist()), candidates, width, height)


def _labels(row: "pd.Series[Any]") -> str:
    """Return the positive labels of `row` in words, `any` only where it stands alone."""
    if any(math.isnan(row[label]) for label in LABELS):
        return "no labels"
    positive = [label for label in LABELS if row[label] > 0.5]
    return ", ".join(label for label in positive if label != ANY) or ("any" if positive else "no hemorrhage")


def _fitted(text: str, pixels: int, size: float) -> str:
    """Return `text`, cut where it would be wider than `pixels` at `size` points."""
    most = max(4, int(pixels / (0.6 * size * DPI / 72)))
    return text if len(text) <= most else f"{text[: most - 1]}…"
