"""Exports the networks of folds for other programs: ONNX, torch.export, or weights with their recipe.

ONNX and torch.export files contain the window step: their input is HU. The preprocessing before it is described in the
file. Each file is read back and compared with the network before it is renamed to its final name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ichx.errors import InvalidInputError, MissingDependencyError, UnsupportedError
from ichx.files import atomic_write, check_writable
from ichx.inference.export_formats import SUFFIXES, write_export
from ichx.inference.export_series import series_model
from ichx.inference.export_slices import slice_model
from ichx.inference.trained import Trained, find_trained
from ichx.plugins.licences import licence_notice

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks

TOLERANCE: Final = 1e-4
"""Largest allowed difference between probabilities of the exported and the original network."""

WRITE_REMEDY: Final = "Free some space, or choose another --out."


@dataclass(frozen=True)
class ExportRequest:
    """What `export_experiment` writes."""

    format: str
    """One of `SUFFIXES`."""
    folds: Sequence[int] | None = None
    """The folds to export; None for all finished ones."""
    out: Path | None = None
    """File name, which gets the fold number if there are several; None for one in the experiment's folder."""
    features: bool = False
    """Pooled features are an output, too."""


@dataclass(frozen=True)
class ExportedNetwork:
    """An exported file; its probabilities differ from the original's by at most `difference`."""

    fold: int
    path: Path
    bytes: int
    difference: float
    compared: int
    """Number of slices or series that were compared."""
    unit: str = "slices"
    """`slices`, or `series` of a sequence experiment."""


def export_experiment(
    project: "Project", number: int, request: ExportRequest, *, callbacks: "Callbacks"
) -> list[ExportedNetwork]:
    """Write each finished fold of an experiment to a file.

    Args:
        project: The open project.
        number: The experiment.
        request: Format, folds and files.
        callbacks: Receives progress and notes.

    Raises:
        InvalidInputError: The format is unknown, `out` has another suffix, or features are requested of a sequence
            experiment or as weights.
        MissingDependencyError: ONNX libraries are not installed.
        UnsupportedError: The exported network differs from the original, or has no pooled features.
        StorageError: A file cannot be written.
    """
    _check(request)
    trained = find_trained(project, number, request.folds)
    if trained.experiment.members and request.features:
        raise InvalidInputError(
            f"Experiment {number} reads the outputs of other experiments and has no pooled features.",
            "Leave out --features.",
        )
    notice = licence_notice(trained.plugin, trained.recipe)
    if notice:
        callbacks.note(notice)
    suffix, out = SUFFIXES[request.format], request.out
    several = trained.experiment.folds > 1 if out is None else len(trained.weights) > 1
    if out is None:
        out = project.workspace.experiment_files(number).export(suffix)
    paths = {fold: out.with_name(f"{out.stem}-fold-{fold}{out.suffix}") if several else out for fold in trained.weights}
    for path in paths.values():
        check_writable(path, "the export", remedy=WRITE_REMEDY)
    written = []
    for done, (fold, path) in enumerate(paths.items()):
        callbacks.phase(f"exporting fold {fold}", done, len(paths))
        written.append(_export(project, trained, fold, request, path))
    return written


def _check(request: ExportRequest) -> None:
    format, out = request.format, request.out
    if format not in SUFFIXES:
        raise InvalidInputError(f"Unknown format {format!r}.", f"Use one of {', '.join(SUFFIXES)}.")
    if out is not None and out.suffix != SUFFIXES[format]:
        raise InvalidInputError(
            f"{out} does not have the suffix of {format}.", f"Use the suffix {SUFFIXES[format]} or another --format."
        )
    if request.features and format == "safetensors":
        raise InvalidInputError(
            "A file of weights has no outputs.", "Leave out --features, or use --format onnx or torch-export."
        )
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Export to ONNX needs {', '.join(missing)}.", "Install them: pip install 'ichx[export]'."
        )


def _export(project: "Project", trained: Trained, fold: int, request: ExportRequest, path: Path) -> ExportedNetwork:
    if trained.experiment.members:
        model = series_model(project, trained, fold)
    else:
        model = slice_model(trained, fold, features=request.features)
    with atomic_write(path, "the export", remedy=WRITE_REMEDY) as draft:
        difference, compared = write_export(model, request.format, draft)
        if not difference <= TOLERANCE:
            raise UnsupportedError(
                f"Probabilities of fold {fold} as {request.format} differ by up to {difference:.2g} from the "
                f"original's, more than {TOLERANCE:g}. Nothing was written.",
                "Use another --format.",
            )
    unit = "series" if trained.experiment.members else "slices"
    return ExportedNetwork(fold, path, path.stat().st_size, difference, compared, unit)
