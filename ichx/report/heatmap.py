"""Where a network looked: Grad-CAM by hooks on the last spatial feature map, or the masks of one that predicts them.

Selvaraju et al. 2017, arXiv 1610.02391: the map's channels, weighted by the mean gradient of a label's logit over the
places, summed, and cut at 0. Not for choosing slices or for colours.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ichx.errors import IchxError


@dataclass(frozen=True)
class HeatMaps:
    """`maps` (N, L, h, w) float32 of N images and L labels, 0 and more; `logits` (N, L) of the same pass."""

    maps: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True)
class SpatialLayer:
    """The module called `name`, whose output has places: in `layout` `nchw`, `nhwc` or `tokens`.

    Of tokens, the first `prefix` have no place. `edge` is the number of places along a side; images are square.
    """

    name: str
    layout: str
    edge: int
    prefix: int = 0

    def spatial(self, output: Tensor) -> Tensor:
        """Return the module's output as (N, C, edge, edge)."""
        if self.layout == "nchw":
            return output
        if self.layout == "nhwc":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :]
        return tokens.transpose(1, 2).reshape(len(output), -1, self.edge, self.edge)


def last_spatial_layer(model: nn.Module, pixels: int, channels: int = 3) -> SpatialLayer:
    """Return the last module of `model` whose output has places that the logits of a `pixels` image depend on.

    The image has `channels`. A vision transformer's last block, of which only the class token counts, is thus not
    taken, but what it reads. The layer is one of the architecture: it serves other weights of the same network.
    Raises `IchxError` where there is none.
    """
    seen: list[tuple[SpatialLayer, Tensor]] = []
    prefix = int(getattr(model, "num_prefix_tokens", 0))

    names = {module: name for name, module in model.named_modules() if module is not model}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not isinstance(module, nn.Dropout | nn.Identity):
            layer = _layout(names[module], output, pixels, prefix)
            if layer is not None and output.requires_grad:
                seen.append((layer, output))

    handles = [module.register_forward_hook(note) for module in names]
    try:
        with _frozen(model), torch.enable_grad():
            image = torch.rand((1, channels, pixels, pixels), generator=torch.Generator().manual_seed(0))
            logits = model(image.requires_grad_())
            outputs = [output for _, output in seen]
            gradients = torch.autograd.grad(logits.sum(), outputs, allow_unused=True) if outputs else ()
    finally:
        for handle in handles:
            handle.remove()
    for (layer, _), gradient in zip(reversed(seen), reversed(gradients), strict=True):
        if gradient is not None and bool(layer.spatial(gradient).abs().sum() > 0):
            return layer
    raise IchxError(
        "this network has no feature map with places, so there is no heat map", "its slices are shown without"
    )


def grad_cam(model: nn.Module, layer: SpatialLayer, images: Tensor) -> HeatMaps:
    """Return the heat maps of `images` (N, C, H, W) for each of the model's logits.

    The pass goes once through the network up to `layer`, and back only from the logits to it.
    """
    kept: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept[:] = [output.detach().requires_grad_()]
        return kept[0].clone()  # what follows may work in place, which a leaf does not allow

    handle = model.get_submodule(layer.name).register_forward_hook(cut)
    try:
        with _frozen(model), torch.enable_grad():
            logits: Tensor = model(images)
            features = layer.spatial(kept[0].detach())
            maps = []
            for label in range(logits.shape[1]):
                (gradient,) = torch.autograd.grad(logits[:, label].sum(), kept[0], retain_graph=True)
                weight = layer.spatial(gradient).mean(dim=(2, 3), keepdim=True)
                maps.append(torch.relu((weight * features).sum(dim=1)))
    finally:
        handle.remove()
    return HeatMaps(torch.stack(maps, 1).float().numpy(), logits.detach().float().numpy())


def mask_maps(model: nn.Module, images: Tensor) -> HeatMaps:
    """Return what a network with masks says of each pixel of `images` (N, 3, H, W): (N, 6, H, W) probabilities.

    Those of the subtypes, and for `any` the largest of them.
    """
    with _frozen(model), torch.inference_mode():
        logits, masks = model(images, masks=True)
        subtypes = torch.sigmoid(masks.float())
    return HeatMaps(torch.cat([subtypes, subtypes.amax(1, keepdim=True)], 1).numpy(), logits.float().numpy())


def _layout(name: str, output: Tensor, pixels: int, prefix: int) -> SpatialLayer | None:
    """Return how `output` is laid out over the places of a square image, or None where it is not."""
    shape: Sequence[int] = output.shape
    if output.ndim == 4 and 1 < shape[2] == shape[3] <= pixels:
        return SpatialLayer(name, "nchw", shape[2])
    if output.ndim == 4 and 1 < shape[1] == shape[2] <= pixels:
        return SpatialLayer(name, "nhwc", shape[1])
    if output.ndim == 3 and shape[1] - prefix > 1:
        edge = math.isqrt(shape[1] - prefix)
        return SpatialLayer(name, "tokens", edge, prefix) if edge * edge == shape[1] - prefix else None
    return None


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let `model` predict as it does in inference, and ask for no gradient of its parameters."""
    training = model.training
    asked = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
        model.train(training)
