"""Windows: HU to the channels that a network or a person sees, in NumPy and in torch, equal to each other.

Linear: clip((hu - c) / w + 1/2, 0, 1). Sigmoid: 1 / (1 + exp(-(2 ln 254 / w)(hu - c))), which is 1/255 at c - w/2 and
254/255 at c + w/2. Always scaled by the window's own bounds, never by an image's. Not for normalization by a model.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from ichx.recipe import FILE_WINDOW

if TYPE_CHECKING:
    import torch

STEEPNESS: Final = 2 * math.log(254)
"""The sigmoid's slope at the centre, times 4 and the width."""


def windows_numpy(
    hu: npt.NDArray[Any], header_window: npt.ArrayLike, windows: Sequence[tuple[float, float]], kind: str
) -> npt.NDArray[np.float32]:
    """Return `hu` (..., H, W) seen through each of `windows`: (..., C, H, W) float32 in [0, 1].

    `windows` are (centre, width) in HU; (-1, -1) is the slice's header window, from `header_window` (..., 2).
    `kind` is `linear` or `sigmoid`. Raises `ValueError` for another kind.
    """
    header = np.asarray(header_window, np.float32)
    bounds = np.stack([header if tuple(w) == FILE_WINDOW else np.broadcast_to(w, header.shape) for w in windows], -2)
    bounds = bounds.astype(np.float32)[..., None, None]  # (..., C, 2, 1, 1)
    x = hu[..., None, :, :] - bounds[..., 0, :, :]
    x /= bounds[..., 1, :, :]
    if _is_sigmoid(kind):
        x *= np.float32(STEEPNESS)
        expit(x, out=x)
    else:
        x += np.float32(0.5)
        np.clip(x, 0, 1, out=x)
    return x


def window_bounds(windows: Sequence[tuple[float, float]]) -> "torch.Tensor":
    """Return `windows` as `windows_torch` takes them: (C, 2) float32 HU, NaN for the slice's own window."""
    import torch

    return torch.tensor([(math.nan, math.nan) if tuple(w) == FILE_WINDOW else w for w in windows], dtype=torch.float32)


def windows_torch(
    hu: "torch.Tensor",
    header_windows: "torch.Tensor",
    windows: "torch.Tensor | Sequence[tuple[float, float]]",
    kind: str,
    jitter: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Return `hu` (N, ..., H, W) seen through each of `windows`: (N, ..., C, H, W) float32 in [0, 1], on its device.

    `windows` are pairs, or the `window_bounds` of them on the same device, so that nothing has to be sent there.
    `header_windows` (N, 2) is the (centre, width) of each sample, used for (-1, -1) in `windows`. `jitter` (N, C, 2) is
    added to each window's centre, in HU, and multiplied with its width; a third column is the exponent of the result.
    Raises `ValueError` for a `kind` that is neither `linear` nor `sigmoid`.
    """
    import torch

    header = header_windows.to(hu.device, torch.float32, non_blocking=True)
    if not isinstance(windows, torch.Tensor):
        windows = window_bounds(windows).to(hu.device)
    centres, widths = torch.where(windows.isnan(), header[:, None], windows).unbind(2)  # (N, C) each
    if jitter is not None:
        moved = jitter.to(centres)
        centres, widths = centres + moved[..., 0], widths * moved[..., 1]
    per_channel = (hu.shape[0], *[1] * (hu.ndim - 3), windows.shape[0], 1, 1)
    x = hu.unsqueeze(-3).to(torch.float32) - centres.view(per_channel)
    x /= widths.view(per_channel)
    x = x.mul_(STEEPNESS).sigmoid_() if _is_sigmoid(kind) else x.add_(0.5).clamp_(0, 1)
    if jitter is not None and jitter.shape[-1] > 2:
        x.pow_(moved[..., 2].view(per_channel))
    return x


def _is_sigmoid(kind: str) -> bool:
    if kind not in ("linear", "sigmoid"):
        raise ValueError(f"a window is linear or sigmoid, not {kind!r}")
    return kind == "sigmoid"
