"""A fold's network as a file for other programs: ONNX, torch.export, or weights that tell their recipe.

ONNX and torch.export hold the window step: HU go in. What is left to do before is told in the file. Each file is read
back and compared with the network before it takes its name.
"""

import contextlib
import json
import os
import secrets
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
from ichx.errors import IchxError
from ichx.evaluation.metric import probabilities
from ichx.inference.trained import Trained, find_trained
from ichx.labels import LABELS
from ichx.loading.loader import centre_crop
from ichx.phantom.study import make_study
from ichx.recipe import InputRecipe
from ichx.recipe_text import to_toml
from ichx.training.weights import load_exactly, save_weights
from ichx.training.window_step import WindowStep

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks

SUFFIXES: Final = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
"""The formats, and the suffix of each."""

TOLERANCE: Final = 1e-4
"""By how much a probability of the exported network may differ from that of the original."""

INPUTS: Final = ("hu", "windows")
OUTPUTS: Final = ("logits", "probabilities")

Tensors = tuple[torch.Tensor, torch.Tensor]
Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """A file that was written: on `compared` slices a probability was at most `difference` off the original's."""

    fold: int
    path: Path
    bytes: int
    difference: float
    compared: int


class HuNetwork(nn.Module):
    """HU `(N, H, W)` float32 and header windows `(N, 2)` float32 to `(N, 6)` logits and probabilities."""

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
    events: "Callbacks",
    folds: Sequence[int] | None = None,
    out: Path | None = None,
) -> list[Exported]:
    """Write the finished folds (`folds`: these) of experiment `number` as `format`, a file each, and return these.

    They are named `out`, with the fold in the name where there are several; by default they stand in the experiment's
    folder. Raises `IchxError` for an unknown format, missing libraries, and a file that predicts something else than
    the original.
    """
    if format not in SUFFIXES:
        raise IchxError(f"there is no format {format!r}", f"choose one of {', '.join(SUFFIXES)}")
    if out is not None and out.suffix != SUFFIXES[format]:
        raise IchxError(
            f"{out} is no name for {format}", f"let it end in {SUFFIXES[format]}, or choose another --format"
        )
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise IchxError(f"ONNX needs {', '.join(missing)}, which are not installed", "pip install 'ichx[export]'")
    trained = find_trained(project, number, folds)
    if trained.plugin.notice:
        events.note(trained.plugin.notice)
    many = trained.experiment.folds > 1 if out is None else len(trained.weights) > 1
    if out is None:
        out = project.workspace.experiment_files(number).export(SUFFIXES[format])
    written = []
    for done, fold in enumerate(trained.weights):
        events.phase(f"exporting fold {fold}", done, len(trained.weights))
        path = out.with_name(f"{out.stem}-fold-{fold}{out.suffix}") if many else out
        written.append(_export(trained, fold, format, path))
    return written


def described(trained: Trained, fold: int) -> dict[str, Any]:
    """Return what a user of the file must know: labels, input, what is to be done before, and where it comes from."""
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
            "windows": "(N, 2) float32, the centre and width in HU of each slice's own window; only where [-1, -1] is "
            "among `windows` do they count",
        },
        "outputs": {
            "logits": "(N, 6) float32, in the order of `labels`",
            "probabilities": "(N, 6) float32, the logistic function of the logits",
        },
        "preprocessing": preprocessing(image),
        "weights_licence": trained.plugin.weights_licence,
        "notice": trained.plugin.notice,
        "recipe": to_toml(recipe),
    }


def preprocessing(image: InputRecipe) -> list[str]:
    """Return what is left to do before the network sees a slice, step by step."""
    moved = (
        "move the image by whole pixels so that the centroid of its largest 8-connected component over -500 HU comes "
        "to the image's centre; fill with -1024 HU"
    )
    if image.centre == "series":
        moved += "; the centroid is the median over the slices of the series"
    steps = [
        "Hounsfield units: slope * stored + intercept, rounded, clamped to -1024..32767; padding is -1024",
        moved if image.centre != "none" else "",
        "pad to a square with -1024 HU, the image in its middle",
        f"resize to {image.size} x {image.size}, {image.resize} (as OpenCV does), rounded to whole HU",
        f"crop the middle {image.crop} x {image.crop}" if image.crop else "",
        "windows: the first WindowCenter and WindowWidth of the header; "
        f"{list(BRAIN_WINDOW)} where there is none or the width is not positive",
    ]
    return [step for step in steps if step]


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


def _export(trained: Trained, fold: int, format: str, path: Path) -> Exported:
    network = _network(trained, trained.weights[fold])
    told = described(trained, fold)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # the exporters print
                if format == "onnx":
                    run = _write_onnx(network, trained, draft, texts)
                elif format == "torch-export":
                    run = _write_program(network, trained, draft, told)
                else:
                    save_weights(draft, network.network, texts)
                    run = _runner(_network(trained, draft))
                difference, compared = _largest_difference(network, run, trained.recipe.input)
            if not difference <= TOLERANCE:
                raise IchxError(
                    f"fold {fold} as {format} gives probabilities that differ by up to {difference:.2g} from the "
                    f"original's, more than {TOLERANCE:g}: not written",
                    "choose another --format",
                )
            with draft.open("rb+") as handle:
                os.fsync(handle.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return Exported(fold, path, path.stat().st_size, difference, compared)
    except OSError as error:
        raise IchxError(
            f"cannot write {path}: {error.strerror or error}", "free some space, or choose another --out"
        ) from error


def _network(trained: Trained, weights: Path) -> HuNetwork:
    network = trained.plugin.build(trained.recipe, False)
    load_exactly(network, weights)
    whole = HuNetwork(trained.recipe.input, network)
    return whole.eval()


Run = Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], Arrays]


def _runner(module: Callable[..., Tensors]) -> Run:
    def run(hu: npt.NDArray[np.float32], windows: npt.NDArray[np.float32]) -> Arrays:
        with torch.inference_mode():
            logits, predicted = module(torch.from_numpy(hu), torch.from_numpy(windows))
        return logits.numpy(), predicted.numpy()

    return run


def _largest_difference(network: HuNetwork, run: Run, image: InputRecipe) -> tuple[float, int]:
    """Return the largest difference of a probability, NaN where one is none, over batches of several sizes."""
    hu, windows = sample(image)
    original = _runner(network)
    largest, compared = 0.0, 0
    for count in (len(hu), 1, 3):
        expected, found = original(hu[:count], windows[:count]), run(hu[:count], windows[:count])
        if found[0].shape != expected[0].shape:
            raise IchxError(
                f"the exported network gives {found[0].shape} logits for {count} slices", "choose another --format"
            )
        gaps = [float(np.abs(expected[1] - made).max()) for made in (found[1], probabilities(found[0]))]
        largest, compared = float(np.max([largest, *gaps])), compared + count
    return largest, compared


def _example(trained: Trained) -> Tensors:
    hu, windows = sample(trained.recipe.input, 2)
    return torch.from_numpy(hu), torch.from_numpy(windows)


def _dynamic() -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    return {name: {0: batch} for name in INPUTS}


def _write_program(network: HuNetwork, trained: Trained, path: Path, told: dict[str, Any]) -> Run:
    program = torch.export.export(network, _example(trained), dynamic_shapes=_dynamic())
    torch.export.save(program, path, extra_files={"ichx.json": json.dumps(told, indent=2)})
    return _runner(torch.export.load(path).module())


def _write_onnx(network: HuNetwork, trained: Trained, path: Path, texts: dict[str, str]) -> Run:
    import onnx
    import onnxruntime

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # both inputs share the batch
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
