"""What is exported of a network over images: windows and network, with HU as input."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx import __version__
from ichx.cache.resize import fit_square
from ichx.ct.dicom import BRAIN_WINDOW
from ichx.inference.export_formats import ExportedModel
from ichx.inference.trained import Trained
from ichx.labels import LABELS
from ichx.loading.batch_reader import centre_crop
from ichx.phantom.study import make_study
from ichx.plugins.licences import licence_notice, weights_licence
from ichx.recipe import InputRecipe
from ichx.recipe_text import to_toml
from ichx.training.mean_network import trained_network
from ichx.training.pooled_features import last_layer
from ichx.training.weights import load_exactly
from ichx.training.window_step import WindowStep

Array = npt.NDArray[np.float32]

BATCHES: Final = (5, 1, 3)
"""Sizes of the batches that are compared."""


class HuNetwork(nn.Module):
    """Maps HU `(N, H, W)` float32 and header windows `(N, 2)` float32 to `(N, 6)` logits and probabilities."""

    def __init__(self, recipe: InputRecipe, network: nn.Module, *, features: bool = False) -> None:
        """Wrap `network`; with `features` the pooled features `(N, D)` are a third output."""
        super().__init__()
        self.window_step = WindowStep(recipe)
        self.network = network
        self._captured: list[torch.Tensor] | None = None
        if features:
            self._captured = []
            last_layer(network).register_forward_pre_hook(self._capture)

    def _capture(self, _: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        assert self._captured is not None
        self._captured.append(arguments[0].flatten(1))

    def forward(self, hu: torch.Tensor, windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits and the probabilities of the slices `hu`, and their features on request."""
        logits = self.network(self.window_step(hu, windows))
        found = logits, torch.sigmoid(logits)
        return found if self._captured is None else (*found, self._captured.pop())


def slice_model(trained: Trained, fold: int, *, features: bool = False) -> ExportedModel:
    """Return what is exported of a fold whose network reads images.

    Raises `CorruptFileError` if its weights do not fit; `UnsupportedError` if `features` are requested of a network
    that does not name its last layer.
    """

    def load(weights: Path) -> HuNetwork:
        network = trained_network(trained.recipe, trained.plugin.build)
        load_exactly(network, weights)
        return HuNetwork(trained.recipe.input, network, features=features).eval()

    module = load(trained.weights[fold])
    arrays = sample(trained.recipe.input)
    width = 0
    if features:
        with torch.inference_mode():
            width = module(*(torch.from_numpy(values[:1]) for values in arrays))[2].shape[1]
    return ExportedModel(
        module=module,
        network=module.network,
        load=load,
        inputs=("hu", "windows"),
        outputs=("logits", "probabilities", *(("features",) if features else ())),
        samples=[tuple(values[:count] for values in arrays) for count in BATCHES],
        description=_describe(trained, fold, width),
    )


def _describe(trained: Trained, fold: int, features: int) -> dict[str, Any]:
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
            **({"features": f"(N, {features}) float32, the input of the last layer"} if features else {}),
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


def sample(image: InputRecipe, count: int = 5) -> tuple[Array, Array]:
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
