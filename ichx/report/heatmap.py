"""Heat maps: Grad-CAM on the last spatial feature map of a network, or its predicted masks.

Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) weights the channels of a feature map by the mean gradient of a
label's logit over the positions, sums them and clips at 0. `ichx.report.gallery` selects the slices and draws the maps.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ichx.errors import UnsupportedError


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps of N images for L labels."""

    maps: npt.NDArray[np.float32]
    """`(N, L, h, w)`, not negative."""
    logits: npt.NDArray[np.float32]
    """`(N, L)` from the same forward pass."""


@dataclass(frozen=True)
class SpatialLayer:
    """A module of a network whose output has spatial positions."""

    name: str
    layout: Literal["nchw", "nhwc", "tokens"]
    edge: int
    """Number of positions along a side; images are square."""
    prefix: int = 0
    """Number of leading tokens without position, e.g. the class token."""

    def spatial(self, output: Tensor) -> Tensor:
        """Return the module's output as `(N, C, edge, edge)`."""
        if self.layout == "nchw":
            return output
        if self.layout == "nhwc":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :]
        return tokens.transpose(1, 2).reshape(len(output), -1, self.edge, self.edge)


def last_spatial_layer(model: nn.Module, pixels: int, channels: int = 3) -> SpatialLayer:
    """Return the last module whose output has spatial positions that influence the logits.

    In the last block of a vision transformer only the class token does, so an earlier layer is returned. The result
    depends on the architecture alone and serves all weights of it.

    Args:
        model: The network.
        pixels: Edge of its input image.
        channels: Channels of its input image.

    Raises:
        UnsupportedError: The network has no such module.
    """
    outputs: list[tuple[SpatialLayer, Tensor]] = []
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    names = {module: name for name, module in model.named_modules() if module is not model}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not isinstance(module, nn.Dropout | nn.Identity):
            layer = _layout(names[module], output, pixels, prefix)
            if layer is not None and output.requires_grad:
                outputs.append((layer, output))

    handles = [module.register_forward_hook(record) for module in names]
    try:
        with _frozen(model), torch.enable_grad():
            image = torch.rand((1, channels, pixels, pixels), generator=torch.Generator().manual_seed(0))
            logits = model(image.requires_grad_())
            tensors = [output for _, output in outputs]
            gradients = torch.autograd.grad(logits.sum(), tensors, allow_unused=True) if tensors else ()
    finally:
        for handle in handles:
            handle.remove()
    for (layer, _), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        if gradient is not None and bool(layer.spatial(gradient).abs().sum() > 0):
            return layer
    raise UnsupportedError(
        f"The network {type(model).__name__} has no spatial feature map.", "Use another network to get heat maps."
    )


def grad_cam(model: nn.Module, layer: SpatialLayer, images: Tensor) -> HeatMaps:
    """Return the Grad-CAM of `images` for each logit, from one forward pass.

    Args:
        model: The network.
        layer: The layer that `last_spatial_layer` returned for this architecture.
        images: `(N, C, H, W)` network input.
    """
    features: list[Tensor] = []

    def detach(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        features[:] = [output.detach().requires_grad_()]
        return features[0].clone()  # the next layer may work in place, which a leaf does not allow

    handle = model.get_submodule(layer.name).register_forward_hook(detach)
    try:
        with _frozen(model), torch.enable_grad():
            logits: Tensor = model(images)
            spatial = layer.spatial(features[0].detach())
            maps = []
            for label in range(logits.shape[1]):
                (gradient,) = torch.autograd.grad(logits[:, label].sum(), features[0], retain_graph=True)
                weight = layer.spatial(gradient).mean(dim=(2, 3), keepdim=True)
                maps.append(torch.relu((weight * spatial).sum(dim=1)))
    finally:
        handle.remove()
    return HeatMaps(torch.stack(maps, 1).float().numpy(), logits.detach().float().numpy())


def mask_maps(model: nn.Module, images: Tensor) -> HeatMaps:
    """Return the predicted masks of `images` `(N, C, H, W)` as `(N, 6, H, W)` probabilities.

    `any` gets the largest probability of the five subtypes.
    """
    with _frozen(model), torch.inference_mode():
        logits, masks = model(images, masks=True)
        subtypes = torch.sigmoid(masks.float())
    return HeatMaps(torch.cat([subtypes, subtypes.amax(1, keepdim=True)], 1).numpy(), logits.float().numpy())


def _layout(name: str, output: Tensor, pixels: int, prefix: int) -> SpatialLayer | None:
    """Return the layer of `output`, or None if it has no positions of a square image."""
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
    """Put `model` into inference mode without gradients of its parameters; restore its state at the end."""
    training = model.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        model.train(training)
