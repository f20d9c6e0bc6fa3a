"""Writes the figures of a paper: each as PDF, PNG or SVG, with its numbers as CSV next to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ichx.errors import InvalidInputError
from ichx.evaluation.subgroup_scores import Unit
from ichx.files import atomic_write
from ichx.labels import ANY, LABELS
from ichx.publish import figure_data as data
from ichx.publish import figure_drawing as drawing
from ichx.publish.example_slices import example_figure, example_slices
from ichx.publish.figure_style import FigureFormat, paper_style, save_figure
from ichx.publish.subject import PublishedPredictions
from ichx.text import csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ichx.project import Project

DIGITS = "%.10g"
"""Format of numbers in a CSV."""


@dataclass(frozen=True)
class FigureRequest:
    """What to write."""

    out: Path
    """Folder of the files."""
    format: FigureFormat = "pdf"
    label: str = ANY
    """The label of figures of one label."""
    fields: Sequence[str] = ()
    """Fields of subgroups; none for those of a report."""
    unit: Unit = "study"
    """What curves and subgroups count."""


@dataclass(frozen=True)
class WrittenFigures:
    """The files, and what is missing in them."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


_CURVES = (
    ("roc", data.roc_table, drawing.ROC),
    ("precision-recall", data.precision_recall_table, drawing.PRECISION_RECALL),
    ("reliability", data.reliability_table, drawing.RELIABILITY),
    ("decision-curve", data.decision_table, drawing.DECISION),
)


def write_figures(
    project: "Project",
    published: PublishedPredictions,
    request: FigureRequest,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WrittenFigures:
    """Write all figures: curves of one label in the width of a column, the others in that of a page.

    Args:
        project: The open project.
        published: The predictions.
        request: Folder, format, label, subgroups.
        progress: Receives finished and all figures.

    Raises:
        InvalidInputError: The label or a field of subgroups is unknown.
        NotReadyError: No slice has a value of a field.
        StorageError: A file cannot be written.
    """
    if request.label not in LABELS:
        raise InvalidInputError(f"Unknown label: {request.label!r}.", f"Use one of {', '.join(LABELS)}.")
    written, notes, total = list[Path](), list[str](), len(_CURVES) + 2

    def write(name: str, table: pd.DataFrame, draw: "Callable[[], Figure]") -> None:
        figure_path = request.out / f"{name}.{request.format}"
        with paper_style():
            save_figure(draw(), figure_path)
        written.extend((figure_path, write_csv(request.out / f"{name}.csv", table)))

    # the subgroups first: an unknown field is reported before anything is written
    groups, left_out = data.subgroup_table(published, request.fields, request.label, request.unit)
    notes += left_out
    for done, (name, table_of, kind) in enumerate(_CURVES):
        progress(done, total)
        table = table_of(published, LABELS, request.unit)
        absent = [label for label in LABELS if label not in set(table["label"])]
        if absent:
            notes.append(f"{name}: no curve of {', '.join(absent)}, which always or never occurs")
        one = table[table["label"] == request.label]
        if len(one):
            write(name, one, partial(drawing.curve_figure, one, kind, [request.label]))
        if len(table):
            write(f"{name}-labels", table, partial(drawing.curve_figure, table, kind, LABELS))
    progress(len(_CURVES), total)
    write("subgroups", groups, partial(drawing.forest_figure, groups, request.label, request.unit))
    progress(len(_CURVES) + 1, total)
    examples = example_slices(project, published, request.label)
    notes += examples.notes
    if examples.images:
        write("slices", examples.table, partial(example_figure, examples, request.label))
    progress(total, total)
    return WrittenFigures(tuple(written), tuple(notes))


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """Write the numbers of a figure; texts from headers cannot be formulas of a spreadsheet."""
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    safe = {str(name): table[name].map(lambda value: csv_text(str(value))) for name in texts}
    with atomic_write(path, "the data of a figure") as draft:
        table.assign(**safe).to_csv(draft, index=False, float_format=DIGITS, lineterminator="\n")
    return path
