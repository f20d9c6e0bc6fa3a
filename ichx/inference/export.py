"""Exports the networks of folds for other programs: ONNX, torch.export, or weights with their recipe.

ONNX and torch.export files contain the window step: their input is HU. The preprocessing before it is described in the
file. Each file is read back and compared with the network before it is renamed to its final name.
"""

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx import __version__
from ichx.cache.resize import fit_square
from ichx.ct.dicom import BRAIN_WINDOW
from ichx.errors import InvalidInputError, MissingDependencyError, UnsupportedError
from ichx.evaluation.metric import probabilities
from ichx.files import atomic_write, check_writable
from ichx.inference.trained import Trained, find_trained
from ichx.labels import LABELS
from ichx.loading.batch_reader import centre_crop
from ichx.phantom.study import make_study
from ichx.plugins.licences import licence_notice, weights_licence
from ichx.recipe import InputRecipe
from ichx.recipe_text import to_toml
from ichx.training.mean_network import trained_network
from ichx.training.weights import load_exactly, save_weights
from ichx.training.window_step import WindowStep

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks

SUFFIXES: Final = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
"""The suffix of each format."""

TOLERANCE: Final = 1e-4
"""Largest allowed difference between probabilities of the exported and the original network."""

WRITE_REMEDY: Final = "Free some space, or choose another --out."

INPUTS: Final = ("hu", "windows")
OUTPUTS: Final = ("logits", "probabilities")

Tensors = tuple[torch.Tensor, torch.Tensor]
Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class ExportedNetwork:
    """An exported file; on `compared` slices probabilities differ from the original's by at most `difference`."""

    fold: int
    path: Path
    bytes: int
    difference: float
    compared: int


class HuNetwork(nn.Module):
    """Maps HU `(N, H, W)` float32 and header windows `(N, 2)` float32 to `(N, 6)` logits and probabilities."""

    def __init__(self, recipe: InputRecipe, network: nn.Module) -> None:
        super().__init__()
        self.window_step = WindowStep(recipe)
        self.network = network

    def forward(self, hu: torch.Tensor, windows: torch.Tensor) -> Tensors:
        """Return the logits and the probabilities of the slices `hu`."""
        logits = self.network(self.window_step(hu, windows))
        return logits, torch.sigmoid(logits)


def export_experiment(
    project: "Project",
    number: int,
    *,
    format: str,
    callbacks: "Callbacks",
    folds: Sequence[int] | None = None,
    out: Path | None = None,
) -> list[ExportedNetwork]:
    """Write each finished fold of an experiment to a file.

    Args:
        project: The open project.
        number: The experiment.
        format: One of `SUFFIXES`.
        callbacks: Receives progress and notes.
        folds: The folds to export; None for all finished ones.
        out: File name, which gets the fold number if there are several; None for one in the experiment's folder.

    Raises:
        InvalidInputError: The format is unknown, or `out` has another suffix.
        MissingDependencyError: ONNX libraries are not installed.
        UnsupportedError: The exported network differs from the original.
        StorageError: A file cannot be written.
    """
    if format not in SUFFIXES:
        raise InvalidInputError(f"Unknown format {format!r}.", f"Use one of {', '.join(SUFFIXES)}.")
    if out is not None and out.suffix != SUFFIXES[format]:
        raise InvalidInputError(
            f"{out} does not have the suffix of {format}.", f"Use the suffix {SUFFIXES[format]} or another --format."
        )
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Export to ONNX needs {', '.join(missing)}.", "Install them: pip install 'ichx[export]'."
        )
    trained = find_trained(project, number, folds)
    if trained.experiment.members:
        raise UnsupportedError(
            f"Experiment {number} reads the outputs of experiments "
            f"{', '.join(map(str, trained.experiment.members))}, no images.",
            "Export these, or move the experiment to another workspace with `ichx exp export`.",
        )
    notice = licence_notice(trained.plugin, trained.recipe)
    if notice:
        callbacks.note(notice)
    several = trained.experiment.folds > 1 if out is None else len(trained.weights) > 1
    if out is None:
        out = project.workspace.experiment_files(number).export(SUFFIXES[format])
    paths = {fold: out.with_name(f"{out.stem}-fold-{fold}{out.suffix}") if several else out for fold in trained.weights}
    for path in paths.values():
        check_writable(path, "the export", remedy=WRITE_REMEDY)
    written = []
    for done, (fold, path) in enumerate(paths.items()):
        callbacks.phase(f"exporting fold {fold}", done, len(paths))
        written.append(_export(trained, fold, format, path))
    return written


def describe_export(trained: Trained, fold: int) -> dict[str, Any]:
    """Return what a user of the file must know: labels, input, preprocessing, provenance."""
    recipe = trained.recipe
    image = recipe.input
    return {
        "ichx": __version__,
        "experiment": trained.experiment.number,
        "name": trained.experiment.name,
        "fold": fold,
        "plugin": recipe.plugin,
        "labels": list(LABELS),
        "size": image.size,
        "crop": image.crop,
        "pixels": image.pixels,
        "windows": [list(window) for window in image.windows],
        "window_kind": image.window_kind,
        "normalize": image.normalize,
        "inputs": {
            "hu": f"({_hu_shape(image)}) float32, Hounsfield units",
            "windows": "(N, 2) float32, centre and width in HU of each slice's header window; used only if `windows` "
            "contains [-1, -1]",
        },
        "outputs": {
            "logits": "(N, 6) float32, in the order of `labels`",
            "probabilities": "(N, 6) float32, the logistic function of the logits",
        },
        "views": list(trained.experiment.views),
        "preprocessing": preprocessing(image),
        "weights_licence": weights_licence(trained.plugin, recipe),
        "notice": licence_notice(trained.plugin, recipe),
        "recipe": to_toml(recipe),
    }


def preprocessing(image: InputRecipe) -> list[str]:
    """Return the preprocessing before the network, step by step."""
    centring = (
        "move the image by whole pixels so that the centroid of its largest 8-connected component over -500 HU is "
        "at the image's centre; fill with -1024 HU"
    )
    if image.centre == "series":
        centring += "; the centroid is the median over the slices of the series"
    steps = [
        "Hounsfield units: slope * stored + intercept, rounded, clamped to -1024..32767; padding is -1024",
        centring if image.centre != "none" else "",
        _field(image),
        "pad to a square with -1024 HU, the image in the middle",
        f"resize to {image.size} x {image.size}, {image.resize} (as OpenCV does), rounded to whole HU",
        f"crop the middle {image.crop} x {image.crop}" if image.crop else "",
        _neighbours(image),
        "windows: the first WindowCenter and WindowWidth of the header; "
        f"{list(BRAIN_WINDOW)} if they are missing or the width is not positive",
    ]
    return [step for step in steps if step]


def _field(image: InputRecipe) -> str:
    """Return how the image is cropped in millimetres."""
    if not image.field:
        return ""
    what = f"crop the square of {image.field:g} mm in the middle by PixelSpacing, -1024 HU outside of the image"
    return f"{what}, and resample it to square pixels; without PixelSpacing keep the complete image"


def _neighbours(image: InputRecipe) -> str:
    """Return how the slices of one input are chosen."""
    if not image.neighbours:
        return ""
    ends = "its last slice is repeated" if image.ends == "repeat" else "slices are -1024 HU"
    order = f"{image.neighbours} before, the slice itself and {image.neighbours} after it"
    return f"stack the slices of one series along its normal: {order}; beyond the ends of the series {ends}"


def _hu_shape(image: InputRecipe) -> str:
    stacked = f"{image.slices}, " if image.neighbours else ""
    return f"N, {stacked}{image.pixels}, {image.pixels}"


def sample(image: InputRecipe, count: int = 5) -> Arrays:
    """Return HU and header windows (count, 2) of phantom slices as a network of `image` sees them.

    HU are (count, H, W), with neighbours (count, S, H, W).
    """
    study = make_study(1, 0, size=max(image.size, 64)).hu
    reach = np.arange(-image.neighbours, image.neighbours + 1)
    places = np.linspace(0, len(study) - 1, count).astype(int)[:, None] + reach
    chosen = study[places.clip(0, len(study) - 1).ravel()]
    hu = np.stack([centre_crop(fit_square(one, image.size, image.resize), image.pixels) for one in chosen])
    if image.neighbours:
        hu = hu.reshape(count, len(reach), *hu.shape[1:])
    windows = np.array([(40, 80), (35, 100), (80, 200), (600, 2800), BRAIN_WINDOW], np.float32)
    return hu.astype(np.float32), np.resize(windows, (count, 2))


def _export(trained: Trained, fold: int, format: str, path: Path) -> ExportedNetwork:
    network = _network(trained, trained.weights[fold])
    description = describe_export(trained, fold)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in description.items()}
    with atomic_write(path, "the export", remedy=WRITE_REMEDY) as draft:
        with contextlib.redirect_stdout(sys.stderr):  # the exporters print
            if format == "onnx":
                run = _write_onnx(network, trained, draft, texts)
            elif format == "torch-export":
                run = _write_program(network, trained, draft, description)
            else:
                save_weights(draft, network.network, texts)
                run = _runner(_network(trained, draft))
            difference, compared = _largest_difference(network, run, trained.recipe.input)
        if not difference <= TOLERANCE:
            raise UnsupportedError(
                f"Probabilities of fold {fold} as {format} differ by up to {difference:.2g} from the original's, more "
                f"than {TOLERANCE:g}. Nothing was written.",
                "Use another --format.",
            )
    return ExportedNetwork(fold, path, path.stat().st_size, difference, compared)


def _network(trained: Trained, weights: Path) -> HuNetwork:
    network = trained_network(trained.recipe, trained.plugin.build)
    load_exactly(network, weights)
    return HuNetwork(trained.recipe.input, network).eval()


Run = Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], Arrays]


def _runner(module: Callable[..., Tensors]) -> Run:
    def run(hu: npt.NDArray[np.float32], windows: npt.NDArray[np.float32]) -> Arrays:
        with torch.inference_mode():
            logits, predicted = module(torch.from_numpy(hu), torch.from_numpy(windows))
        return logits.numpy(), predicted.numpy()

    return run


def _largest_difference(network: HuNetwork, run: Run, image: InputRecipe) -> tuple[float, int]:
    """Return the largest difference of a probability over batches of several sizes, or NaN."""
    hu, windows = sample(image)
    original = _runner(network)
    largest, compared = 0.0, 0
    for count in (len(hu), 1, 3):
        expected, found = original(hu[:count], windows[:count]), run(hu[:count], windows[:count])
        if found[0].shape != expected[0].shape:
            raise UnsupportedError(
                f"The exported network returns logits of shape {found[0].shape} for {count} slices.",
                "Use another --format.",
            )
        gaps = [float(np.abs(expected[1] - other).max()) for other in (found[1], probabilities(found[0]))]
        largest, compared = float(np.max([largest, *gaps])), compared + count
    return largest, compared


def _example(trained: Trained) -> Tensors:
    hu, windows = sample(trained.recipe.input, 2)
    return torch.from_numpy(hu), torch.from_numpy(windows)


def _dynamic() -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    return {name: {0: batch} for name in INPUTS}


def _write_program(network: HuNetwork, trained: Trained, path: Path, description: dict[str, Any]) -> Run:
    program = torch.export.export(network, _example(trained), dynamic_shapes=_dynamic())
    torch.export.save(program, path, extra_files={"ichx.json": json.dumps(description, indent=2)})
    return _runner(torch.export.load(path).module())


def _write_onnx(network: HuNetwork, trained: Trained, path: Path, texts: dict[str, str]) -> Run:
    import onnx
    import onnxruntime

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # both inputs share the batch axis
        program = torch.onnx.export(
            network,
            _example(trained),
            dynamo=True,
            dynamic_shapes=_dynamic(),
            input_names=INPUTS,
            output_names=OUTPUTS,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_name, model.producer_version = "ichx", __version__
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(hu: npt.NDArray[np.float32], windows: npt.NDArray[np.float32]) -> Arrays:
        logits, predicted = session.run(list(OUTPUTS), dict(zip(INPUTS, (hu, windows), strict=True)))
        return logits, predicted

    return run
