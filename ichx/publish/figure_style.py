"""The style of figures for papers: widths of a column and a page, fonts, colours, and files without dates.

The colours are those of reports: they are read from the style sheet of `ichx.report`. No figure distinguishes lines by
colour alone.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ichx.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FigureFormat = Literal["pdf", "png", "svg"]

COLUMN: Final = 89.0
"""Width of a column in mm, as Nature and the journals of RSNA print it."""
PAGE: Final = 183.0
"""Width of a page in mm."""
DOTS: Final = 600
"""Dots per inch of a PNG."""
FONT: Final = 7.0
"""Points of a text, 1 pt is 1/72 inch."""

INK: Final = "#1b2127"
QUIET: Final = "#56606b"
LINE: Final = "#d8dde3"
"""The report's colours of texts, quiet texts and grids."""

_SETTINGS: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so that files are the same everywhere
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT - 1,
    "ytick.labelsize": FONT - 1,
    "legend.fontsize": FONT - 1,
    "axes.linewidth": 0.6,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.color": INK,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # embedded TrueType, which journals and editors ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "ichx",
    "pdf.compression": 6,
    "path.simplify": False,
}
_METADATA: Final[dict[str, dict[str, Any]]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": "ichx", "Producer": None},
    "svg": {"Date": None, "Creator": "ichx"},
    "png": {"Software": "ichx"},
}
"""No dates: the same results give the same files."""


@cache
def series_colours() -> tuple[str, ...]:
    """Return the colours of reports on white paper, of the labels first."""
    text = (files("ichx.report") / "page.css").read_text(encoding="utf-8")
    light = text.partition("@media")[0]
    found = dict(re.findall(r"--series-(\d+): (#[0-9a-f]{6})", light))
    return tuple(found[str(number)] for number in range(len(found)))


@contextmanager
def paper_style() -> Iterator[None]:
    """Apply the style to figures that are created and saved inside."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = _SETTINGS
        mpl.rcParams.update(settings)
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of `width` x `height` mm, whose parts are arranged to fit."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 25.4, height / 25.4), layout="constrained", dpi=DOTS)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in its exact size, in the format of the suffix of `path`. Raises `StorageError`."""
    kind = path.suffix[1:]
    with atomic_write(path, "the figure") as draft:
        figure.savefig(draft, format=kind, dpi=DOTS, metadata=_METADATA[kind])
